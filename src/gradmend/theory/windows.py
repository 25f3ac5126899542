"""Windows over a run's tables: what has lasted, by ranks, so that one odd row convicts nobody.

Numbers that were not measured are NaN and are left out; -inf stands for log10 of exactly zero and
is a number like others. Nothing here warns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Column, Floats, History, Steps, Table

RECENT = 24
"""Rows of the recent window."""
FEWEST = 8
"""Measured rows below which nothing is said."""
LEAP = 3.0
"""Largest of the first losses over the very first one, from which they have leapt away from it, if
their median has too; the noise of a batch stays below."""
FEW = 2
"""Rows that will do for a slow quantity: on a busy machine the dear tiers measure no more."""
ENOUGH = 48
"""Losses below which it is not said that none has fallen."""

SCALE_FREE = frozenset(
    {
        "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SparseAdam", "Adam8bit", "AdamW8bit",
        "PagedAdamW", "FusedAdam", "RMSprop", "Adagrad", "Adadelta", "Adafactor", "Rprop", "Lion",
        "LAMB", "FusedLAMB", "Muon",
    }
)  # fmt: skip
"""Optimizers whose step does not grow with the gradient's scale."""

Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]


def rank(values: Floats, share: float) -> Floats:
    """The value below which a share of the measured ones lies, by column; 0.5 is the lower median.

    Args:
        values: Shape [rows, columns].
        share: In [0, 1].

    Returns:
        Shape [columns]; NaN where nothing was measured.
    """
    if not len(values):
        return np.full(values.shape[1], np.nan)
    ordered = np.sort(values, axis=0)  # NaN comes last
    count = np.count_nonzero(~np.isnan(values), axis=0)
    at = np.maximum((share * (count - 1)).astype(np.int64), 0)
    found: Floats = np.take_along_axis(ordered, at[None, :], axis=0)[0]
    return found


def recent(table: Table, quantity: str, rows: int = RECENT) -> Floats:
    """The last rows in which a quantity was measured, shape [up to rows, columns].

    At most half of them, beyond FEWEST: the beginning of a short run is not recent.
    """
    values = table[quantity]
    measured = _measured(values)
    return values[measured[-min(rows, max(FEWEST, len(measured) // 2)) :]]


def lasting(
    table: Table, quantity: str, share: float = 0.5, rows: int = RECENT, fewest: int = FEWEST
) -> Floats:
    """Rank of each column over the recent window; NaN where too few rows are known.

    Args:
        table: Of the run.
        quantity: One of its quantities.
        share: Of the rank.
        rows: Of the window, at most.
        fewest: Rows that have to be known; fewer will do for what hardly changes from step to
            step, where what it means is settled by the loss.
    """
    values = recent(table, quantity, rows)
    known = np.count_nonzero(~np.isnan(values), axis=0)
    return np.where(known >= fewest, rank(values, share), np.nan)


def early(table: Table, quantity: str, rows: int = FEWEST) -> Floats:
    """Lower median of each column over the first rows in which the quantity was measured."""
    values = table[quantity]
    return rank(values[_measured(values)[:rows]], 0.5)


def _measured(values: Floats) -> Indices:
    """Rows that hold a number."""
    return np.flatnonzero(~np.isnan(values).all(axis=1)) if values.size else np.zeros(0, np.int64)


def matrices(columns: Sequence[Column]) -> Indices:
    """Trainable weights of two and more dimensions, in forward order.

    Biases and gains are left out: before a norm a bias has no gradient by nature.
    """
    found = [
        (column.order, at)
        for at, column in enumerate(columns)
        if len(column.shape) > 1 and column.facts.get("trainable", True)
    ]
    return np.array([at for _, at in sorted(found)], dtype=np.int64)


def by_group(columns: Sequence[Column], which: Indices) -> dict[tuple[int | None, int], Indices]:
    """Indices parted by (optimizer, parameter group): each may have its own rate on purpose."""
    parted: dict[tuple[int | None, int], list[int]] = {}
    for at in which:
        facts = columns[at].facts
        parted.setdefault((facts.get("optimizer"), facts.get("group") or 0), []).append(int(at))
    return {key: np.array(found, dtype=np.int64) for key, found in parted.items()}


def of_optimizer(columns: Sequence[Column], which: Indices, optimizer: int | None) -> Indices:
    """The indices whose parameters an optimizer holds."""
    held = [int(at) for at in which if columns[at].facts.get("optimizer", 0) == optimizer]
    return np.array(held, dtype=np.int64)


def lost_prefix(upper: Floats, lower: Floats, decades: float) -> tuple[int, float]:
    """How many of the first layers *all* lie decades below what follows.

    Args:
        upper: A high rank of log10 sizes over the window, in forward order, shape [layers].
        lower: A low rank of the same.
        decades: That have to lie between.

    Returns:
        The number of first layers (0 for none), and the decades between the very first measured
        layer and the largest of the later ones.
    """
    if len(upper) < 2:
        return 0, 0.0
    before = np.fmax.accumulate(np.where(np.isnan(upper), -np.inf, upper))
    after = np.fmax.accumulate(np.where(np.isnan(lower), -np.inf, lower)[::-1])[::-1]
    beyond = np.isfinite(before[:-1]) & np.isfinite(after[1:])
    below = beyond & (after[1:] >= np.where(beyond, before[:-1], 0.0) + decades)
    if not below.any():
        return 0, 0.0
    last = int(np.flatnonzero(below)[-1])
    first = int(np.flatnonzero(np.isfinite(before))[0])
    return last + 1, float(after[last + 1] - before[first])


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The course of one loss, from its beginning to the recent window."""

    column: int
    """Of the step table."""
    steps: Steps
    values: Floats
    """The measured ones, shape [rows]."""
    first: float
    """Median of the beginning; the very first one, where the loss leapt away from it at once."""
    last: float
    """Median of the recent window."""
    noise: float
    """Robust standard deviation of the recent window about its median."""
    error: float
    """Standard error of ``first - last``."""

    @property
    def learned(self) -> bool:
        """It is lower than it was, by more than a twentieth and more than noise explains."""
        return self.first - self.last > max(0.05 * abs(self.first), 3.0 * self.error)

    @property
    def level(self) -> float:
        """A scale to compare changes with: the size of the first losses."""
        return max(abs(self.first), 1e-12)


def loss_course(history: History, rows: int = RECENT) -> list[Loss]:
    """The losses that were measured at twice FEWEST steps at least, by optimizer."""
    table = history["step"]
    found = []
    for column in range(len(table.columns)):
        steps, values = table.series("loss", column)
        finite = np.isfinite(values)
        steps, values = steps[finite], values[finite]
        if len(values) < 2 * FEWEST:
            continue
        begin = values[:FEWEST]
        end = values[-min(rows, len(values) // 2) :]
        deviations = [spread(part) for part in (begin, end)]
        first = float(np.median(begin))
        if 0.0 < LEAP * float(begin[0]) < begin.max() and first > 1.5 * float(begin[0]):
            first = float(begin[0])  # what falls from a height it was thrown to has not learned
        found.append(
            Loss(
                column=column,
                steps=steps,
                values=values,
                first=first,
                last=float(np.median(end)),
                noise=deviations[1],
                # A median's standard error is 1.25 times a mean's.
                error=1.25
                * math.hypot(
                    deviations[1] / math.sqrt(len(begin)), deviations[1] / math.sqrt(len(end))
                ),
            )
        )
    return found


def learned(history: History) -> bool | None:
    """Whether any loss of the run has fallen; ``None`` where no loss is known long enough."""
    courses = loss_course(history)
    if any(course.learned for course in courses):
        return True
    return False if any(len(course.values) >= ENOUGH for course in courses) else None


def spread(values: Floats) -> float:
    """Robust standard deviation: 1.4826 times the median distance from the median."""
    if not len(values):
        return 0.0
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def alternation(values: Floats) -> float:
    """Correlation of neighbouring values about a straight line: -1 for up and down, 0 for noise.

    Args:
        values: Shape [rows]; 0 is returned for fewer than FEWEST, or for a straight line.
    """
    if len(values) < FEWEST:
        return 0.0
    x = np.arange(len(values)) - (len(values) - 1) / 2
    rest = values - values.mean() - x * (x @ values) / (x @ x)
    energy = float(rest @ rest)
    if not energy > 1e-18 * float(values @ values):
        return 0.0
    return float(rest[1:] @ rest[:-1]) / energy


def rate_is_passing(history: History, column: int) -> bool:
    """Whether the learning rate is on its way: rising from a warm-up, or ending a schedule.

    What a small rate does then is meant, and no finding.
    """
    _, rates = history["step"].series("learning_rate", column)
    if not len(rates):
        return False
    now, largest = float(rates[-1]), float(rates.max())
    rising = len(rates) > 1 and now > 1.05 * float(rates[-min(len(rates), RECENT)])
    return rising or now < 0.2 * largest


def times(decades: float) -> float:
    """The factor of so many decades, within what a float can hold."""
    return float(10.0 ** min(max(float(decades), -300.0), 300.0))


def plain(number: float) -> str:
    """A number for a sentence: two digits, ``3.1e-09``, ``0.42``, ``120``."""
    return f"{number:.2g}" if abs(number) < 100 else f"{number:.4g}"


def count_of(number: int, noun: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def rolling_median(values: Floats, width: int = 9) -> Floats:
    """Median of each ``width`` neighbours (of all where there are fewer), [rows - width + 1]."""
    width = min(width, len(values))
    if not width:
        return values
    return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
