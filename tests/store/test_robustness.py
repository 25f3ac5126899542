"""Disks that fill up, folders that go, readers that sleep, processes that are killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_builder import names

from gradmend.errors import BadInput
from gradmend.records.exponents import Exponents
from gradmend.records.history import Event, RunFacts
from gradmend.store import claim, layout, retention
from gradmend.store.errors import StoreError
from gradmend.store.filesystem import shares_memory
from gradmend.store.reader import open_run
from gradmend.store.writer import RunWriter


def python(code: str, *args: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def write_some(writer: RunWriter, begin: int, end: int) -> None:
    for step in range(begin, end):
        writer.append("t", step, {"a": np.random.default_rng(step).normal(size=200)})
    writer.flush()


def started(folder: Path) -> RunWriter:
    writer = RunWriter.create(folder, RunFacts())
    writer.columns("t", names(200), at=0)
    write_some(writer, 0, 70)
    return writer


def steps_in(folder: Path) -> list[int]:
    steps = open_run(folder).series("t", "a", 0)[0].tolist()
    assert isinstance(steps, list)
    return steps


def no_room(writer: RunWriter) -> None:
    (pages,) = writer._db.execute("PRAGMA page_count").fetchone()
    writer._db.execute(f"PRAGMA max_page_count = {pages}")


def read_only(writer: RunWriter) -> None:
    writer._db.execute("PRAGMA query_only = ON")


def removed(writer: RunWriter) -> None:
    assert writer.path
    shutil.rmtree(writer.path.parent)


def replaced(writer: RunWriter) -> None:
    assert writer.path
    shutil.copy(writer.path, writer.path.parent / "copy")
    (writer.path.parent / "copy").replace(writer.path)


@pytest.mark.parametrize("trouble", [no_room, read_only, removed, replaced])
def test_trouble_is_one_error_and_the_run_goes_on_in_memory(
    trouble: object, tmp_path: Path
) -> None:
    writer = started(tmp_path / "run")
    writer.event(Event(step=3, kind="look"))
    writer.flush()
    trouble(writer)  # type: ignore[operator]
    with pytest.raises(StoreError, match=r"run cannot be written \(.+\)"):
        write_some(writer, 70, 180)
    with pytest.raises(StoreError):
        writer.flush()
    writer.event(Event(step=180, kind="note"))
    writer.histogram("t", 180, {0: Exponents(counts={1: 2})})
    memory = writer.into_memory()
    writer.close()
    writer.close()
    if trouble is not removed:
        assert steps_in(tmp_path / "run") == list(range(70))
    reader = memory.reader()
    write_some(memory, 181, 183)
    begin = 70 if trouble is removed else 0
    steps = reader.series("t", "a", 199)[0].tolist()
    assert steps == [*range(begin, 180), 181, 182]
    assert [event.step for event in reader.events()][-1] == 180
    assert len(reader.histograms("t", 0)) == 1
    memory.close()


def test_a_flush_that_failed_is_tried_again(tmp_path: Path) -> None:
    writer = started(tmp_path / "run")
    read_only(writer)
    with pytest.raises(StoreError):
        write_some(writer, 70, 150)
    writer._db.execute("PRAGMA query_only = OFF")
    writer.flush()
    writer.close()
    assert steps_in(tmp_path / "run") == list(range(150))


def test_rows_do_not_pile_up_when_nothing_can_be_written(tmp_path: Path) -> None:
    writer = started(tmp_path / "run")
    read_only(writer)
    failed = 0
    for step in range(70, 500):
        try:
            writer.append("t", step, {"a": [step]})
        except StoreError:
            failed += 1
    assert failed > 200 and len(writer._buffers["t"]) == 128
    writer._db.execute("PRAGMA query_only = OFF")
    writer.close()
    assert len(steps_in(tmp_path / "run")) == 192


def test_the_last_flush_fails_only_if_that_is_news(tmp_path: Path) -> None:
    writer = started(tmp_path / "run")
    writer.append("t", 70, {"a": [1]})
    removed(writer)
    with pytest.raises(StoreError, match="removed"):
        writer.close()
    writer.close()


def test_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PATIENCE", 0.05)
    writer = started(tmp_path / "run")
    assert writer.path
    other = sqlite3.connect(writer.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        write_some(writer, 70, 71)
    other.execute("ROLLBACK")
    other.close()
    writer.close()
    assert len(steps_in(tmp_path / "run")) == 71


def test_a_failure_within_a_transaction_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a flush."""
    writer = started(tmp_path / "run")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retention, "add_bucket", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_some(writer, 70, 150)
    assert steps_in(tmp_path / "run") == list(range(70))
    writer.close()
    assert steps_in(tmp_path / "run") == list(range(150))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from gradmend.records.history import Column, RunFacts
from gradmend.store.errors import StoreError
from gradmend.store.writer import RunWriter
writer = RunWriter.create(Path(sys.argv[1]), RunFacts())
writer.columns("t", [Column(name=f"p{i}") for i in range(200)], at=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
draw = np.random.default_rng(0)
for step in range(10000):
    try:
        writer.append("t", step, {"a": draw.normal(size=200)})
        if step % 10 == 9:
            writer.flush()
            done = step
    except StoreError as error:
        print(done, error)
        break
writer.close()
"""
    child = python(code, tmp_path / "run")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    done, message = out.split(" ", 1)
    assert "cannot be written" in message and len(out.splitlines()) == 1
    assert 100 < int(done) < 9000
    assert steps_in(tmp_path / "run") == list(range(int(done) + 1))


def test_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StoreError, match="cannot be written"):
            RunWriter.create(folder, RunFacts())
    assert (tmp_path / "file").read_text() == "x"


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    started(folder).close()
    before = sorted((f.name, f.read_bytes()) for f in folder.iterdir())
    with pytest.raises(BadInput, match="holds a run already"):
        RunWriter.create(folder, RunFacts())
    (folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match=r"holds a run already \(rank-0.db\)"):
        RunWriter.create(folder, RunFacts())
    assert [f for f in before if f[0] != "manifest.json"] == sorted(
        (f.name, f.read_bytes()) for f in folder.iterdir()
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match=r"it holds thesis.tex"):
        RunWriter.create(tmp_path / "home", RunFacts())


def test_ranks_share_a_folder_in_any_order(tmp_path: Path) -> None:
    for rank in (1, 0, 2):
        writer = RunWriter.create(tmp_path / "run", RunFacts(rank=rank), rank=rank)
        writer.columns("t", names(1), at=0)
        writer.append("t", 0, {"a": [rank]})
        writer.close()
        with pytest.raises(BadInput):
            RunWriter.create(tmp_path / "run", RunFacts(), rank=rank)
    for rank in range(3):
        reader = open_run(tmp_path / "run", rank=rank)
        assert reader.profile("t", "a", 0).tolist() == [rank]
        assert reader.run.rank == rank


def test_a_sleeping_reader_hinders_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = started(tmp_path / "run")
    assert writer.path
    sleeper = sqlite3.connect(f"{writer.path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    sleeper.execute("BEGIN")
    asleep = sleeper.execute("SELECT COUNT(*) FROM piece").fetchone()
    for step in range(70, 1000, 10):
        write_some(writer, step, step + 10)
    assert sleeper.execute("SELECT COUNT(*) FROM piece").fetchone() == asleep
    assert len(steps_in(tmp_path / "run")) == 1000
    # Its log is not let grow for ever...
    log = writer.path.with_name("rank-0.db-wal")
    monkeypatch.setattr(claim, "LARGEST_LOG", log.stat().st_size - 1)
    with pytest.raises(StoreError, match="keeps it open for reading"):
        write_some(writer, 1000, 1001)
    # ... and once the reader is gone, all is well.
    sleeper.close()
    writer.flush()
    assert log.stat().st_size < 1 << 20
    assert len(steps_in(tmp_path / "run")) == 1001
    writer.close()


WRITER = """
import sys
import numpy as np
from pathlib import Path
from gradmend.records.history import Column, RunFacts
from gradmend.store import claim, writer
from gradmend.store.layout import Caps
if sys.argv[2] == "no log":
    claim.shares_memory = lambda folder: False
run = writer.RunWriter.create(Path(sys.argv[1]), RunFacts(), caps=Caps(recent_rows=1 << 20))
run.columns("t", [Column(name=f"p{i}") for i in range(300)], at=0)
step = 0
while True:
    for _ in range(7):
        run.append("t", step, {"a": np.full(300, step), "b": np.full(300, -step)})
        step += 1
    run.flush()
    print(step, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize("journal", ["log", "no log"])
@pytest.mark.parametrize(
    "patience", [0.05, *(pytest.param(0.1 * i, marks=pytest.mark.slow) for i in range(1, 9))]
)
def test_killed_while_it_writes_and_is_read(tmp_path: Path, journal: str, patience: float) -> None:
    child = python(WRITER, tmp_path / "run", journal)
    assert child.stdout and child.stderr
    try:
        acknowledged = int(child.stdout.readline())
        until = time.monotonic() + patience
        seen = 0
        while time.monotonic() < until:
            seen = check_rows(tmp_path / "run", at_least=max(seen, acknowledged))
        os.kill(child.pid, signal.SIGKILL)
        # Not waited for yet: a dead child that nobody collected is dead all the same.
        acknowledged = int(child.stdout.read().split("\n")[-2])
        seen = check_rows(tmp_path / "run", at_least=acknowledged)
        assert seen <= acknowledged + 7
        assert open_run(tmp_path / "run").run.status == "killed"
    finally:
        child.kill()
        child.communicate()
    assert open_run(tmp_path / "run").run.status == "killed"
    db = sqlite3.connect(tmp_path / "run" / "rank-0.db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    (mode,) = db.execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal" if journal == "log" else "delete")
    db.close()


def check_rows(folder: Path, at_least: int) -> int:
    """Rows of a reader's moment are whole: no gap, and both quantities agree."""
    table = open_run(folder).history(most_rows=10**6)["t"]
    count = len(table)
    assert count >= at_least and count % 7 == 0
    assert table.steps.tolist() == list(range(count))
    assert table["a"][:, 299].tolist() == list(range(count))
    assert table["b"][:, 0].tolist() == [-float(step) for step in range(count)]
    return count


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_journal_left_behind_is_rolled_back(tmp_path: Path) -> None:
    """Killed in the middle of a transaction that had begun to overwrite the database."""
    code = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 2")
db.execute("BEGIN")
db.execute("UPDATE part SET cells = zeroblob(20000)")
db.execute("DELETE FROM event")
os.kill(os.getpid(), signal.SIGKILL)
"""
    db = layout.create(claimed(tmp_path), wal=False)
    writer = RunWriter(db, tmp_path / "rank-0.db", RunFacts(), 0, layout.ON_DISK)
    writer.columns("t", names(200), at=0)
    write_some(writer, 0, 500)
    writer.close()
    python(code, tmp_path / "rank-0.db").communicate()
    assert (tmp_path / "rank-0.db-journal").stat().st_size > 0
    assert steps_in(tmp_path) == list(range(500))


def claimed(folder: Path) -> Path:
    path = folder / "rank-0.db"
    path.touch()
    return path


def test_without_shared_memory_the_plain_journal_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(sqlite3.Connection):
        wal = False

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            self.wal = self.wal or "WAL" in sql
            return super().execute(sql, *args)

        def executescript(self, script: str) -> sqlite3.Cursor:
            if self.wal:
                raise sqlite3.OperationalError("locking protocol")
            return super().executescript(script)

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(
            sqlite3,
            "connect",
            lambda *args, **options: connect(*args, factory=Refusing, **options),
        )
        writer = started(tmp_path / "run")
    assert writer._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert steps_in(tmp_path / "run") == list(range(70))
    writer.close()


MOUNTS = """\
/dev/sda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local\\040disk ext4 rw 0 0
host /mnt/x fuse.sshfs rw 0 0
broken line
"""


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("/tmp/run", True),
        ("/home", False),
        ("/home/me/runs", False),
        ("/homestead/run", True),
        ("/home/local disk/run", True),
        ("/mnt/x/run", False),
    ],
)
def test_file_systems_of_several_machines_are_known(folder: str, shared: bool) -> None:
    assert shares_memory(Path(folder), MOUNTS) is shared


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_leaves_the_run_alone(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from gradmend.records.history import Column, Event, RunFacts
from gradmend.store.writer import RunWriter
writer = RunWriter.create(Path(sys.argv[1]), RunFacts())
writer.columns("t", [Column(name="p")], at=0)
for step in range(300):
    if step % 100 == 50:
        child = os.fork()
        if child == 0:
            if step == 150:
                held = sys.getrefcount(writer._db)
                writer.abandon_after_fork()
                assert sys.getrefcount(writer._db) == held + 1  # for good
            for ahead in range(200):  # would fill the buffer
                writer.append("t", 1000 + ahead, {"a": [1]})
            writer.event(Event(step=step, kind="crash"))
            writer.histogram("t", 0, {})
            writer.flush()
            writer.close()
            del writer
            sys.exit(0)  # with all of Python's tidying up
        assert os.waitpid(child, 0)[1] == 0
    writer.append("t", step, {"a": [step]})
    writer.flush()
    assert (Path(sys.argv[1]) / "rank-0.db-wal").exists()
writer.close()
"""
    child = python(code, tmp_path / "run")
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0 and not err, err
    assert steps_in(tmp_path / "run") == list(range(300))
    assert open_run(tmp_path / "run").events() == ()


def test_the_working_folder_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writer = RunWriter.create(Path("run"), RunFacts())
    monkeypatch.chdir("/")
    writer.columns("t", names(1), at=0)
    writer.append("t", 0, {"a": [1]})
    writer.close()
    monkeypatch.chdir(tmp_path)
    assert steps_in(Path("run")) == [0]


@pytest.mark.skipif(sys.platform == "win32", reason="users of POSIX")
@pytest.mark.parametrize("journal_left", [False, True])
def test_a_run_that_may_only_be_read(journal_left: bool) -> None:
    """By somebody else, after it finished or after its writer was killed."""
    with tempfile.TemporaryDirectory() as base:  # pytest's own folders are closed to others
        child = python(WRITER, base + "/run", "log")
        assert child.stdout
        rows = int(child.stdout.readline())
        child.kill()
        child.communicate()
        if not journal_left:
            with contextlib.closing(sqlite3.connect(base + "/run/rank-0.db")) as db:
                rows = db.execute("SELECT SUM(rows) FROM piece").fetchone()[0]
            assert [file.name for file in Path(base, "run").glob("*.db*")] == ["rank-0.db"]
        for part in (base, base + "/run", *map(str, Path(base, "run").iterdir())):
            os.chmod(part, 0o555)  # noqa: PTH101
        reader = python(READER, base + "/run")
        out, err = reader.communicate(timeout=60)
        for part in (base, base + "/run"):
            os.chmod(part, 0o755)  # noqa: PTH101
    assert not err and int(out) >= rows, err


READER = """
import os, sys
from gradmend.store.reader import open_run  # before giving up the right to read the package
if os.getuid() == 0:
    os.setuid(65534)
assert not os.access(sys.argv[1], os.W_OK)
print(len(open_run(sys.argv[1]).series("t", "a", 0)[0]))
"""
