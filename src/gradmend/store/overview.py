"""A whole table in a bounded number of points over steps, as a picture of a run needs it.

Where a point stands for as many steps as a bucket does, the bucket is read and not the rows: a
picture of 100,000 steps unpacks a few hundred blobs, whatever the run's length.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Floats, Steps
from gradmend.store.encoding import Cells, unpack
from gradmend.store.errors import Damaged
from gradmend.store.layout import BLOCK, PART_COLUMNS, SUMMARY_COLUMNS
from gradmend.store.points import Points, every_bucket, points_of

WIDE = 3.0
"""Points that a bucket may stretch over before rows are read in its place (our choice): a run of
N steps is kept in 256 to 512 buckets, so a picture of up to 768 points needs no rows."""


@dataclass(frozen=True, slots=True)
class Overview:
    """Quantities of a table over steps; each array has shape [points, columns], NaN unknown."""

    steps: Steps
    """Shape [points], ascending: the middle of the steps that a point stands for."""
    mean: Mapping[str, Floats]
    """Over the finite numbers; where none is finite, an infinity if there was one. The highest
    where numbers are codes."""
    low: Mapping[str, Floats] = field(default_factory=dict)
    high: Mapping[str, Floats] = field(default_factory=dict)
    pooled: bool = False
    """Whether any point stands for several rows."""

    def known(self) -> Overview:
        """Without the points at which none of the quantities was measured."""
        some = np.zeros(len(self.steps), dtype=np.bool_)
        for values in self.mean.values():
            some |= ~np.isnan(values).all(axis=1)
        mean, low, high = (
            {name: values[some] for name, values in kind.items()}
            for kind in (self.mean, self.low, self.high)
        )
        return Overview(self.steps[some], mean, low, high, pooled=self.pooled)


def overview(
    db: sqlite3.Connection,
    table: str,
    columns: int,
    quantities: Sequence[str],
    most: int,
    *,
    codes: Collection[str] = (),
    spread: Collection[str] = (),
) -> Overview:
    """Quantities of a table in at most ``most`` points.

    Args:
        db: The database.
        table: The table.
        columns: How many columns it has.
        quantities: Which.
        most: Points; rows are pooled evenly over steps only where there are more.
        codes: Those of the quantities that are names in numbers.
        spread: Those whose lowest and highest are wanted too.

    Raises:
        Damaged: If the numbers do not fit the table.
    """
    where = _coarse(db, table, points_of(db, table), most)
    at, bins = _bins(where.steps, most)
    steps = _middles(where.steps, at, bins)
    sums = {
        name: _Sums(bins, columns, spread=name in spread or name in codes) for name in quantities
    }
    buckets = _Buckets(sums)
    for source, places in where.by_source():
        if source > 0:
            _add_piece(db, source, where.row[places], at[places], sums)
        else:
            buckets.read(db, -source, int(at[places[0]]))
    buckets.add()
    return Overview(
        steps,
        {name: mine.high if name in codes else mine.mean() for name, mine in sums.items()},
        {name: mine.low for name, mine in sums.items() if mine.low is not None},
        {name: mine.high for name, mine in sums.items() if mine.low is not None},
        pooled=bins < len(where) or bool((where.source < 0).any()),
    ).known()


class _Sums:
    """Numbers of one quantity, added up by point; each array has shape [points, columns]."""

    def __init__(self, bins: int, columns: int, *, spread: bool) -> None:
        self.columns = columns
        self.total = np.zeros((bins, columns))
        self.weight = np.zeros((bins, columns), dtype=np.float32)
        self.high = np.full((bins, columns), np.nan)
        self.low = np.full((bins, columns), np.nan) if spread else None

    def mean(self) -> Floats:
        """Over what is finite; else the highest."""
        none = self.weight == 0
        mean = self.total / np.where(none, 1, self.weight)
        return np.where(none, self.high, mean)

    def span(self, chunk: int, count: int, width: int) -> slice:
        """The columns of a chunk."""
        begin = chunk * width
        if not (0 < count <= width and begin >= 0 and begin + count <= self.columns):
            raise Damaged("numbers for columns that are not there")
        return slice(begin, begin + count)

    def add(
        self,
        bins: NDArray[np.int64],
        span: slice,
        numbers: tuple[Cells, Cells, Cells],
        weight: NDArray[np.float32],
    ) -> None:
        """Add rows whose points ascend.

        Args:
            bins: The point of each row, shape [rows].
            span: The columns.
            numbers: Mean, lowest and highest, each of shape [rows, columns of the span].
            weight: What each row counts, shape [rows].
        """
        mean, low, high = numbers
        known = np.isfinite(mean)
        counts = known * weight[:, None]
        total = np.where(known, mean, 0).astype(np.float64) * weight[:, None]
        starts = np.flatnonzero(np.diff(bins, prepend=-1))
        if len(starts) < len(bins):
            bins = bins[starts]
            total, counts = np.add.reduceat(total, starts), np.add.reduceat(counts, starts)
            high = np.fmax.reduceat(high, starts)
            low = high if self.low is None else np.fmin.reduceat(low, starts)
        self.total[bins, span] += total
        self.weight[bins, span] += counts
        self.high[bins, span] = np.fmax(self.high[bins, span], high)
        if self.low is not None:
            self.low[bins, span] = np.fmin(self.low[bins, span], low)


class _Buckets:
    """Summaries gathered, to be added all at once: most are a handful of numbers each."""

    def __init__(self, sums: Mapping[str, _Sums]) -> None:
        self.sums = sums
        self.found: dict[tuple[str, int, int], list[tuple[int, float, Cells, Cells, Cells]]] = {}

    def read(self, db: sqlite3.Connection, bucket: int, at: int) -> None:
        """Read those of a bucket, which belongs to a point."""
        (level,) = db.execute("SELECT level FROM bucket WHERE id = ?", (bucket,)).fetchone()
        weight = float(BLOCK << level)
        for name, chunk, count, blob, low, high in db.execute(
            "SELECT quantity, chunk, columns, mean, low, high FROM summary WHERE bucket = ?"
            f" AND quantity IN ({_marks(self.sums)})",
            (bucket, *self.sums),
        ):
            mine = self.sums[name]
            mine.span(chunk, count, SUMMARY_COLUMNS)
            mean = unpack(blob, count)
            bottom = top = mean
            if mine.low is not None:  # means are rounded apart from their ends
                bottom = np.fmin(unpack(low, count), mean)
                top = np.fmax(unpack(high, count), mean)
            self.found.setdefault((name, chunk, count), []).append((at, weight, mean, bottom, top))

    def add(self) -> None:
        """Add all that were read."""
        for (name, chunk, count), rows in self.found.items():
            at, weight, *numbers = zip(*rows, strict=True)
            mean, low, high = (np.stack(each) for each in numbers)
            mine = self.sums[name]
            span = mine.span(chunk, count, SUMMARY_COLUMNS)
            order = np.argsort(at, kind="stable")
            mine.add(
                np.array(at)[order],
                span,
                (mean[order], low[order], high[order]),
                np.array(weight, dtype=np.float32)[order],
            )


def _coarse(db: sqlite3.Connection, table: str, fine: Points, most: int) -> Points:
    """The points to read: as they are where they are few, else buckets for rows within them."""
    if len(fine) <= most:
        return fine
    buckets, first, last = every_bucket(db, table)
    span = max(1.0, float(fine.steps[-1] - fine.steps[0])) / max(1, most)
    kept = last - first <= WIDE * span
    if not kept.any():
        return fine
    buckets = buckets.take(np.flatnonzero(kept))
    # Buckets never overlap, so a row's is the last that begins at or before it.
    first, last = first[kept], last[kept]
    own = np.searchsorted(first, fine.steps, side="right") - 1
    inside = (own >= 0) & (fine.steps <= last[np.maximum(own, 0)])
    rest = fine.take(np.flatnonzero(~inside))
    both = Points(
        np.concatenate([rest.steps, buckets.steps]),
        np.concatenate([rest.source, buckets.source]),
        np.concatenate([rest.row, buckets.row]),
    )
    return both.take(np.argsort(both.steps, kind="stable"))


def _bins(steps: Steps, most: int) -> tuple[NDArray[np.int64], int]:
    """The point each row goes to, and how many there are; equal steps share one."""
    if not len(steps):
        return np.zeros(0, dtype=np.int64), 0
    known = np.unique(steps)
    if len(known) > most:
        span = max(1, int(known[-1] - known[0]) + 1)
        raw = (steps - known[0]) * most // span
    else:
        raw = steps
    found, at = np.unique(raw, return_inverse=True)
    return at.reshape(-1).astype(np.int64), len(found)


def _middles(steps: Steps, at: NDArray[np.int64], bins: int) -> Steps:
    """The middle of the steps of each point; the run's first and last step stay what they are."""
    if not bins:
        return np.zeros(0, dtype=np.int64)
    starts = np.searchsorted(at, np.arange(bins))
    ends = np.append(starts[1:], len(at)) - 1
    middle = steps[starts] + (steps[ends] - steps[starts]) // 2
    if bins > 1:
        middle[0], middle[-1] = steps[0], steps[-1]
    return np.asarray(middle, dtype=np.int64)


def _add_piece(
    db: sqlite3.Connection,
    piece: int,
    row: NDArray[np.int64],
    at: NDArray[np.int64],
    sums: Mapping[str, _Sums],
) -> None:
    (rows,) = db.execute("SELECT rows FROM piece WHERE id = ?", (piece,)).fetchone()
    if not 0 < rows <= BLOCK:
        raise Damaged("a piece of an impossible size")
    weight = np.ones(len(row), dtype=np.float32)
    for name, chunk, count, blob in db.execute(
        "SELECT quantity, chunk, columns, cells FROM part WHERE piece = ?"
        f" AND quantity IN ({_marks(sums)})",
        (piece, *sums),
    ):
        mine = sums[name]
        span = mine.span(chunk, count, PART_COLUMNS)
        cells = unpack(blob, count * rows).reshape(count, rows)[:, row].T
        mine.add(at, span, (cells, cells, cells), weight)


def _marks(sums: Mapping[str, _Sums]) -> str:
    return ", ".join("?" * len(sums))
