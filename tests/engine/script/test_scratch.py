"""The copy of the folder that a script runs in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gradmend.engine.script import scratch
from gradmend.engine.script.scratch import copy_of, listing
from gradmend.errors import BadInput


def _folder(tmp_path: Path) -> Path:
    home = tmp_path / "proj"
    (home / "pkg").mkdir(parents=True)
    (home / "train.py").write_text("print(1)\n")
    (home / "pkg" / "model.py").write_text("x = 1\n")
    (home / ".git").mkdir()
    (home / ".git" / "HEAD").write_text("ref")
    (home / "__pycache__").mkdir()
    (home / "__pycache__" / "a.pyc").write_bytes(b"x")
    return home


def test_a_copy_holds_the_sources_and_is_gone_afterwards(tmp_path: Path) -> None:
    home = _folder(tmp_path)
    with copy_of(listing(home)) as work:
        # when the script writes into its copy
        (work / "train.py").write_text("gone")
        (work / "pkg" / "new.txt").write_text("new")
        assert (work / "pkg" / "model.py").read_text() == "x = 1\n"
        assert not (work / "__pycache__").exists()
    # then nothing of it has reached the folder
    assert (home / "train.py").read_text() == "print(1)\n"
    assert not (home / "pkg" / "new.txt").exists()
    assert not work.exists()


def test_large_files_full_folders_and_repositories_are_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _folder(tmp_path)
    monkeypatch.setattr(scratch, "LARGE_FILE", 1000)
    monkeypatch.setattr(scratch, "FULL_FOLDER", 3)
    (home / "data.bin").write_bytes(b"0" * 1000)
    (home / "images").mkdir()
    for number in range(3):
        (home / "images" / f"{number}.png").write_bytes(b"1")
    found = listing(home)
    assert {entry.name for entry in found.linked} == {".git", "data.bin", "images"}
    with copy_of(found) as work:
        assert (work / "data.bin").is_symlink()
        assert os.path.realpath(work / "images" / "1.png") == str(home / "images" / "1.png")
    assert (home / "images" / "1.png").exists()  # removing the copy follows no link


def test_beyond_the_limit_the_largest_are_linked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _folder(tmp_path)
    monkeypatch.setattr(scratch, "MOST_BYTES", 100)
    (home / "a.csv").write_bytes(b"0" * 90)
    (home / "b.csv").write_bytes(b"0" * 60)
    linked = {entry.name for entry in listing(home).linked}
    assert linked == {".git", "a.csv"}


def test_links_stay_links_to_what_they_meant(tmp_path: Path) -> None:
    home = _folder(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (home / "data").symlink_to("../elsewhere")
    with copy_of(listing(home)) as work:
        assert os.path.realpath(work / "data") == str(tmp_path / "elsewhere")


def test_a_home_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = _folder(tmp_path)
    monkeypatch.setattr(scratch, "MOST_FILES", 2)
    with pytest.raises(BadInput, match="more than 2 files"):
        listing(home)


def test_pipes_are_left_out(tmp_path: Path) -> None:
    home = _folder(tmp_path)
    os.mkfifo(home / "pipe")
    with copy_of(listing(home)) as work:
        assert not (work / "pipe").exists()
