"""The database of a rank: its tables, its sizes, and how it is opened.

A *piece* is a run of rows of a table, with one *part* per quantity and 128 columns. Rows are first
written in small unsealed pieces; 64 of them become a sealed block, and a *bucket* with one
*summary* per quantity and 512 columns beside it. Blocks are dropped where a run is long; buckets
are merged two by two, the oldest first, and never dropped.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from gradmend.records.history import SCHEMA

BLOCK = 64
"""Rows of a sealed block."""
PART_COLUMNS = 128
"""Columns of a part: one column's series does not unpack them all."""
SUMMARY_COLUMNS = 512
APPLICATION = 0x67726164
"""Marks a SQLite file as ours."""
PATIENCE = 5.0
"""Seconds to wait for a lock: only without a write-ahead log do readers and the writer meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How much of a run is kept, per table unless said otherwise."""

    head_blocks: int = 4
    """Blocks of the beginning."""
    recent_rows: int = 2048
    """Rows of the end."""
    recent_cells: int = 1 << 17
    """Or so many rows x columns of it, whichever are more: a narrow table costs little."""
    recent_most: int = 1 << 16
    """But never more rows than this."""
    pinned_blocks: int = 8
    """Blocks in which something happened; the first half and the last half are kept."""
    buckets: int = 512
    histograms: tuple[int, int, int] = (16, 128, 64)
    """First, in between, last."""
    events: int = 10_000
    """Of one kind, in the whole run; the first half and the last half are kept."""

    def recent_blocks(self, columns: int) -> int:
        """Blocks of the end that a table of so many columns keeps."""
        rows = min(self.recent_most, self.recent_cells // max(1, columns))
        return max(1, max(self.recent_rows, rows) // BLOCK)


ON_DISK = Caps()
IN_MEMORY = Caps(
    head_blocks=1,
    recent_rows=320,
    recent_cells=0,
    pinned_blocks=4,
    buckets=128,
    histograms=(4, 16, 16),
    events=1000,
)

TABLES = ("meta", "columns", "piece", "part", "bucket", "summary", "histogram", "event", "dropped")
"""Those that every run has. Runs that were written before it was there have no ``books``."""

_CREATE = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE columns (
    tbl TEXT NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (tbl, position)) WITHOUT ROWID;
CREATE TABLE piece (
    id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, first_row INTEGER NOT NULL, rows INTEGER NOT NULL,
    sealed INTEGER NOT NULL, pinned INTEGER NOT NULL DEFAULT 0,
    first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, steps BLOB NOT NULL);
CREATE UNIQUE INDEX piece_place ON piece (tbl, first_row);
CREATE TABLE part (
    id INTEGER PRIMARY KEY, piece INTEGER NOT NULL REFERENCES piece ON DELETE CASCADE,
    quantity TEXT NOT NULL, chunk INTEGER NOT NULL, columns INTEGER NOT NULL, cells BLOB NOT NULL);
CREATE UNIQUE INDEX part_place ON part (piece, quantity, chunk);
CREATE TABLE bucket (
    id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, level INTEGER NOT NULL, first_block INTEGER NOT NULL,
    first_step INTEGER NOT NULL, last_step INTEGER NOT NULL);
CREATE UNIQUE INDEX bucket_place ON bucket (tbl, level, first_block);
CREATE TABLE summary (
    id INTEGER PRIMARY KEY, bucket INTEGER NOT NULL REFERENCES bucket ON DELETE CASCADE,
    quantity TEXT NOT NULL, chunk INTEGER NOT NULL, columns INTEGER NOT NULL,
    mean BLOB NOT NULL, low BLOB NOT NULL, high BLOB NOT NULL, known BLOB NOT NULL);
CREATE UNIQUE INDEX summary_place ON summary (bucket, quantity, chunk);
CREATE TABLE histogram (
    tbl TEXT NOT NULL, ordinal INTEGER NOT NULL, chunk INTEGER NOT NULL, step INTEGER NOT NULL,
    numbers INTEGER NOT NULL, cells BLOB NOT NULL, PRIMARY KEY (tbl, chunk, ordinal));
CREATE TABLE event (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, kind TEXT NOT NULL, record TEXT NOT NULL);
CREATE INDEX event_kind ON event (kind);
CREATE INDEX event_step ON event (step);
CREATE TABLE dropped (kind TEXT PRIMARY KEY, events INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE books (
    slot TEXT PRIMARY KEY, step INTEGER NOT NULL, size INTEGER NOT NULL, cells BLOB NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
"""


def settle(db: sqlite3.Connection) -> None:
    """Turn a database that is finished into one plain file, unless somebody reads it just now.

    With a write-ahead log, whoever reads it later leaves files beside it.
    """
    with contextlib.suppress(sqlite3.OperationalError):
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA journal_mode = DELETE")


def database(folder: Path, rank: int) -> Path:
    """The database of a rank."""
    return folder / f"rank-{rank}.db"


def create(path: Path | None, *, wal: bool = True) -> sqlite3.Connection:
    """A new database in an empty file, or in memory, ready to be written.

    Args:
        path: An empty file; None for memory.
        wal: Whether to try a write-ahead log. Where the file system cannot share memory, which
            it needs, SQLite refuses it and the plain journal is used.

    Raises:
        sqlite3.Error: If neither works.
    """
    for journal in ("WAL", "DELETE") if wal else ("DELETE",):
        db = sqlite3.connect(
            ":memory:" if path is None else path,
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.execute("PRAGMA page_size = 8192")
            db.execute(f"PRAGMA journal_mode = {journal}")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute(f"PRAGMA journal_size_limit = {1 << 24}")
            db.executescript(f"BEGIN; {_CREATE} COMMIT;")
            return db
        except sqlite3.Error as error:
            db.close()
            failure = error
            if path is not None:
                os.truncate(path, 0)
    raise failure
