"""The books over depth: from the raw gradient to the update that was applied."""

from __future__ import annotations

import numpy as np

from gradmend.renderers.page.figure import Axis, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.over_depth import lines_over_depth
from gradmend.renderers.run_figures.places import places
from gradmend.store.reader import RunReader

ID = "books"
_AXIS = Axis(label="log10 rms", unit="decades")


def over_depth(reader: RunReader) -> Lines | None:
    """Of every parameter, when last measured: raw gradient, as handed over, weights, update."""
    columns = reader.table_columns("gradient")
    if not columns:
        return None
    count = len(columns)
    raw_steps, raw = reader.newest("gradient", ["log10_raw", "log10_rms"])
    steps, got = reader.newest("gradient", ["log10_rms"])
    # Of the step at which the raw gradient was measured too, so that the two can be compared.
    both = ~np.isnan(raw["log10_rms"])
    handed = np.where(both, raw["log10_rms"], got["log10_rms"])[:count]
    steps = np.where(both, raw_steps, steps)[:count]
    updates = {column.name: at for at, column in enumerate(reader.table_columns("update"))}
    own = np.array([updates.get(column.name, -1) for column in columns])
    _, moved = reader.newest("update", ["log10_ratio", "log10_weight"])
    weight, ratio = (
        np.where(own >= 0, np.append(moved[name][: len(updates)], np.nan)[own], np.nan)
        for name in ("log10_weight", "log10_ratio")
    )
    with np.errstate(invalid="ignore"):  # weights of zero: their change has no ratio
        applied = weight + ratio
    depth = places(columns)
    lines = (
        ("raw gradient", raw["log10_raw"][:count], "before"),
        ("gradient that the optimizer got", handed, "after"),
        ("weights", weight, ""),
        ("update", applied, ""),
    )
    series = tuple(
        Series(name=name, values=depth.take(values), role=role)
        for name, values, role in lines
        if not np.isnan(values).all()
    )
    if not series:
        return None
    when = np.unique(steps[steps >= 0])
    told = f"when last measured, {wording.span(when)}" if len(when) else "when last measured"
    return lines_over_depth(
        depth,
        series,
        _AXIS,
        id=ID,
        title="From raw gradient to update",
        caption=f"Rms of every parameter, {told}; the raw gradient is before clipping and without"
        " the loss scale. Where the update does not follow the gradient, the optimizer has"
        " rescaled it.",
        words=f"Sizes of {count:,} parameters over depth",
    )
