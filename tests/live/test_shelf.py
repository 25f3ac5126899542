import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from gradmend.errors import BadInput
from gradmend.live import shelf as shelves
from gradmend.live.shelf import Shelf, pulse


def names(shelf: Shelf) -> list[str]:
    return [run.name for run in shelf.runs()]


def test_runs_are_found_as_they_appear_and_go(begin: Any, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "runs")  # not there yet
    assert (names(shelf), shelf.rows(), shelf.find("first")) == ([], [], None)
    begin("first")
    begin("second")
    (tmp_path / "runs" / "notes").mkdir()
    assert names(shelf) == ["first", "second"]
    shutil.rmtree(tmp_path / "runs" / "first")
    assert (names(shelf), shelf.find("first")) == (["second"], None)


def test_the_newest_stands_first_with_its_newest_loss(begin: Any, tmp_path: Path) -> None:
    begin("old", started_at="2026-01-01T00:00:00+00:00")
    begin("new", steps=0, started_at="2026-02-01T00:00:00+00:00")
    rows = Shelf(tmp_path / "runs").rows()
    assert [row.summary.name for row in rows] == ["new", "old"]
    assert rows[0].loss is None
    assert rows[1].loss == pytest.approx(2.0 * 2.718281828 ** (-9 / 50), rel=1e-6)


def test_a_run_is_its_own_shelf_and_its_neighbours_are_not_shown(
    begin: Any, tmp_path: Path
) -> None:
    begin("mine")
    begin("other")
    shelf = Shelf(tmp_path / "runs" / "mine")
    assert (shelf.only, names(shelf)) == ("mine", ["mine"])
    assert shelf.find("other") is None


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/etc", "../secret", "runs/first", "first/", "first\x00", "FIRST "]
)
def test_names_are_looked_up_and_never_made_into_paths(
    begin: Any, tmp_path: Path, name: str
) -> None:
    begin("first")
    shutil.copytree(tmp_path / "runs" / "first", tmp_path / "secret")
    assert Shelf(tmp_path / "runs").find(name) is None


def test_links_that_lead_out_are_not_followed(begin: Any, tmp_path: Path) -> None:
    # given a run outside, one that is a link to it, and one of whose files are links to it
    begin("first")
    secret, runs = tmp_path / "secret", tmp_path / "runs"
    shutil.copytree(runs / "first", secret)
    (runs / "link").symlink_to(secret)
    for name in ("rank-0.db", "manifest.json"):
        shutil.copytree(secret, runs / f"part-{name}")
        (runs / f"part-{name}" / name).unlink()
        (runs / f"part-{name}" / name).symlink_to(secret / name)
    (runs / "loop").symlink_to(runs / "loop")
    # and one that stays inside
    (runs / "latest").symlink_to(runs / "first")
    # then
    assert names(Shelf(runs)) == ["first", "latest"]


def test_a_file_is_no_shelf(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        Shelf(tmp_path / "file")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_no_text_is_left_out(begin: Any, tmp_path: Path) -> None:
    begin("first")
    shutil.copytree(tmp_path / "runs" / "first", tmp_path / "runs" / os.fsdecode(b"bad\xff"))
    assert names(Shelf(tmp_path / "runs")) == ["first"]


def test_only_what_changed_is_read_again(
    begin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    begin("done").finish()
    growing = begin("growing")
    read: list[str] = []
    real = shelves.list_runs
    monkeypatch.setattr(
        shelves, "list_runs", lambda folder: (read.append(folder.name), real(folder))[1]
    )
    shelf = Shelf(tmp_path / "runs")
    # when
    shelf.rows()
    assert sorted(read) == ["done", "growing"]
    read.clear()
    growing.steps()
    rows = {row.summary.name: row.summary.run.steps for row in shelf.rows()}
    # then
    assert read == ["growing"]
    assert rows == {"done": 10, "growing": 20}


def test_every_write_is_felt_in_the_pulse(begin: Any) -> None:
    training = begin()
    felt = [pulse(training.folder)]
    for _ in range(5):
        training.steps(3)
        felt.append(pulse(training.folder))
    training.finish()
    felt.append(pulse(training.folder))
    assert len(set(felt)) == len(felt)
    assert pulse(training.folder) == felt[-1]
    assert set(pulse(training.folder.with_name("nowhere"))) == {None}


def test_a_damaged_run_is_listed_with_its_problem(begin: Any, tmp_path: Path) -> None:
    begin("bad").finish()
    (tmp_path / "runs" / "bad" / "rank-0.db").write_bytes(b"no database" * 100)
    (row,) = Shelf(tmp_path / "runs").rows()
    assert "damaged" in row.summary.problem
