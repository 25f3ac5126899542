"""The first step and column at which tables of two runs that began alike differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmend.records.difference import Parting
from gradmend.records.history import QUANTITIES, TABLES, Column, Floats, History, Steps, Table

TOLERANCE = 1e-5
"""Relative difference that float32 sums over a million entries in another order may show."""
SHARE_TOLERANCE = 1e-3
"""For shares: a few entries on an edge may fall to either side."""
GENERIC = 1e-3
"""Numbers closer to zero say nothing of a seed: log10 of ones, means of norms."""
LONG = 256
"""Rows from which a table may hold means over buckets of steps in place of single steps."""

_ALL_SEEN = 4096
"""Entries up to which a parameter's numbers are the same whether all or a sample was looked at."""
_SAMPLED = {("step", "log10_norm"), ("step", "log10_raw_norm")}
_NO_EXACT = {("output", "dead_share"), ("gradient", "log10_min"), ("step", "seconds")}
"""Depend on when was measured, on single entries, or on the clock."""
_STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("update", ("log10_weight", "outside_share")),
    ("step", ("batch_size",)),
    ("output", ("log10_rms", "log10_max", "spread_share", "zero_share", "non_finite")),
    ("output", ("flat_share", "dead_share")),
    ("attention", QUANTITIES["attention"]),
    ("recurrence", ("spectral_radius", "forget_gate")),
    ("step", ("loss", "loss_scale", "backwards", "not_cleared")),
    ("gradient", ("state", "log10_raw")),
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
    at = first_in_order(pair, np.flatnonzero(off[end]))
    same_before = np.flatnonzero(known[:end, at])
    return parting_at(
        pair,
        at,
        int(common[end]),
        (float(x[end, at]), float(y[end, at])),
        last_same=int(common[same_before[-1]]) if len(same_before) else -1,
        columns=int(off[end].sum()),
    ), drift


def causal(parting: Parting, *, clipped: bool) -> tuple[int, int]:
    """A key that sorts partings by step, and within a step as one thing causes another.

    Where nothing is clipped, the gradient that the optimizer got is the raw one.
    """
    raw = parting.table == "gradient" and not clipped
    return parting.step, stage(parting.table, "log10_raw" if raw else parting.quantity)


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


def first_in_order(pair: Pair, which: NDArray[np.intp]) -> int:
    """Of some columns the first: backward order for gradients, else forward order."""
    backward = (pair.table, pair.quantity) in _BACKWARD

    def key(at: np.intp) -> tuple[int, int]:
        order = pair.columns[at].order if pair.columns[at].order >= 0 else int(at)
        return (-order, -int(at)) if backward else (order, int(at))

    return int(min(which, key=key))


def parting_at(
    pair: Pair, at: int, step: int, shown: tuple[float, float], *, last_same: int, columns: int
) -> Parting:
    """The record of a pair's column that parts at a step, with the numbers of either run."""
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
