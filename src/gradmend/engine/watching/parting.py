"""The first step and column at which tables of two runs differ.

Runs that began with the same numbers are compared number by number. Others are compared over
windows, each quantity against its own variation from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradmend.records.difference import Parting
from gradmend.records.history import QUANTITIES, TABLES, Column, Floats, History, Steps, Table
from gradmend.theory.windows import rank

TOLERANCE = 1e-5
"""Relative difference that float32 sums over a million entries in another order may show."""
SHARE_TOLERANCE = 1e-3
"""For shares: a few entries on an edge may fall to either side."""
GENERIC = 1e-3
"""Numbers closer to zero say nothing of a seed: log10 of ones, means of norms."""
FLOOR = {"decades": 0.3, "share": 0.15, "code": 0.5}
"""Differences between windows that count at all, by unit (our choice): a factor of two."""
LOSS_FLOOR, RATE_FLOOR = 0.1, 0.05
"""The same for the loss and what is set, in decades: a quarter, a tenth."""
SIGMAS = 4.0
"""Standard errors of the windows' medians that a difference must exceed."""
WINDOWS, FEWEST = 20, 4
"""Most windows over a run, and fewest measured rows in one."""
LONG = 256
"""Rows from which a table may hold means over buckets of steps in place of single steps."""

_ALL_SEEN = 4096
"""Entries up to which a parameter's numbers are the same whether all or a sample was looked at."""
_SAMPLED = {("step", "log10_norm"), ("step", "log10_raw_norm")}
_NO_EXACT = {("output", "dead_share"), ("gradient", "log10_min"), ("step", "seconds")}
"""Depend on when was measured, on single entries, or on the clock."""
_NO_WINDOWS = {
    ("step", "seconds"), ("step", "log10_raw_norm"), ("step", "backwards"), ("step", "batch_size"),
    ("gradient", "log10_min"), ("gradient", "log10_max"), ("gradient", "mean_share"),
    ("gradient", "log10_raw"), ("gradient", "non_finite"), ("output", "log10_max"),
    ("output", "non_finite"), ("update", "decay_share"),
}  # fmt: skip
_STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("update", ("log10_weight", "outside_share")),
    ("step", ("batch_size",)),
    ("output", ("log10_rms", "log10_max", "spread_share", "zero_share", "non_finite")),
    ("output", ("flat_share", "dead_share")),
    ("attention", QUANTITIES["attention"]),
    ("recurrence", ("spectral_radius", "forget_gate")),
    ("step", ("loss", "loss_scale", "backwards", "not_cleared")),
    ("gradient", ("log10_raw",)),
    ("output", ("log10_grad",)),
    ("recurrence", ("log10_gain", "log10_span", "horizon")),
    ("step", ("log10_raw_norm", "clip_limit", "clip_scaled", "clip_factor")),
    ("gradient", QUANTITIES["gradient"]),
    ("step", ("log10_norm", "skipped", "learning_rate", "clip_late")),
    ("update", QUANTITIES["update"]),
    ("step", QUANTITIES["step"]),
)
"""As one causes the other within a step: weights, forward, loss, backward, clip, update."""
_BACKWARD = {("output", "log10_grad"), *(("gradient", name) for name in QUANTITIES["gradient"])}


@dataclass(frozen=True, slots=True)
class Pair:
    """A quantity in two runs, over the columns that both have."""

    table: str
    quantity: str
    unit: str
    columns: tuple[Column, ...]
    steps: tuple[Steps, Steps]
    values: tuple[Floats, Floats]
    """Each of shape [rows, columns]."""


def pairs(a: History, b: History) -> Iterator[Pair]:
    """Every quantity that was measured in both runs, columns matched by name."""
    for table, quantities in TABLES.items():
        left, right = a[table], b[table]
        at = {name: index for index, name in enumerate(right.names)}
        both = [(i, at[name]) for i, name in enumerate(left.names) if name in at]
        if not both or not len(left) or not len(right):
            continue
        mine, theirs = [i for i, _ in both], [j for _, j in both]
        columns = tuple(left.columns[i] for i in mine)
        for quantity in quantities:
            first, second = left[quantity.name][:, mine], right[quantity.name][:, theirs]
            if np.isnan(first).all() or np.isnan(second).all():
                continue
            steps = (left.steps, right.steps)
            yield Pair(table, quantity.name, quantity.unit, columns, steps, (first, second))


def began_alike(a: History, b: History) -> bool:
    """Whether the first step that both measured shows the same numbers, as one seed gives.

    A quarter of the numbers is enough: what was changed between the runs may differ at once.
    Where nothing can be told by (only ones and zeros so far), the numbers are taken as they are.
    """
    same = seen = 0
    for pair in pairs(a, b):
        if (pair.table, pair.quantity) not in (
            ("output", "log10_rms"), ("step", "loss"), ("gradient", "log10_rms"),
            ("update", "log10_weight"), ("step", "log10_norm"),
        ):  # fmt: skip
            continue
        common, left, right = np.intersect1d(*pair.steps, return_indices=True)
        if not len(common):
            continue
        x, y = pair.values[0][left[0]], pair.values[1][right[0]]
        told = np.isfinite(x) & np.isfinite(y) & (np.abs(x) > GENERIC)
        seen += int(told.sum())
        same += int((told & ~_differs(x, y, pair)).sum())
    return 4 * same >= seen


def exact(pair: Pair, thorough: tuple[Steps, Steps]) -> tuple[Parting | None, float]:
    """The first number of a quantity that differs by more than rounding.

    Args:
        pair: The quantity.
        thorough: Steps at which each run looked at every entry, and not at a sample of them.

    Returns:
        Where it parts, and the first step at which it is not the same to the last bit; infinity
        where there is none.
    """
    if (pair.table, pair.quantity) in _NO_EXACT:
        return None, math.inf
    common, left, right = np.intersect1d(*pair.steps, return_indices=True)
    keep = _same_steps(pair.steps, left, right)
    common, left, right = common[keep], left[keep], right[keep]
    x, y = pair.values[0][left], pair.values[1][right]
    known = ~np.isnan(x) & ~np.isnan(y)
    if pair.table == "gradient" or (pair.table, pair.quantity) in _SAMPLED:
        alike = np.isin(common, thorough[0]) == np.isin(common, thorough[1])
        small = np.array([pair.table == "gradient" and c.size <= _ALL_SEEN for c in pair.columns])
        known &= alike[:, None] | small
    off = known & _differs(x, y, pair)
    rows, unequal = np.flatnonzero(off.any(axis=1)), np.flatnonzero((known & (x != y)).any(axis=1))
    drift = float(common[unequal[0]]) if len(unequal) else math.inf
    if not len(rows):
        return None, drift
    end = int(rows[0])
    at = _first_in_order(pair, np.flatnonzero(off[end]))
    same_before = np.flatnonzero(known[:end, at])
    return _parting(
        pair,
        at,
        int(common[end]),
        (float(x[end, at]), float(y[end, at])),
        last_same=int(common[same_before[-1]]) if len(same_before) else -1,
        columns=int(off[end].sum()),
    ), drift


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
    at = _first_in_order(pair, np.flatnonzero(lasts[row]))
    shown = [float(_plain(pair, m[row, at])) for m in medians]
    return _parting(
        pair,
        at,
        int(edges[row]),
        (shown[0], shown[1]),
        last_same=int(edges[row]) - 1 if row else -1,
        columns=int(lasts[row].sum()),
    )


def causal(parting: Parting) -> tuple[int, int]:
    """A key that sorts partings by step, and within a step as one thing causes another."""
    return parting.step, stage(parting.table, parting.quantity)


def stage(table: str, quantity: str) -> int:
    """The place of a quantity in a step, from the weights before it to their change."""
    for at, (where, names) in enumerate(_STAGES):
        if where == table and quantity in names:
            return at
    return len(_STAGES)


def thorough_steps(history: History) -> Steps:
    """Steps at which all entries of the gradients were looked at."""
    gradient, updates = history["gradient"], history["update"]
    if not math.isfinite(history.run.budget):
        return np.union1d(gradient.steps, history["step"].steps)
    raw = gradient["log10_raw"]
    seen = gradient.steps[~np.isnan(raw).all(axis=1)] if raw.size else gradient.steps[:0]
    return np.union1d(seen, updates.steps)


def only_in(left: Table, right: Table) -> tuple[str, ...]:
    """Names of the columns that the second table lacks."""
    there = set(right.names)
    return tuple(name for name in left.names if name not in there)


def _differs(x: Floats, y: Floats, pair: Pair) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):  # infinities of one sign are the same
        gap = np.where(x == y, 0.0, np.abs(x - y))
        if pair.unit.startswith("decades"):
            return np.asarray(gap > TOLERANCE)
        if pair.unit == "share" or pair.quantity == "mean_share":
            return np.asarray(gap > SHARE_TOLERANCE)
        size = np.maximum(np.abs(x), np.abs(y))
        return np.asarray((gap > TOLERANCE * size) & (gap > 0) | np.isinf(gap))


def _same_steps(
    steps: tuple[Steps, Steps], left: NDArray[np.intp], right: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Rows that stand for the same steps: in long tables, those with the same neighbours."""
    if max(len(s) for s in steps) <= LONG:
        return np.ones(len(left), dtype=bool)
    keep = np.ones(len(left), dtype=bool)
    for side in (-1, 1):
        there = [
            np.where((at + side >= 0) & (at + side < len(s)), s[(at + side) % len(s)], -1)
            for s, at in zip(steps, (left, right), strict=True)
        ]
        keep &= (there[0] == there[1]) | (there[0] < 0) | (there[1] < 0)
    return keep


def _first_in_order(pair: Pair, which: NDArray[np.intp]) -> int:
    """Of some columns the first: backward order for gradients, else forward order."""
    backward = (pair.table, pair.quantity) in _BACKWARD

    def key(at: np.intp) -> tuple[int, int]:
        order = pair.columns[at].order if pair.columns[at].order >= 0 else int(at)
        return (-order, -int(at)) if backward else (order, int(at))

    return int(min(which, key=key))


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


def _parting(
    pair: Pair, at: int, step: int, shown: tuple[float, float], *, last_same: int, columns: int
) -> Parting:
    return Parting(
        step=step,
        table=pair.table,
        quantity=pair.quantity,
        column=pair.columns[at].name,
        unit=pair.unit,
        a=None if math.isnan(shown[0]) else shown[0],
        b=None if math.isnan(shown[1]) else shown[1],
        last_same=last_same,
        source=pair.columns[at].source,
        columns=columns,
    )
