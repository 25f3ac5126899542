"""Which rows of a table a reader can have: full rows where they are kept, buckets between them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Floats, Steps
from gradmend.store.encoding import unpack, unpack_steps
from gradmend.store.errors import Damaged
from gradmend.store.keeping import Room
from gradmend.store.layout import BLOCK, PART_COLUMNS, SUMMARY_COLUMNS

MOST_ROWS = 512
"""Of a table in a history, where means stand for some of them."""
_MOST = 1 << 17
"""Pieces or buckets of a table: more than any writer leaves."""
_DEEPEST = 40
"""Level of a bucket: 2^40 blocks are more steps than anyone takes."""


@dataclass(frozen=True, slots=True)
class Points:
    """Places along a table, in ascending order of steps."""

    steps: Steps
    """Shape [points]. A bucket stands at the middle of its steps."""
    source: NDArray[np.int64]
    """Shape [points]: a piece, or the negative of a bucket."""
    row: NDArray[np.int64]
    """Shape [points]: row within the piece."""

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, at: NDArray[np.intp]) -> Points:
        """Some of the points."""
        return Points(self.steps[at], self.source[at], self.row[at])

    def by_source(self) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Every piece or bucket with the places of its points."""
        if not len(self):
            return
        order = np.argsort(self.source, kind="stable")
        ends = np.flatnonzero(np.diff(self.source[order])) + 1
        for at in np.split(order, ends):
            yield int(self.source[at[0]]), at


def points_of(db: sqlite3.Connection, table: str) -> Points:
    """All points of a table.

    Raises:
        Damaged: If pieces or buckets are none that a writer makes.
    """
    steps: list[Steps] = []
    source: list[NDArray[np.int64]] = []
    row: list[NDArray[np.int64]] = []
    kept: list[int] = []
    for key, first, rows, blob in db.execute(
        "SELECT id, first_row, rows, steps FROM piece WHERE tbl = ? ORDER BY first_row LIMIT ?",
        (table, _MOST),
    ):
        if not (0 < rows <= BLOCK and key > 0):
            raise Damaged("a piece of an impossible size")
        steps.append(unpack_steps(blob, rows))
        source.append(np.full(rows, key))
        row.append(np.arange(rows))
        kept.append(first // BLOCK)
    fine = np.unique(np.array(kept, dtype=np.int64))
    for key, level, block, first, last in db.execute(
        "SELECT id, level, first_block, first_step, last_step FROM bucket WHERE tbl = ?"
        " ORDER BY first_block LIMIT ?",
        (table, _MOST),
    ):
        if not (0 <= level <= _DEEPEST and key > 0):
            raise Damaged("a bucket of an impossible size")
        inside = np.searchsorted(fine, [block, block + (1 << level)])
        if inside[1] - inside[0] < 1 << level:  # else every block of it is there in full
            steps.append(np.array([first + (last - first) // 2]))
            source.append(np.array([-key]))
            row.append(np.array([0]))
    if not steps:
        none = np.zeros(0, dtype=np.int64)
        return Points(none, none, none)
    everything = Points(np.concatenate(steps), np.concatenate(source), np.concatenate(row))
    return everything.take(np.argsort(everything.steps, kind="stable"))


def every_bucket(db: sqlite3.Connection, table: str) -> tuple[Points, Steps, Steps]:
    """All buckets of a table, also where every row is kept: places, first and last steps.

    Raises:
        Damaged: If they are none that a writer makes.
    """
    rows = db.execute(
        "SELECT id, level, first_step, last_step FROM bucket WHERE tbl = ?"
        " ORDER BY first_block LIMIT ?",
        (table, _MOST),
    ).fetchall()
    if any(not (0 <= level <= _DEEPEST and key > 0) for key, level, _, _ in rows):
        raise Damaged("a bucket of an impossible size")
    first, last = (np.array([row[at] for row in rows], dtype=np.int64) for at in (2, 3))
    keys = np.array([row[0] for row in rows], dtype=np.int64)
    return Points(first + (last - first) // 2, -keys, np.zeros_like(keys)), first, last


def load(
    db: sqlite3.Connection,
    points: Points,
    columns: int,
    *,
    quantity: str | None = None,
    column: int | None = None,
    bucket: str = "mean",
) -> dict[str, Floats]:
    """The numbers at points, by quantity, shape [points, columns]; NaN where not measured.

    With ``column``, only that one is unpacked and the shape is [points, 1].

    Args:
        db: The database.
        points: Which.
        columns: How many columns the table has.
        quantity: Only this one.
        column: Only this one.
        bucket: What stands for a bucket: ``mean``, ``low`` or ``high``.

    Raises:
        Damaged: If the numbers do not fit the table.
    """
    loaded: dict[str, Floats] = {}
    left, right = (0, columns) if column is None else (column, column + 1)
    for source, at in points.by_source():
        fine = source > 0
        query = (
            "SELECT quantity, chunk, columns, cells FROM part WHERE piece = ?"
            if fine
            else f"SELECT quantity, chunk, columns, {bucket} FROM summary WHERE bucket = ?"
        )
        values: list[int | str] = [abs(source)]
        if quantity is not None:
            query += " AND quantity = ?"
            values.append(quantity)
        width = PART_COLUMNS if fine else SUMMARY_COLUMNS
        if column is not None:
            query += " AND chunk = ?"
            values.append(column // width)
        rows = _rows(db, source) if fine else 1
        for name, chunk, count, blob in db.execute(query, values):
            begin = chunk * width
            if not (0 < count <= width and begin >= 0 and begin + count <= columns):
                raise Damaged("numbers for columns that are not there")
            if name not in loaded:
                loaded[name] = np.full((len(points), right - left), np.nan)
            cells = unpack(blob, count * rows).reshape(count, rows)
            first, last = max(begin, left), min(begin + count, right)
            if first < last:
                some = cells[first - begin : last - begin, points.row[at]]
                loaded[name][at, first - left : last - left] = some.T
    return loaded


def _rows(db: sqlite3.Connection, piece: int) -> int:
    (rows,) = db.execute("SELECT rows FROM piece WHERE id = ?", (piece,)).fetchone()
    return int(rows)


def thin(steps: Steps, most: int) -> NDArray[np.intp]:
    """Places of at most ``most`` points, evenly over steps, the first and the last among them."""
    if len(steps) <= most:
        return np.arange(len(steps))
    targets = np.linspace(steps[0], steps[-1], max(1, most))
    at = np.unique(np.searchsorted(steps, targets))
    at[-1] = len(steps) - 1
    return at


def thin_middle(steps: Steps, most: int) -> NDArray[np.intp]:
    """Places of at most ``most`` points: the first eighth and the last half of them one by one.

    What lies between is thinned evenly over steps. With 512: the first 64, the last 256.
    """
    if len(steps) <= most:
        return np.arange(len(steps))
    head, tail = most // 8, most // 2
    middle = np.arange(head, len(steps) - tail)
    return np.concatenate(
        [
            np.arange(head),
            middle[thin(steps[middle], most - head - tail)],
            np.arange(len(steps) - tail, len(steps)),
        ]
    )


def judged(points: Points, numbers: int, most: int | None) -> Points:
    """The points of which a history is made.

    Args:
        points: All points of a table.
        numbers: Of a row of it.
        most: How many points; None for those rows that a watcher remembers.
    """
    if most is None and bool((points.source > 0).all()):
        return points.take(Room.of(numbers).places(len(points)))
    return points.take(thin_middle(points.steps, most or MOST_ROWS))
