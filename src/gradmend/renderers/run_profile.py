"""A run over depth: what each module's gradient, update and units are, first and last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gradmend.records.history import Column, Floats, History
from gradmend.theory.fates import NONE, SICK

MOST_ROWS = 24
FEWEST_STRETCHES = 4
"""Rows that a stack too long to be opened must get, to be told in stretches at all."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A module, or several of them that share a row; NaN where not measured."""

    name: str
    """``layers.0``, or ``layers.0 .. 7`` for several."""
    modules: int
    log10_first: float
    """log10 rms of the gradient when first measured."""
    log10_last: float
    log10_ratio: float
    """log10 of update over weight, when last measured."""
    unchanged: float
    """Share of the weights bitwise the same after the step last measured."""
    flat: float
    """Share of entries where the activation is flat, the largest of its modules."""
    dead: float
    """Share of dead units, the largest of its modules."""
    state: str = ""
    """``None`` or ``not finite``, where the last gradient is no number at all."""


def layers(history: History, limit: int = MOST_ROWS) -> list[Layer]:
    """The run over depth in forward order, in at most ``limit`` rows.

    Where there are too many, modules share a row with those of their container (a transformer's
    block), and neighbours share one in a stack too long for that.
    """
    gradient, updates, outputs = history["gradient"], history["update"], history["output"]
    order = sorted(range(len(gradient.columns)), key=lambda at: _place(gradient.columns[at], at))
    modules = list(dict.fromkeys(gradient.columns[at].module for at in order))
    of_module: dict[str, list[int]] = {module: [] for module in modules}
    for at in order:
        of_module[gradient.columns[at].module].append(at)
    parted = _parted(modules, limit)
    first, last = gradient.first("log10_rms"), gradient.last("log10_rms")
    state = gradient.last("state")
    weight, ratio = updates.last("log10_weight"), updates.last("log10_ratio")
    with np.errstate(invalid="ignore"):  # weights of zero: their change has no ratio
        change = weight + ratio
    unchanged = updates.last("unchanged_share")
    update_at = {name: at for at, name in enumerate(updates.names)}
    owners = _owners(outputs.columns, modules)
    flat, dead = outputs.last("flat_share"), outputs.last("dead_share")
    found = []
    for name, members in parted:
        inside = set(members)
        mine = [at for module in members for at in of_module[module]]
        sizes = np.array([gradient.columns[at].size for at in mine], dtype=float)
        theirs = [update_at.get(gradient.columns[at].name) for at in mine]
        known = [(u, n) for u, n in zip(theirs, sizes, strict=True) if u is not None]
        moved, n = [u for u, _ in known], np.array([n for _, n in known], dtype=float)
        units = [index for index, owner in enumerate(owners) if owner in inside]
        found.append(
            Layer(
                name=name,
                modules=len(members),
                log10_first=_pooled(first[mine], sizes),
                log10_last=_pooled(last[mine], sizes),
                log10_ratio=_ratio(change[moved], weight[moved], n),
                unchanged=_mean(unchanged[moved], n),
                flat=_most(flat[units]),
                dead=_most(dead[units]),
                state=_state(state[mine]),
            )
        )
    return found


def _place(column: Column, at: int) -> tuple[int, int]:
    return (column.order if column.order >= 0 else at, at)


def _parted(modules: Sequence[str], limit: int) -> list[tuple[str, tuple[str, ...]]]:
    """(name, modules) of each row: containers, opened while there is room.

    Like containers (the blocks of one stack) are opened all or none. A stack that is too long to
    be opened is told in stretches of neighbours.
    """
    rows = _inside("", modules)
    if len(rows) > limit:
        return _stretches(rows, limit)
    cohorts = [[row] for row in rows]
    shut = [len(cohort[0][1]) < 2 for cohort in cohorts]
    while not all(shut):
        at = max(
            (k for k, closed in enumerate(shut) if not closed),
            key=lambda k: sum(len(members) for _, members in cohorts[k]),
        )
        children = [child for name, members in cohorts[at] for child in _inside(name, members)]
        room = limit - sum(map(len, cohorts)) + len(cohorts[at])
        if len(children) > room and len(cohorts[at]) == 1 and room >= FEWEST_STRETCHES:
            children = _stretches(children, room)
            shut[at] = True
        elif len(children) > room:
            shut[at] = True
            continue
        else:
            shut[at] = children == cohorts[at]
        cohorts[at] = children
    return [row for cohort in cohorts for row in cohort]


def _inside(name: str, members: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The members of a container, by the next part of their path."""
    depth = name.count(".") + 2 if name else 1
    groups: dict[str, list[str]] = {}
    for module in members:
        groups.setdefault(".".join(module.split(".")[:depth]), []).append(module)
    return [(path, tuple(inside)) for path, inside in groups.items()]


def _stretches(
    rows: Sequence[tuple[str, tuple[str, ...]]], count: int
) -> list[tuple[str, tuple[str, ...]]]:
    """Neighbours put together, into so many rows."""
    edges = np.linspace(0, len(rows), count + 1).round().astype(int)
    parts = [rows[begin:end] for begin, end in pairwise(edges)]
    return [
        (_span(part[0][0], part[-1][0]), tuple(module for _, inside in part for module in inside))
        for part in parts
        if part
    ]


def _span(first: str, last: str) -> str:
    """``layers.0 .. 4``: the parents that both share are told once."""
    if first == last:
        return first
    parents, _, name = last.rpartition(".")
    return f"{first} .. {name if parents == first.rpartition('.')[0] else last}"


def _owners(outputs: Sequence[Column], modules: Sequence[str]) -> list[str]:
    """The module with parameters that each output counts for: itself, or the last before it."""
    known, before = set(modules), ""
    owners = [""] * len(outputs)
    for at in sorted(range(len(outputs)), key=lambda at: _place(outputs[at], at)):
        before = outputs[at].name if outputs[at].name in known else before
        owners[at] = before
    return owners


def _pooled(log10: Floats, sizes: Floats) -> float:
    """log10 rms over several tensors together; NaN where none was measured."""
    known = ~np.isnan(log10) & (sizes > 0)
    if not known.any():
        return float("nan")
    largest = float(log10[known].max())
    if not np.isfinite(largest):
        return largest
    squares = 10.0 ** (2.0 * (log10[known] - largest))
    return largest + 0.5 * float(np.log10((squares * sizes[known]).sum() / sizes[known].sum()))


def _ratio(change: Floats, weight: Floats, sizes: Floats) -> float:
    """log10 of update over weight of several tensors together."""
    over, under = _pooled(change, sizes), _pooled(weight, sizes)
    return over - under if np.isfinite(under) else float("nan")


def _state(states: Floats) -> str:
    if (states == SICK).any():
        return "not finite"
    return "None" if len(states) and (states == NONE).all() else ""


def _mean(values: Floats, sizes: Floats) -> float:
    known = ~np.isnan(values)
    if not known.any():
        return float("nan")
    return float((values[known] * sizes[known]).sum() / sizes[known].sum())


def _most(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else float("nan")
