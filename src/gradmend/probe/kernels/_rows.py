"""Rows of statistics: what their columns are, and how rows are put together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

STATS = (
    "count",
    "total",
    "relative_squares",
    "max_abs",
    "min_abs_nonzero",
    "zeros",
    "non_finite",
)
"""Columns of a sweep. ``count`` are the finite entries looked at, and all but ``non_finite`` speak
of those. ``relative_squares`` is the sum of (x / max_abs)^2: between 1 and count whatever the
magnitude, so neither 1e-200 nor 1e200 is lost; 0 where all are zero. ``min_abs_nonzero`` is
infinite where none differs from zero."""

MOVES = (
    "count",
    "finite",
    "before_squares",
    "change_squares",
    "unchanged",
    "lost",
    "non_finite",
)
"""Columns of a comparison. ``count`` are the entries compared, ``finite`` those that are finite
before and after; the two sums of squares are over those, in float64. ``unchanged`` are bitwise the
same (NaN may be; 0.0 and -0.0 are not), ``lost`` those of them whose gradient is finite and not
zero, NaN where no gradient was given. ``non_finite`` are NaN or infinite afterwards."""

COUNT, TOTAL, RELATIVE, MAX, MIN, ZEROS, NON_FINITE = range(len(STATS))
LOST = MOVES.index("lost")

BLOCK = 1024
"""Entries of a block, looked at whole or not at all."""
PLACE = 256
"""Entries of a block of a sample: smaller, so that few entries still lie far apart."""


def nothing(tensors: int) -> Floats:
    """Rows of tensors of which nothing was looked at, shape [tensors, 7]."""
    rows = np.zeros((tensors, len(STATS)))
    rows[:, MIN] = np.inf
    return rows


def combine(rows: Floats, owners: Any, groups: int) -> Floats:
    """Put rows of the same owner together: pieces, steps, ranks, or the parameters of a module.

    Args:
        rows: Columns as in ``STATS``, shape [rows, 7].
        owners: The group of each row, integers, shape [rows].
        groups: How many groups there are.

    Returns:
        Shape [groups, 7]; a group without rows has seen nothing.
    """
    result = nothing(groups)
    owners = np.asarray(owners, dtype=np.int64)
    with np.errstate(all="ignore"):
        np.maximum.at(result[:, MAX], owners, rows[:, MAX])
        np.minimum.at(result[:, MIN], owners, rows[:, MIN])
        for column in (COUNT, TOTAL, ZEROS, NON_FINITE):
            np.add.at(result[:, column], owners, rows[:, column])
        most = result[owners, MAX]
        shrink = np.divide(rows[:, MAX], most, out=np.zeros_like(most), where=most > 0)
        np.add.at(result[:, RELATIVE], owners, rows[:, RELATIVE] * shrink**2)
    return result


def blocks(
    entries: Integers, block: int, most: int | None = None, turn: int = 0
) -> tuple[Integers, Integers]:
    """Which blocks of each tensor to look at: those numbered offset, offset + period, ...

    Args:
        entries: Sizes of the tensors, shape [tensors].
        block: Entries in a block; the last of a tensor may be shorter.
        most: Look at no more entries than this; None is all.
        turn: Moves the offset, so that ``period`` turns in a row meet every block once.

    Returns:
        Period and offset, each of shape [tensors].
    """
    if most is None:
        return np.ones_like(entries), np.zeros_like(entries)
    there = -(-entries // block)
    period = np.maximum(-(-there // max(most // block, 1)), 1)
    return period, turn % period


def looked(entries: Integers, block: int, period: Integers, offset: Integers) -> Integers:
    """How many entries the chosen blocks of each tensor have, shape [tensors]."""
    there = -(-entries // block)
    short = there * block - entries  # what the last block lacks
    last = (there > 0) & ((there - 1) % period == offset)
    count: Integers = -(-np.maximum(there - offset, 0) // period) * block
    return count - np.where(last, short, 0)


def log10_rms(rows: Floats) -> Floats:
    """Decimal logarithm of the root mean square, shape [rows]; -inf of zeros, NaN of nothing."""
    with np.errstate(all="ignore"):
        spread = np.log10(rows[:, RELATIVE] / rows[:, COUNT]) / 2
        return np.where(rows[:, MAX] > 0, np.log10(rows[:, MAX]) + spread, spread)


def log10_norm(rows: Floats) -> float:
    """Decimal logarithm of the norm of all rows together; -inf of zeros, NaN of nothing."""
    (row,) = combine(rows, np.zeros(len(rows)), 1)
    if not row[COUNT]:
        return float("nan")
    if not row[MAX]:
        return float("-inf")
    return float(np.log10(row[MAX]) + np.log10(row[RELATIVE]) / 2)


def log10_max(rows: Floats) -> Floats:
    """Decimal logarithm of the largest magnitude, shape [rows]; -inf of zeros, NaN of nothing."""
    with np.errstate(all="ignore"):
        return np.where(rows[:, COUNT] > 0, np.log10(rows[:, MAX]), np.nan)


def log10_min(rows: Floats) -> Floats:
    """Decimal logarithm of the smallest non-zero magnitude, shape [rows]; NaN where none is."""
    with np.errstate(all="ignore"):
        return np.where(rows[:, MAX] > 0, np.log10(rows[:, MIN]), np.nan)


def mean_share(rows: Floats) -> Floats:
    """Mean over root mean square, in [-1, 1], shape [rows]; NaN of zeros and of nothing."""
    with np.errstate(all="ignore"):
        return rows[:, TOTAL] / rows[:, MAX] / np.sqrt(rows[:, RELATIVE] * rows[:, COUNT])


def zero_share(rows: Floats) -> Floats:
    """Share of the finite entries that are exactly zero, shape [rows]; NaN of nothing."""
    with np.errstate(all="ignore"):
        return rows[:, ZEROS] / rows[:, COUNT]
