"""Writes a run while it trains."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradmend.errors import BadInput
from gradmend.records.exponents import Exponents
from gradmend.records.history import Column, Event, RunFacts
from gradmend.records.ledger import Booked
from gradmend.store import books, layout, manifest, retention, rows
from gradmend.store.buffer import ROWS, Buffer
from gradmend.store.claim import cannot_write, check, claim, identity
from gradmend.store.encoding import Steps, pack_histograms
from gradmend.store.errors import StoreError
from gradmend.store.layout import BLOCK, PART_COLUMNS, Caps
from gradmend.store.plain import clean, to_json
from gradmend.store.reader import RunReader

SECONDS = 1.0
"""Between flushes, unless a block is full before."""
_WAITING = 1000
"""Events or histograms that may wait for a flush."""


class RunWriter:
    """Appends to a run; one per process, used by one thread at a time.

    Numbers are kept as float32. Nothing is written before ``flush``, except that a buffer that is
    full flushes itself. In a forked child every method does nothing.
    """

    def __init__(
        self, db: sqlite3.Connection, path: Path | None, run: RunFacts, rank: int, caps: Caps
    ) -> None:
        self.rank = rank
        self.path = path
        """The database; None in memory."""
        self.run = run
        """The newest circumstances."""
        self._db = db
        self._caps = caps
        self._pid = os.getpid()
        self._process = manifest.Writer.here()
        self._identity = None if path is None else identity(path)
        self._buffers: dict[str, Buffer] = {}
        self._columns: dict[str, list[Column]] = {}
        self._new_columns: list[tuple[str, int, str, str]] = []
        self._new_events: list[tuple[int, str, str]] = []
        self._new_histograms: list[tuple[str, int, int, int, int, bytes]] = []
        self._histograms: dict[str, int] = {}
        self._new_books: dict[str, tuple[int, int, bytes]] = {}
        self._new_run = True
        self._flushed_at = time.monotonic()
        self._full = False
        self._failed = False
        self._closed = False

    @classmethod
    def create(
        cls, folder: Path | None, run: RunFacts, *, rank: int = 0, caps: Caps | None = None
    ) -> RunWriter:
        """Begin a run.

        Args:
            folder: Made if it is not there; may be there if it is empty, or holds other ranks.
                None keeps the run in memory, with less detail.
            run: The circumstances. Rank 0 writes them into the manifest.
            rank: Of this process; each has a database of its own.
            caps: How much to keep.

        Raises:
            BadInput: If the folder holds a run of this rank already, or other files.
            StoreError: If it cannot be written.
        """
        if folder is None:
            writer = cls(layout.create(None), None, run, rank, caps or layout.IN_MEMORY)
            writer.flush()
            return writer
        # The script may change its working folder later.
        db, path = claim(Path(folder).absolute(), rank)
        writer = cls(db, path, run, rank, caps or layout.ON_DISK)
        try:
            writer.flush()
        except StoreError:
            writer.close()
            raise
        return writer

    def columns(self, table: str, columns: Sequence[Column], *, at: int) -> None:
        """Declare columns, or tell more about known ones.

        Args:
            table: The table.
            columns: The columns.
            at: Position of the first of them; at most the number of columns so far.

        Raises:
            ValueError: If positions would be left out.
        """
        known = self._columns.setdefault(table, [])
        if not 0 <= at <= len(known):
            raise ValueError(f"columns from {at} of {table}, which has {len(known)}")
        known[at : at + len(columns)] = columns
        self._buffer(table).widen(len(known))
        self._new_columns += [
            (table, at + i, clean(column.name), to_json(column)) for i, column in enumerate(columns)
        ]

    def append(
        self,
        table: str,
        step: int,
        values: Mapping[str, Sequence[float] | np.ndarray[Any, Any]],
    ) -> None:
        """Add a row.

        Args:
            table: The table.
            step: At least that of the row before; steps may repeat.
            values: By quantity, shape [columns] or shorter; NaN where not measured. They are
                copied.

        Raises:
            ValueError: If steps descend or there are more numbers than columns.
            StoreError: If the buffer was full and cannot be flushed; the row is not added.
        """
        if self._gone:
            return
        buffer = self._buffer(table)
        if len(buffer) == ROWS:
            self.flush()
        buffer.add(int(step), values)
        self._full = self._full or len(buffer) >= BLOCK

    def histogram(self, table: str, step: int, counts: Mapping[int, Exponents]) -> None:
        """Add the histograms of a step, by position of the column."""
        if self._gone:
            return
        if len(self._new_histograms) >= _WAITING:
            self.flush()
        chunks: dict[int, dict[int, Exponents]] = {}
        for column in sorted(counts):
            chunks.setdefault(column // PART_COLUMNS, {})[column] = counts[column]
        ordinal = self._histograms.get(table, 0)
        for chunk, histograms in chunks.items():
            row = (table, ordinal, chunk, int(step), *pack_histograms(histograms))
            self._new_histograms.append(row)
        self._histograms[table] = ordinal + 1

    def event(self, event: Event) -> None:
        """Add an event. One of weight (no note) keeps the rows around its step at full detail."""
        if self._gone:
            return
        if len(self._new_events) >= _WAITING:
            self.flush()
        record = {"where": event.where, "text": event.text, "facts": event.facts}
        self._new_events.append((int(event.step), clean(event.kind), to_json(record)))

    def books(self, slot: str, booked: Booked) -> None:
        """Keep a look's gradient ledger in a slot, in the place of what was there."""
        if not self._gone:
            self._new_books[slot] = (int(booked.step), *books.pack(booked.ledger))

    def state(self, run: RunFacts) -> None:
        """Tell new circumstances; the next flush writes them."""
        self.run, self._new_run = run, True

    def due(self) -> bool:
        """Whether a flush is worth it: a second has passed, or a block of rows is full."""
        return self._full or time.monotonic() - self._flushed_at >= SECONDS

    def flush(self) -> None:
        """Make everything so far durable, and visible to readers, in one transaction.

        Raises:
            StoreError: If that is not possible. Nothing is lost by it: another flush tries again.
        """
        if self._gone:
            return
        try:
            if self.path is not None:
                check(self._db, self.path, self._identity)
            self._transact()
            self._forget()
            if self._new_run and self.path and self.rank == 0:
                manifest.write(self.path.parent, manifest.compose(self.run, self._process))
            self._new_run = False
            self._failed = False
        except (OSError, sqlite3.Error) as error:
            self._failed = True
            raise cannot_write(self.path.parent if self.path else None, error) from None

    def reader(self) -> RunReader:
        """A reader of what was flushed; in memory the only way to read."""
        if self.path is None:
            return RunReader.in_memory(self._db, owner=self)
        return RunReader(self.path.parent, rank=self.rank)

    def into_memory(self) -> RunWriter:
        """The run so far, thinned, and what waits, in a writer that touches no disk.

        For a run whose folder cannot be written any more: what can still be read of it is kept.
        """
        other = RunWriter.create(None, self.run, rank=self.rank)
        for table, columns in self._columns.items():
            other.columns(table, columns, at=0)
        with contextlib.suppress(BadInput):
            history = self.reader().history()
            for kept in history.tables.values():
                other._append_rows(kept.name, kept.steps, kept.values)
            for event in history.events:
                other.event(event)
            for slot, booked in zip(books.SLOTS, history.books, strict=False):
                other.books(slot, booked)
        for name, buffer in self._buffers.items():
            other._append_rows(name, *buffer.rows(buffer.written, len(buffer)))
        other._new_events += self._new_events
        other._new_histograms += self._new_histograms
        other._histograms.update(self._histograms)
        other._new_books.update(self._new_books)
        other.flush()
        return other

    def close(self) -> None:
        """Flush, and give the database back. A run in memory can still be read.

        Raises:
            StoreError: If that flush fails and the one before did not; the database is given
                back nevertheless.
        """
        if self._gone:
            return
        failed = self._failed
        try:
            self.flush()
        except StoreError:
            if not failed:
                raise
        finally:
            self._closed = True
            if self.path:
                self._release()

    def abandon_after_fork(self) -> None:
        """In a forked child: never touch the database again, and never close it.

        Closing it would take the parent's write-ahead log for nobody's. The connection is made
        immortal, since Python closes what it destroys.
        """
        self._closed = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))

    def __del__(self) -> None:
        if hasattr(self, "_pid"):
            self._release()

    def _release(self) -> None:
        if os.getpid() == self._pid:
            with contextlib.suppress(sqlite3.Error):
                if self.path and not self._failed:
                    layout.settle(self._db)
                self._db.close()
        elif not self._closed:
            self.abandon_after_fork()

    @property
    def _gone(self) -> bool:
        if not self._closed and os.getpid() != self._pid:
            self.abandon_after_fork()
        return self._closed

    def _append_rows(
        self, table: str, steps: Steps, values: Mapping[str, np.ndarray[Any, Any]]
    ) -> None:
        for row, step in enumerate(steps):
            self.append(table, int(step), {name: cells[row] for name, cells in values.items()})

    def _buffer(self, table: str) -> Buffer:
        if table not in self._buffers:
            self._buffers[table] = Buffer()
        return self._buffers[table]

    def _transact(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write()
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _write(self) -> None:
        """Everything that waits; changes nothing but the database."""
        db = self._db
        db.executemany(
            "INSERT OR REPLACE INTO columns (tbl, position, name, record) VALUES (?, ?, ?, ?)",
            self._new_columns,
        )
        self._write_events()
        for table, buffer in self._buffers.items():
            rows.write(db, table, buffer, self._caps)
        db.executemany(
            "INSERT INTO histogram (tbl, ordinal, chunk, step, numbers, cells)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            self._new_histograms,
        )
        for table in {row[0] for row in self._new_histograms}:
            retention.thin_histograms(db, table, self._histograms[table], self._caps)
        for slot, booked in self._new_books.items():
            books.write(db, slot, *booked)
        if self._new_run:
            db.execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES ('manifest', ?)",
                (manifest.compose(self.run, self._process),),
            )

    def _write_events(self) -> None:
        self._db.executemany(
            "INSERT INTO event (step, kind, record) VALUES (?, ?, ?)", self._new_events
        )
        for step in {step for step, kind, _ in self._new_events if kind != "note"}:
            retention.pin(self._db, step)
        for kind in {kind for _, kind, _ in self._new_events}:
            retention.cap_events(self._db, kind, self._caps)

    def _forget(self) -> None:
        """What was written needs not be kept."""
        for buffer in self._buffers.values():
            buffer.flushed()
        self._new_columns, self._new_events, self._new_histograms = [], [], []
        self._new_books = {}
        self._flushed_at = time.monotonic()
        self._full = False
