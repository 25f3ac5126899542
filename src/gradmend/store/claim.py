"""Claims a folder for a run: of two writers one gets it, and nothing is ever written over."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from gradmend.errors import BadInput
from gradmend.store import layout, manifest
from gradmend.store.errors import StoreError
from gradmend.store.filesystem import shares_memory

LARGEST_LOG = 1 << 28
"""Bytes. A reader that never ends its transaction keeps the write-ahead log from being reused."""


def claim(folder: Path, rank: int) -> tuple[sqlite3.Connection, Path]:
    """The new database of a rank, open, and where it lies.

    Raises:
        BadInput: If the folder holds a run of this rank, or other files.
        StoreError: If it cannot be written.
    """
    path = layout.database(folder, rank)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            _refuse_others(folder)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    except FileExistsError:
        if not folder.is_dir():
            raise cannot_write(folder, "it is a file") from None
        raise _taken(folder, path.name) from None
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        return layout.create(path, wal=shares_memory(folder)), path
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise cannot_write(folder, error) from None


def identity(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to; None if to none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check(db: sqlite3.Connection, path: Path, claimed: tuple[int, int] | None) -> None:
    """Notice what SQLite would not: it goes on writing into a file that was deleted.

    Raises:
        OSError: If the database is no longer the one that was claimed.
        sqlite3.Error: If its log has grown too large and a reader keeps it from being reused.
    """
    if identity(path) != claimed:
        raise FileNotFoundError(0, "it was removed")
    try:
        size = path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return
    if size <= LARGEST_LOG:
        return
    db.execute("PRAGMA busy_timeout = 0")
    (busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute(f"PRAGMA busy_timeout = {int(1000 * layout.PATIENCE)}")
    if busy:
        raise sqlite3.OperationalError("another program keeps it open for reading")


def cannot_write(folder: Path | None, error: object) -> StoreError:
    """The error of a run that cannot be written."""
    reason = (isinstance(error, OSError) and error.strerror) or error
    return StoreError(
        f"the run {folder or 'in memory'} cannot be written ({reason})",
        "what was written before stays readable",
        "make room, or name another folder",
    )


def _refuse_others(folder: Path) -> None:
    """A run has a folder to itself; other ranks may have begun before rank 0."""
    if (folder / manifest.NAME).exists():
        raise _taken(folder, manifest.NAME)
    names = (entry.name for entry in folder.iterdir())
    others = sorted(name for name in names if not name.startswith(("rank-", ".")))
    if others:
        raise BadInput(
            f"{folder} is not empty: it holds {others[0]}",
            "a run has a folder to itself",
            "name a new folder",
        )


def _taken(folder: Path, name: str) -> BadInput:
    return BadInput(
        f"{folder} holds a run already ({name})",
        "a run is never written over",
        "name a new folder",
    )
