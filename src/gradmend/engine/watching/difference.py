"""Where a good and a bad run part: the first step and layer, and the settings that differ."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from gradmend.engine.watching import parting
from gradmend.engine.watching.lasting import lasting
from gradmend.records.difference import Difference, Parting, Setting
from gradmend.records.history import TABLES, Column, History
from gradmend.theory.windows import rank

LAST_LOSSES = 20
"""Losses at the end of a run whose median stands for the final one."""

_OF_ONE = ("shape of ", "kind of ")
"""Settings of things that may be in one run only; those are told apart already."""


def difference(a: History, b: History) -> Difference:
    """Compare two runs by step and by column name.

    Runs that began alike (one seed, one set of data) are compared number by number, up to the
    rounding of float32 sums. Others are compared over windows: what lastingly differs by more than
    its own variation from step to step and by more than a factor of two.

    Args:
        a: One run, say the good one.
        b: The other.

    Returns:
        The first parting of each quantity, earliest first; the settings, findings and columns of
        one run only. With the runs swapped, the same with their sides swapped.
    """
    alike = parting.began_alike(a, b)
    found: list[Parting] = []
    drifts = math.inf
    if alike:
        thorough = (parting.thorough_steps(a), parting.thorough_steps(b))
        for pair in parting.pairs(a, b):
            first, drift = parting.exact(pair, thorough)
            found += [first] if first is not None else []
            drifts = min(drifts, drift)
    else:
        lasts = (lasting(pair) for pair in parting.pairs(a, b))
        found = [first for first in lasts if first is not None]
    found += _broken(a, b)
    clipped = any(len(h["step"]) and np.isfinite(h["step"]["clip_limit"]).any() for h in (a, b))
    found.sort(key=lambda first: (*parting.causal(first, clipped=clipped), first.column))
    return Difference(
        names=(a.run.name, b.run.name),
        steps=(_steps(a), _steps(b)),
        compared=_compared(a, b),
        exact=alike,
        bitwise=alike and drifts >= (found[0].step if found else math.inf),
        tolerance=parting.TOLERANCE,
        partings=tuple(found),
        settings=tuple(_settings(a, b)),
        losses=(_final_loss(a), _final_loss(b)),
        findings=_only(_findings(a), _findings(b)),
        columns=_only(_columns(a), _columns(b)),
    )


def _steps(history: History) -> int:
    return history.run.steps or history.step + 1


def _compared(a: History, b: History) -> int:
    steps = [np.unique(np.concatenate([h[name].steps for name in TABLES])) for h in (a, b)]
    return len(np.intersect1d(steps[0], steps[1]))


def _broken(a: History, b: History) -> list[Parting]:
    """The first value that is not finite, where only one run has it or has it earlier."""
    first = [next(h.of_kind("non-finite"), None) for h in (a, b)]
    steps = [np.inf if event is None else event.step for event in first]
    if steps[0] == steps[1]:
        return []
    side = 0 if steps[0] < steps[1] else 1
    event = first[side]
    assert event is not None
    return [
        Parting(
            step=event.step,
            table="event",
            quantity="non-finite",
            column=event.where,
            unit="1",
            a=float(side == 0),
            b=float(side == 1),
            last_same=event.step - 1,
            source=event.facts.get("source"),
        )
    ]


def _settings(a: History, b: History) -> list[Setting]:
    left, right = _circumstances(a), _circumstances(b)
    names, both = dict.fromkeys([*left, *right]), left.keys() & right.keys()
    return [
        Setting(name=name, a=left.get(name, "-"), b=right.get(name, "-"))
        for name in names
        if left.get(name) != right.get(name) and (name in both or not name.startswith(_OF_ONE))
    ]


def _circumstances(history: History) -> dict[str, str]:
    run, steps, parameters = history.run, history["step"], history["gradient"].columns
    said = {
        "command": run.command,
        "models": ", ".join(run.models),
        "optimizers": ", ".join(column.kind for column in steps.columns),
    }
    for at, column in enumerate(steps.columns):
        for quantity in ("learning_rate", "batch_size", "clip_limit"):
            _, values = steps.series(quantity, at)
            if len(values):
                said[f"{column.name} {quantity.replace('_', ' ')}, first"] = f"{values[0]:.6g}"
        _, scales = steps.series("loss_scale", at)
        said[f"{column.name} loss scale"] = "yes" if len(scales) else "no"
        for name, value in sorted(column.facts.items()):
            said[f"{column.name} {name.replace('_', ' ')}"] = _plain(value)
    said["parameters"] = f"{sum(column.size for column in parameters):,}"
    said["dtypes"] = ", ".join(sorted({column.dtype for column in parameters if column.dtype}))
    said |= {f"shape of {column.name}": _shape(column) for column in parameters}
    said |= {f"{column.name} trainable": "no" for column in parameters if _frozen(column)}
    said |= {
        f"kind of {column.name or 'the model'}": column.kind
        for column in history["output"].columns
        if column.kind
    }
    said |= {"device": run.device, "processes": str(run.ranks)}
    said |= {"torch": run.torch, "python": run.python}
    return said


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shape(column: Column) -> str:
    return " x ".join(str(size) for size in column.shape) or "one number"


def _frozen(column: Column) -> bool:
    return not column.facts.get("trainable", True)


def _final_loss(history: History) -> float | None:
    """Lower median of the last losses of the optimizer that has most of them."""
    losses = history["step"]["loss"]
    if not losses.size:
        return None
    column = losses[:, int(np.argmax((~np.isnan(losses)).sum(axis=0)))]
    known = column[np.isfinite(column)][-LAST_LOSSES:]
    return float(rank(known[:, None], 0.5)[0]) if len(known) else None


def _findings(history: History) -> list[str]:
    begun = history.of_kind("finding-begins")
    return [f"{event.facts.get('code', '')} {event.facts.get('name', '')}" for event in begun]


def _columns(history: History) -> list[str]:
    return [f"{table}: {name}" for table in TABLES for name in history[table].names]


def _only(a: Iterable[str], b: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    left, right = dict.fromkeys(a), dict.fromkeys(b)
    return (
        tuple(item for item in left if item not in right),
        tuple(item for item in right if item not in left),
    )
