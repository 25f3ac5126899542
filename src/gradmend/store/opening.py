"""Opens a database of a run to read it, whatever its writer left behind."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gradmend.errors import BadInput
from gradmend.records.history import SCHEMA
from gradmend.store import layout
from gradmend.store.errors import damaged

_LARGEST_VALUE = 1 << 24  # bytes of a text or blob that SQLite may make for us


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that only reads.

    A writer that was killed leaves its log or journal behind. SQLite recovers the first while
    reading; the second only with the right to write, and on a read-only disk neither: then the
    database is read as it lies.

    Raises:
        BadInput: If there is none yet.
        sqlite3.Error: If it cannot be opened.
    """
    if not path.is_file() or not path.stat().st_size:
        raise BadInput(
            f"{path.parent} has no database of rank {path.stem.rpartition('-')[2]} yet",
            "nothing was written",
            "wait for the run's first step, or name another rank",
        )
    failure: sqlite3.Error | None = None
    for mode in ("mode=ro", "mode=rw", "mode=ro&immutable=1"):
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}",
            uri=True,
            timeout=layout.PATIENCE,
            isolation_level=None,
        )
        try:
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            db.execute("PRAGMA query_only = ON")
            return db
        except sqlite3.OperationalError as error:
            db.close()
            failure = error
        except sqlite3.Error:
            db.close()
            raise
    assert failure is not None
    raise failure


def check(db: sqlite3.Connection, path: Path) -> None:
    """Whether a database is a run's, of this version.

    Raises:
        BadInput: If not.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    kinds = dict(db.execute("SELECT name, type FROM sqlite_master"))
    missing = [table for table in layout.TABLES if kinds.get(table) != "table"]
    if not kinds:
        raise BadInput(f"{path} has no tables yet", "nothing was written", "wait for its writer")
    if application != layout.APPLICATION or (version == SCHEMA and missing):
        raise damaged(path, f"no table {missing[0]}" if missing else "it is no run's database")
    if version != SCHEMA:
        raise BadInput(
            f"{path} has schema {version}, this gradmend reads {SCHEMA}",
            "its numbers may mean something else",
            "use the gradmend that wrote it",
        )
