"""Where two runs that began with different numbers part for good, over windows of steps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradmend.engine.watching.parting import Pair, first_in_order, parting_at
from gradmend.records.difference import Parting
from gradmend.records.history import Floats, Steps
from gradmend.theory.windows import rank

FLOOR = {"decades": 0.3, "share": 0.15, "code": 0.5}
"""Differences between windows that count at all, by unit (our choice): a factor of two."""
LOSS_FLOOR, RATE_FLOOR = 0.1, 0.05
"""The same for the loss and what is set, in decades: a quarter, a tenth."""
SIGMAS = 4.0
"""Standard errors of the windows' medians that a difference must exceed."""
WINDOWS, FEWEST = 20, 4
"""Most windows over a run, and fewest measured rows in one."""

_NO_WINDOWS = {
    ("step", "seconds"), ("step", "log10_raw_norm"), ("step", "backwards"), ("step", "batch_size"),
    ("gradient", "log10_min"), ("gradient", "log10_max"), ("gradient", "mean_share"),
    ("gradient", "log10_raw"), ("gradient", "non_finite"), ("output", "log10_max"),
    ("output", "non_finite"), ("update", "decay_share"),
}  # fmt: skip


def lasting(pair: Pair) -> Parting | None:
    """Where a quantity parts for good by more than its own variation, over windows of steps."""
    if (pair.table, pair.quantity) in _NO_WINDOWS:
        return None
    measured = [~np.isnan(v).all(axis=1) for v in pair.values]
    steps = [s[m] for s, m in zip(pair.steps, measured, strict=True)]
    values = [_level(pair, v[m]) for v, m in zip(pair.values, measured, strict=True)]
    low, high = max(s[0] for s in steps), min(s[-1] for s in steps)
    inside = [(s >= low) & (s <= high) for s in steps]
    steps = [s[i] for s, i in zip(steps, inside, strict=True)]
    values = [v[i] for v, i in zip(values, inside, strict=True)]
    count = min(WINDOWS, *(len(s) // FEWEST for s in steps))
    if count < 1:
        return None
    edges = _edges(steps[0], steps[1], count)
    if len(edges) < 2:
        return None
    medians, errors = zip(
        *(_windows(s, v, edges) for s, v in zip(steps, values, strict=True)), strict=True
    )
    gap = medians[0] - medians[1]
    limit = np.maximum(_floor(pair), SIGMAS * np.hypot(*errors))
    side = np.where(np.abs(gap) > limit, np.sign(gap), 0.0)
    side = np.where(np.isnan(gap), 0.0, side)
    lasts = _same_to_the_end(side)
    windows = len(lasts)
    needed = min(2, windows)
    lasts[windows - needed + 1 :] = False
    rows = np.flatnonzero(lasts.any(axis=1))
    if not len(rows):
        return None
    row = int(rows[0])
    if row == 0 and pair.quantity in ("learning_rate", "clip_limit"):
        return None  # set so from the beginning: a setting
    at = first_in_order(pair, np.flatnonzero(lasts[row]))
    shown = [float(_plain(pair, m[row, at])) for m in medians]
    return parting_at(
        pair,
        at,
        int(edges[row]),
        (shown[0], shown[1]),
        last_same=int(edges[row]) - 1 if row else -1,
        columns=int(lasts[row].sum()),
    )


def _level(pair: Pair, values: Floats) -> Floats:
    """Values on the scale on which they are compared; log10 of zero becomes -99."""
    if pair.unit in ("share", "code") or pair.unit.startswith("decades"):
        level = values
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.where((values < 0).any(), values, np.log10(np.abs(values)))
    return np.clip(level, -99.0, 99.0)


def _plain(pair: Pair, level: float) -> float:
    if pair.unit in ("share", "code") or pair.unit.startswith("decades"):
        return float(level)
    if any((v < 0).any() for v in pair.values):
        return float(level)
    return 0.0 if level <= -99.0 else 10.0 ** float(level)


def _floor(pair: Pair) -> float:
    if pair.quantity == "loss":
        return LOSS_FLOOR
    if pair.quantity in ("learning_rate", "clip_limit", "loss_scale"):
        return RATE_FLOOR
    return FLOOR.get(pair.unit, FLOOR["decades"])


def _edges(first: Steps, second: Steps, count: int) -> Steps:
    """Begins of windows that each hold about as many rows of the more rarely measured run."""
    rare = first if len(first) <= len(second) else second
    if len(first) == len(second):  # the same whichever run is named first
        rare = first if tuple(first) <= tuple(second) else second
    at = np.linspace(0, len(rare), count + 1).astype(int)
    return np.append(np.unique(rare[at[:-1]]), max(first[-1], second[-1]) + 1)


def _windows(steps: Steps, values: Floats, edges: Steps) -> tuple[Floats, Floats]:
    """Median of each window and its standard error, each [windows, columns]."""
    medians = np.full((len(edges) - 1, values.shape[1]), np.nan)
    errors = medians.copy()
    for at, (begin, end) in enumerate(pairwise(edges)):
        part = values[(steps >= begin) & (steps < end)]
        count = np.count_nonzero(~np.isnan(part), axis=0)
        middle = rank(part, 0.5)
        spread = 1.4826 * rank(np.abs(part - middle), 0.5)
        enough = count >= max(2, FEWEST - 1)
        medians[at] = np.where(enough, middle, np.nan)
        errors[at] = np.where(enough, 1.2533 * spread / np.sqrt(np.maximum(count, 1)), np.nan)
    return medians, errors


def _same_to_the_end(side: Floats) -> NDArray[np.bool_]:
    """Whether a window and all after it lie on the same side, [windows, columns]."""
    lasts = np.zeros(side.shape, dtype=bool)
    on = np.ones(side.shape[1], dtype=bool)
    for row in range(len(side) - 1, -1, -1):
        on &= (side[row] != 0) & (side[row] == side[-1])
        lasts[row] = on
    return lasts
