"""Reads a run, also while another process writes it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gradmend.errors import BadInput, UnknownName
from gradmend.records.exponents import Exponents
from gradmend.records.history import (
    TABLES,
    Column,
    Event,
    Floats,
    History,
    RunFacts,
    Steps,
    Table,
)
from gradmend.store import books, layout, manifest, newest, points
from gradmend.store.encoding import unpack_histograms
from gradmend.store.errors import Damaged, damaged
from gradmend.store.keeping import both_ends
from gradmend.store.layout import PART_COLUMNS
from gradmend.store.opening import check, open_to_read
from gradmend.store.overview import Overview, overview
from gradmend.store.plain import clean, column_of, event_of

_CODES = {
    (table, quantity.name)
    for table, quantities in TABLES.items()
    for quantity in quantities
    if quantity.unit == "code"
}
"""Names in numbers: the mean of two is none of them, so a bucket stands for its highest."""


class RunReader:
    """Reads a run; every call reads anew, so that a growing run is followed by calling again.

    No connection and no transaction outlives a call: a reader that sleeps, dies or forks hinders
    nobody. Every call may raise BadInput where the database turns out to be damaged.

    Args:
        folder: Of the run.
        rank: Whose numbers.

    Raises:
        BadInput: If there is no such folder, it is no run, of another version, damaged, or this
            rank has not written yet.
    """

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self.folder: Path | None = Path(folder)
        self.rank = rank
        self.path = layout.database(self.folder, rank)
        manifest.read(self.folder)
        self._memory: sqlite3.Connection | None = None
        with self._reading():
            pass

    @classmethod
    def in_memory(cls, db: sqlite3.Connection, *, owner: object) -> RunReader:
        """A reader over the connection of a writer, which it keeps alive."""
        reader = cls.__new__(cls)
        reader.folder, reader.rank, reader.path = None, 0, Path("the run in memory")
        reader._memory, reader._owner = db, owner
        return reader

    _owner: object = None

    @property
    def run(self) -> RunFacts:
        """The circumstances, as last flushed; ``killed`` if the writer went without a word."""
        if self.folder is not None and self.rank == 0:
            return manifest.read(self.folder)
        with self._reading() as db:
            return self._run(db)

    def tables(self) -> tuple[str, ...]:
        """Tables that have columns."""
        with self._reading() as db:
            return tuple(_tables(db))

    def table_columns(self, table: str) -> tuple[Column, ...]:
        """The columns of a table; none where nothing was measured."""
        with self._reading() as db:
            return _columns(db, table)

    def series(self, table: str, quantity: str, column: int | str) -> tuple[Steps, Floats]:
        """One column over the steps at which it was measured: (steps, values).

        Full rows where they are kept, else means over buckets.

        Raises:
            UnknownName: If the table has no such column.
        """
        with self._reading() as db:
            at = _position(db, table, column)
            where = points.points_of(db, table)
            values = _line(db, where, table, quantity, at, _typical(table, quantity))
        known = ~np.isnan(values)
        return where.steps[known], values[known]

    def band(
        self, table: str, quantity: str, column: int | str
    ) -> tuple[Steps, Floats, Floats, Floats]:
        """One column with its spread: (steps, low, mean, high). A full row's are the same.

        Raises:
            UnknownName: If the table has no such column.
        """
        with self._reading() as db:
            at = _position(db, table, column)
            where = points.points_of(db, table)
            mean = _line(db, where, table, quantity, at, "mean")
            low, high = mean.copy(), mean.copy()
            coarse = np.flatnonzero(where.source < 0)
            for edge, name in ((low, "low"), (high, "high")):
                edge[coarse] = _line(db, where.take(coarse), table, quantity, at, name)
        known = ~np.isnan(mean)
        return where.steps[known], low[known], mean[known], high[known]

    def profile(self, table: str, quantity: str, step: int) -> Floats:
        """All columns in the last row at or before a step, [columns]; NaN before the first."""
        with self._reading() as db:
            columns = _count(db, table)
            where = points.points_of(db, table)
            at = int(np.searchsorted(where.steps, step, side="right")) - 1
            if at < 0:
                return np.full(columns, np.nan)
            (row,) = _matrix(db, where.take(np.array([at])), table, quantity, columns)
            return np.asarray(row)

    def matrix(self, table: str, quantity: str, most_rows: int) -> tuple[Steps, Floats]:
        """All columns over steps: (steps, values [rows, columns]), thinned evenly over steps."""
        with self._reading() as db:
            where = points.points_of(db, table)
            where = where.take(points.thin(where.steps, most_rows))
            return where.steps, _matrix(db, where, table, quantity, _count(db, table))

    def measured(self) -> dict[str, frozenset[str]]:
        """The quantities of each table of which anything is known; cheap, nothing is unpacked."""
        with self._reading() as db:
            return newest.measured(db)

    def overview(
        self, table: str, quantities: Sequence[str], most: int, *, spread: Sequence[str] = ()
    ) -> Overview:
        """Quantities over the whole run in at most ``most`` points, rows pooled where more.

        Args:
            table: The table.
            quantities: Which.
            most: Points.
            spread: Those whose lowest and highest are wanted too.
        """
        with self._reading() as db:
            codes = [name for name in quantities if (table, name) in _CODES]
            return overview(
                db, table, _count(db, table), quantities, most, codes=codes, spread=spread
            )

    def newest(
        self, table: str, quantities: Sequence[str], *, oldest: bool = False
    ) -> tuple[Steps, dict[str, Floats]]:
        """Each column in the last row in which the first of the quantities was measured.

        Args:
            table: The table.
            quantities: Which; all of the same row.
            oldest: The first such row instead.

        Returns:
            The step of each column's row, -1 where there is none; by quantity the numbers. Each
            of shape [columns].
        """
        with self._reading() as db:
            codes = [name for name in quantities if (table, name) in _CODES]
            count = _count(db, table)
            return newest.newest(db, table, count, quantities, codes=codes, oldest=oldest)

    def last_histograms(self, table: str) -> dict[int, tuple[int, Exponents]]:
        """The newest histogram of each column that has any: (step, histogram), by position."""
        with self._reading() as db:
            return newest.last_histograms(db, table, _count(db, table))

    def histograms(self, table: str, column: int | str) -> list[tuple[int, Exponents]]:
        """The histograms of a column: (step, histogram), the first and last ones and some between.

        Raises:
            UnknownName: If the table has no such column.
        """
        found = []
        with self._reading() as db:
            at = _position(db, table, column)
            for step, numbers, blob in db.execute(
                "SELECT step, numbers, cells FROM histogram WHERE tbl = ? AND chunk = ?"
                " ORDER BY ordinal",
                (table, at // PART_COLUMNS),
            ):
                histograms = unpack_histograms(blob, numbers, PART_COLUMNS, only=at)
                if at in histograms:
                    found.append((int(step), histograms[at]))
        return found

    def events(self, kinds: Sequence[str] = ()) -> tuple[Event, ...]:
        """What happened, in the order it was told; only some kinds if any are named."""
        with self._reading() as db:
            return _events(db, 0, kinds)[0]

    def events_after(self, cursor: int) -> tuple[tuple[Event, ...], int]:
        """What happened since: the events, and the cursor to go on with. Begin with 0."""
        with self._reading() as db:
            return _events(db, cursor)

    def dropped_events(self) -> dict[str, int]:
        """Events that were too many to keep, by kind."""
        with self._reading() as db:
            return dict(db.execute("SELECT kind, events FROM dropped ORDER BY kind"))

    def history(self, most_rows: int | None = None) -> History:
        """What rules and reports read, all from one moment.

        Args:
            most_rows: Of each table, those between its ends evenly. Where not given, rows and
                events are those a watcher remembers; of a very long run means for some rows.
        """
        with self._reading() as db:
            run = self._run(db)
            tables = {table: _table(db, table, most_rows) for table in _tables(db)}
            every, _ = _events(db, 0)
            events = every if most_rows else both_ends(every)
            return History(run=run, tables=tables, events=events, books=books.read(db))

    def _run(self, db: sqlite3.Connection) -> RunFacts:
        row = db.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchone()
        if row is None:
            raise Damaged("it says nothing of its run")
        return manifest.facts(row[0], str(self.path))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the database, whatever the writer does meanwhile."""
        try:
            if self._memory is not None:
                yield self._memory
                return
            with contextlib.closing(open_to_read(self.path)) as db:
                db.execute("BEGIN")
                check(db, self.path)
                yield db
        except BadInput:
            raise
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise damaged(self.path, error) from None


def open_run(folder: Path | str, *, rank: int = 0) -> RunReader:
    """Open a run to read it.

    Raises:
        BadInput: In one line, if there is nothing to read.
    """
    return RunReader(Path(folder), rank=rank)


def _tables(db: sqlite3.Connection) -> list[str]:
    return [table for (table,) in db.execute("SELECT DISTINCT tbl FROM columns ORDER BY tbl")]


def _columns(db: sqlite3.Connection, table: str) -> tuple[Column, ...]:
    rows = db.execute(
        "SELECT position, record FROM columns WHERE tbl = ? ORDER BY position", (table,)
    ).fetchall()
    if [position for position, _ in rows] != list(range(len(rows))):
        raise Damaged("columns are missing")
    return tuple(column_of(record) for _, record in rows)


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute("SELECT COUNT(*) FROM columns WHERE tbl = ?", (table,)).fetchone()[0])


def _position(db: sqlite3.Connection, table: str, column: int | str) -> int:
    if isinstance(column, str):
        row = db.execute(
            "SELECT position FROM columns WHERE tbl = ? AND name = ?", (table, clean(column))
        ).fetchone()
        if row is not None:
            return int(row[0])
    elif 0 <= column < _count(db, table):
        return column
    raise UnknownName(f"the run's table {table} has no column {column}", "", "see its columns")


def _typical(table: str, quantity: str) -> str:
    return "high" if (table, quantity) in _CODES else "mean"


def _line(
    db: sqlite3.Connection,
    where: points.Points,
    table: str,
    quantity: str,
    column: int,
    bucket: str,
) -> Floats:
    found = points.load(
        db, where, _count(db, table), quantity=quantity, column=column, bucket=bucket
    )
    return found[quantity][:, 0] if quantity in found else np.full(len(where), np.nan)


def _matrix(
    db: sqlite3.Connection, where: points.Points, table: str, quantity: str, columns: int
) -> Floats:
    bucket = _typical(table, quantity)
    found = points.load(db, where, columns, quantity=quantity, bucket=bucket)
    return found.get(quantity, np.full((len(where), columns), np.nan))


def _table(db: sqlite3.Connection, table: str, most_rows: int | None) -> Table:
    columns = _columns(db, table)
    numbers = len(TABLES.get(table, ())) * len(columns)
    where = points.judged(points.points_of(db, table), numbers, most_rows)
    values = points.load(db, where, len(columns))
    for quantity in values:
        if (table, quantity) in _CODES:
            values[quantity] = _matrix(db, where, table, quantity, len(columns))
    return Table(name=table, columns=columns, steps=where.steps, values=values)


def _events(
    db: sqlite3.Connection, after: int, kinds: Sequence[str] = ()
) -> tuple[tuple[Event, ...], int]:
    some = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
    rows = db.execute(
        f"SELECT id, step, kind, record FROM event WHERE id > ?{some} ORDER BY id", (after, *kinds)
    ).fetchall()
    events = tuple(event_of(step, kind, record) for _, step, kind, record in rows)
    return events, int(rows[-1][0]) if rows else after
