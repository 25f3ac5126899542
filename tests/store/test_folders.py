"""Runs that are there, and what only looks like one."""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from run_builder import names, walk, writing

from gradmend.errors import BadInput, GradmendError
from gradmend.records.finding import Severity
from gradmend.records.history import Event, RunFacts
from gradmend.store.errors import StoreError
from gradmend.store.folders import list_runs, new_folder, open_findings, ranks
from gradmend.store.manifest import Writer
from gradmend.store.reader import open_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "good"
    with writing(folder, name="good", status="finished", steps=300, started_at="2025") as writer:
        writer.columns("gradient", names(200), at=0)
        for step, row in enumerate(walk(300, 200)):
            writer.append("gradient", step, {"log10_rms": row})
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run that a test may spoil."""
    return shutil.copytree(made, tmp_path / "runs" / "good")


def manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sql(folder: Path, script: str) -> None:
    db = sqlite3.connect(folder / "rank-0.db")
    db.executescript(script)
    db.close()


def test_a_manifest_can_be_read_by_people(run: Path) -> None:
    content = json.loads((run / "manifest.json").read_text())
    assert content["schema"] == 1 and content["run"]["steps"] == 300


def test_a_finished_run_is_two_files_and_stays_so(run: Path) -> None:
    everything(run)
    assert sorted(file.name for file in run.iterdir()) == ["manifest.json", "rank-0.db"]


BAD: dict[str, tuple[Callable[[Path], Path | None], str]] = {
    "no folder": (lambda run: run / "nowhere", "there is no folder"),
    "a file": (lambda run: run / "rank-0.db", "there is no folder"),
    "not a run": (lambda run: run.parent, "is not a run: it has no manifest.json"),
    "newer": (lambda run: manifest(run, schema=2), "has schema 2, this gradmend reads 1"),
    "no schema": (lambda run: manifest(run, schema=None), "is damaged"),
    "odd facts": (lambda run: manifest(run, run=[1]), "is damaged"),
    "odd steps": (lambda run: manifest(run, run={"steps": "many"}), "steps is str, not int"),
    "odd models": (lambda run: manifest(run, run={"models": [1]}), "model's name"),
    "cut manifest": (lambda run: cut(run / "manifest.json", 0.5), "is damaged"),
    "empty manifest": (lambda run: cut(run / "manifest.json", 0), "is damaged"),
    "no text": (lambda run: fill(run / "manifest.json", b"\xff\xfe"), "is damaged"),
    "a list": (lambda run: fill(run / "manifest.json", b"[]"), "is damaged"),
    "deep": (lambda run: fill(run / "manifest.json", b"[" * 10**5), "is damaged"),
    "huge": (lambda run: fill(run / "manifest.json", b" " * (2 << 20)), "is damaged"),
    "no database": (lambda run: (run / "rank-0.db").unlink(), "no database of rank 0 yet"),
    "empty database": (lambda run: cut(run / "rank-0.db", 0), "no database of rank 0 yet"),
    "not SQLite": (lambda run: fill(run / "rank-0.db", b"text" * 9999), "is damaged"),
    "no tables": (lambda run: fresh(run, ""), "has no tables yet"),
    "foreign": (lambda run: fresh(run, "CREATE TABLE t (x)"), "is damaged"),
    "newer database": (lambda run: sql(run, "PRAGMA user_version = 9"), "has schema 9"),
    "no table": (lambda run: sql(run, "DROP TABLE part"), "is damaged"),
    "a view": (
        lambda run: sql(run, "DROP TABLE dropped; CREATE VIEW dropped AS SELECT 1"),
        "is damaged",
    ),
}


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def fresh(run: Path, script: str) -> None:
    (run / "rank-0.db").unlink()
    sql(run, f"PRAGMA page_size = 4096; CREATE TABLE x (y); DROP TABLE x; {script};")


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_run_is_told_in_one_line(case: str, run: Path) -> None:
    change, words = BAD[case]
    folder = change(run) or run
    with pytest.raises(BadInput) as caught:
        open_run(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def everything(folder: Path) -> None:
    reader = open_run(folder)
    reader.run, reader.tables(), reader.events(), reader.dropped_events()
    reader.table_columns("gradient")
    reader.series("gradient", "log10_rms", 0)
    reader.band("gradient", "log10_rms", 130)
    reader.profile("gradient", "log10_rms", 100)
    reader.matrix("gradient", "log10_rms", 50)
    reader.histograms("gradient", 0)
    reader.history()


@pytest.mark.parametrize("share", [i / 16 for i in range(16)] + [0.001, 0.999])
def test_a_database_cut_off_is_bad_input_or_what_is_left(share: float, run: Path) -> None:
    cut(run / "rank-0.db", share)
    try:
        everything(run)
    except GradmendError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("seed", range(20))
def test_a_database_with_bytes_changed(seed: int, run: Path) -> None:
    draw = random.Random(seed)
    data = bytearray((run / "rank-0.db").read_bytes())
    for _ in range(40):
        data[draw.randrange(len(data))] = draw.randrange(256)
    (run / "rank-0.db").write_bytes(data)
    try:
        everything(run)
    except GradmendError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE part SET columns = 1000000000",
        "UPDATE part SET columns = 0",
        "UPDATE part SET chunk = -1 WHERE chunk = 0",
        "UPDATE part SET chunk = 'x' WHERE chunk = 0",
        "UPDATE part SET cells = 'text'",
        "UPDATE part SET cells = zeroblob(20000000) WHERE id = 1",
        "UPDATE part SET cells = x'00'",
        "UPDATE piece SET rows = 1000000000",
        "UPDATE piece SET rows = -1",
        "UPDATE piece SET rows = 'many'",
        "UPDATE piece SET steps = x''",
        "UPDATE bucket SET level = 62; DELETE FROM piece",
        "UPDATE bucket SET first_step = 'x'; DELETE FROM piece",
        "DELETE FROM columns WHERE position = 5",
        "UPDATE columns SET record = '{\"name\": 3}'",
        'UPDATE columns SET record = \'{"name": "a", "shape": ["x"]}\'',
        "UPDATE columns SET record = '{}'",
        "DELETE FROM columns",
        "DELETE FROM meta",
        "INSERT INTO event (step, kind, record) VALUES ('x', 'y', '{}')",
        "INSERT INTO event (step, kind, record) VALUES (1, 'y', 'null')",
    ],
)
def test_hostile_contents_are_bad_input(script: str, run: Path) -> None:
    everything(run)
    sql(run, script)
    with pytest.raises(BadInput) as caught:
        everything(run)
    assert "\n" not in str(caught.value)


def test_status_of_a_run_whose_writer_is_gone(tmp_path: Path) -> None:
    with writing(tmp_path / "run") as writer:
        writer.columns("t", names(1), at=0)
        writer.flush()
        assert open_run(tmp_path / "run").run.status == "running"
        here = Writer.here()
        assert not here.dead
        for pid, began, place, status in (
            (2**22 + 1, None, here.place, "killed"),  # no system counts so far
            (2**22 + 1, None, "elsewhere", "running"),
            (here.pid, (here.began or 0) + 1, here.place, "killed" if here.began else "running"),
            (here.pid, None, here.place, "running"),
            (-1, None, here.place, "running"),
            ("x", None, here.place, "running"),
        ):
            manifest(tmp_path / "run", writer={"pid": pid, "began": began, "place": place})
            assert open_run(tmp_path / "run").run.status == status
        manifest(tmp_path / "run", writer=None)
        assert open_run(tmp_path / "run").run.status == "running"


def test_new_folders(tmp_path: Path) -> None:
    base = tmp_path / "a" / "runs"
    assert [new_folder(base, "x").name for _ in range(3)] == ["x", "x-2", "x-3"]
    (base / "y").write_text("a file")
    assert new_folder(base, "y").name == "y-2"
    with pytest.raises(StoreError, match="no folder can be made"):
        new_folder(base / "y", "x")


def finding(kind: str, code: str, severity: str, where: str = "") -> Event:
    facts = {"code": code, "name": code.lower(), "severity": severity}
    return Event(step=0, kind=kind, where=where, facts=facts)


def test_open_findings() -> None:
    begins, clears = "finding-begins", "finding-clears"
    events = [
        finding(begins, "A", "warning", "x"),
        finding(begins, "A", "warning", "y"),
        finding(clears, "A", "warning", "x"),
        finding(clears, "B", "error"),
        finding(begins, "B", "error"),
        finding(begins, "C", "error"),
        finding(clears, "C", "error"),
        Event(step=0, kind="note"),
    ]
    found = [(event.facts["code"], event.where) for event in open_findings(events)]
    assert found == [("A", "y"), ("B", "")]


def test_runs_are_listed_with_their_worst(run: Path) -> None:
    runs = run.parent
    with writing(runs / "bad", started_at="2024", models=("M",)) as writer:
        writer.event(finding("finding-begins", "W", "warning"))
        writer.event(finding("finding-begins", "E1", "error"))
        writer.event(finding("finding-begins", "E2", "error"))
        writer.event(finding("finding-begins", "?", "gruesome"))
        writer.flush()
        (runs / "empty").mkdir()
        (runs / "file").write_text("x")
        (runs / "broken").mkdir()
        (runs / "broken" / "manifest.json").write_text("{")
        (runs / "headless").mkdir()
        (runs / "headless" / "rank-0.db").touch()
        found = list_runs(runs)
    assert [summary.name for summary in found] == ["broken", "headless", "bad", "good"]
    broken, headless, bad, good = found
    assert "damaged" in broken.problem and "not a run" in headless.problem
    assert bad.open_findings == {Severity.ERROR: 2, Severity.WARNING: 1, Severity.NOTE: 1}
    assert (bad.worst, bad.run.models, bad.run.status) == ("e1", ("M",), "running")
    assert (good.worst, good.open_findings, good.run.status) == ("", {}, "finished")
    assert good.bytes == sum(file.stat().st_size for file in run.iterdir())
    assert [summary.name for summary in list_runs(run)] == ["good"]
    assert list_runs(runs / "empty") == []
    with pytest.raises(BadInput, match="cannot be listed"):
        list_runs(runs / "nowhere")


def test_circumstances_of_a_newer_minor_version(run: Path) -> None:
    manifest(run, run={"name": "n", "invented_later": 1, "seconds": None, "budget": 1})
    facts = open_run(run).run
    assert (facts.name, facts.budget) == ("n", 1) and facts.seconds != facts.seconds
    assert facts.steps == RunFacts().steps


def test_the_ranks_of_a_run_are_those_that_have_written(tmp_path: Path) -> None:
    for name in ("rank-10.db", "rank-0.db", "rank-2.db", "rank-02.db", "rank-x.db", "rank-.db",
                 "rank-1.db-wal", "rank-\u0663.db"):  # fmt: skip
        (tmp_path / name).touch()
    assert ranks(tmp_path) == (0, 2, 10)
    assert ranks(tmp_path / "nowhere") == ()
