"""Words that the figures of a run share: axes, sizes and extremes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradmend.records.history import Floats, Steps
from gradmend.renderers import numbers
from gradmend.renderers.page.figure import Axis, Level

STEPS = Axis(label="optimizer step")
DEPTH = Axis(label="layer, in forward order")
RULE_OF_THUMB = -3.0
"""log10 of update over weight (CS231n: "somewhere around 1e-3")."""


def rule_of_thumb(panel: int = 0) -> Level:
    """The line at which updates are of the usual size."""
    return Level(y=RULE_OF_THUMB, text="1e-3: rule of thumb, CS231n", panel=panel)


def span(steps: Steps) -> str:
    """``steps 0 to 99,999``."""
    if len(steps) == 1:
        return f"step {int(steps[0]):,}"
    return f"steps {int(steps[0]):,} to {int(steps[-1]):,}"


def value(number: float, axis: Axis) -> str:
    """A number with the unit of its axis."""
    if axis.percent:
        return numbers.percent(number)
    return numbers.with_unit(number, axis.unit)


def extremes(
    values: Floats, rows: Sequence[str], columns: Sequence[str], axis: Axis, *, both: bool = True
) -> str:
    """``Largest 3.1 at a, step 5; smallest ...``: a matrix for those who cannot see it."""
    values = np.asarray(values)
    finite = np.where(np.isfinite(values), values, np.nan)
    zeros = int((values == -np.inf).sum())
    beside = f" {zeros:,} of {values.size:,} are of exactly zero." if zeros else ""
    if np.isnan(finite).all():
        return f"No value is finite.{beside}"
    if np.nanmin(finite) == np.nanmax(finite):
        return f"All finite values are {value(float(np.nanmax(finite)), axis)}.{beside}"
    parts = []
    for word, at in (("largest", np.nanargmax(finite)), ("smallest", np.nanargmin(finite))):
        row, column = divmod(int(at), values.shape[1])
        number = value(float(values[row, column]), axis)
        parts.append(f"{word} {number} at {rows[row]}, {columns[column]}")
    text = "; ".join(parts if both else parts[:1])
    return f"{text[0].upper()}{text[1:]}.{beside}"


def step_names(steps: Steps) -> list[str]:
    """``step 5`` for each."""
    return [f"step {int(step):,}" for step in steps]


def line(name: str, values: Floats, axis: Axis) -> str:
    """``loss from 2.3 to 0.4``: a line for those who cannot see it."""
    known = values[~np.isnan(values)]
    if not len(known):
        return f"{name} not measured"
    first, last = value(float(known[0]), axis), value(float(known[-1]), axis)
    return f"{name} {first}" if len(known) == 1 else f"{name} from {first} to {last}"


def pooled_words(*, steps: bool, layers: bool, how: str = "means") -> str:
    """What one cell stands for, where it stands for several; empty where it does not."""
    parts = []
    if steps:
        parts.append("each column stands for several steps (means)")
    if layers:
        parts.append(f"each row for neighbouring layers ({how})")
    words = ", ".join(parts)
    return f" {words[0].upper()}{words[1:]}." if words else ""
