"""Gradient flow: the size of the gradient over depth, at the beginning and at the end."""

from __future__ import annotations

import numpy as np

from gradmend.records.history import Steps
from gradmend.renderers.page.figure import Axis, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.over_depth import lines_over_depth
from gradmend.renderers.run_figures.places import places
from gradmend.store.reader import RunReader

ID = "depth"
_AXIS = Axis(label="log10 of the gradient", unit="decades")


def gradient_flow(reader: RunReader) -> Lines | None:
    """Rms of every parameter's gradient, first and last, and its largest entry."""
    columns = reader.table_columns("gradient")
    if not columns:
        return None
    count = len(columns)
    first_steps, first = reader.newest("gradient", ["log10_rms", "log10_max"], oldest=True)
    last_steps, last = reader.newest("gradient", ["log10_rms", "log10_max"])
    depth = places(columns)
    lines = [("rms, last", last["log10_rms"], last_steps, "after")]
    if not np.array_equal(first_steps, last_steps):
        lines.insert(0, ("rms, first", first["log10_rms"], first_steps, "before"))
    lines.append(("largest entry, last", last["log10_max"], last_steps, ""))
    series = tuple(
        Series(
            name=f"{name} ({_when(steps[:count])})", values=depth.take(values[:count]), role=role
        )
        for name, values, steps, role in lines
        if not np.isnan(values[:count]).all()
    )
    if not series:
        return None
    return lines_over_depth(
        depth,
        series,
        _AXIS,
        id=ID,
        title="Gradient flow over depth",
        caption="Size of each parameter's gradient, from the input on the left to the output on"
        " the right. A line that falls towards the left is a gradient that vanishes on its way"
        " back, one that rises explodes; -inf is exactly zero.",
        words=f"Gradient of {count:,} parameters over depth",
    )


def _when(steps: Steps) -> str:
    known = np.unique(steps[steps >= 0])
    return wording.span(known) if len(known) else "never"
