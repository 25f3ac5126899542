"""Several runs in one figure: loss, gradient norm, or update over weight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradmend.errors import UnknownName
from gradmend.records.history import Floats, Steps
from gradmend.renderers.page.figure import Axis, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.places import label
from gradmend.renderers.run_figures.ratio import quantiles
from gradmend.renderers.run_figures.training import WIDE, sized
from gradmend.store.reader import RunReader

MOST_STEPS = 600
COMPARED = {
    "compare-loss": "Loss of several runs",
    "compare-norm": "Gradient norm of several runs",
    "compare-ratio": "Update over weight of several runs",
}
"""Title by id."""
_QUANTITY = {"compare-loss": "loss", "compare-norm": "log10_raw_norm"}


def overlay(readers: Mapping[str, RunReader], id: str) -> Lines | None:
    """One line, or one per optimizer, of each run.

    Args:
        readers: Runs by the name to show.
        id: ``compare-loss``, ``compare-norm`` or ``compare-ratio``.

    Returns:
        The figure; ``None`` where no run holds anything of it.

    Raises:
        UnknownName: If no such figure exists.
    """
    if id not in COMPARED:
        raise UnknownName("there is no such comparison", "", f"choose {', '.join(COMPARED)}")
    found: list[tuple[str, Steps, Floats]] = []
    for name, reader in readers.items():
        found += _of_ratio(name, reader) if id == "compare-ratio" else _of_steps(name, reader, id)
    if not found:
        return None
    at = np.unique(np.concatenate([steps for _, steps, _ in found]))
    values = [_placed(at, steps, line) for _, steps, line in found]
    axis, values = _axis(id, values)
    series = tuple(
        Series(name=name, values=line) for (name, _, _), line in zip(found, values, strict=True)
    )
    return Lines(
        id=id,
        title=COMPARED[id],
        caption="One colour for each run; a line is a mean where a point stands for several steps."
        if id != "compare-ratio"
        else "Median over the weight matrices of each run; one colour for each run.",
        words=f"{len(readers):,} runs over {wording.span(at)}: "
        + "; ".join(wording.line(each.name, each.values, axis) for each in series)
        + ".",
        x=wording.STEPS,
        at=at,
        panels=(axis,),
        series=series,
        levels=(wording.rule_of_thumb(),) if id == "compare-ratio" else (),
    )


def _of_steps(name: str, reader: RunReader, id: str) -> list[tuple[str, Steps, Floats]]:
    columns = reader.table_columns("step")
    quantity = _QUANTITY[id]
    if not columns:
        return []
    seen = reader.overview("step", [quantity], MOST_STEPS)
    lines = []
    for at, column in enumerate(columns):
        values = seen.mean[quantity][:, at]
        known = ~np.isnan(values)
        if known.any():
            told = name if len(columns) == 1 else f"{name}, {label(column)}"
            lines.append((told, seen.steps[known], values[known]))
    return lines


def _of_ratio(name: str, reader: RunReader) -> list[tuple[str, Steps, Floats]]:
    columns = reader.table_columns("update")
    matrices = [at for at, column in enumerate(columns) if len(column.shape) >= 2]
    matrices = matrices or list(range(len(columns)))
    if not matrices:
        return []
    seen = reader.overview("update", ["log10_ratio"], MOST_STEPS)
    _, middle, _ = quantiles(seen.mean["log10_ratio"][:, matrices])
    known = ~np.isnan(middle)
    return [(name, seen.steps[known], middle[known])] if known.any() else []


def _placed(at: Steps, steps: Steps, line: Floats) -> Floats:
    """A run's line at the steps of all; runs are measured at different ones.

    Between two of its own points it goes straight from one to the other, as it is drawn alone;
    else it would fall to pieces wherever another run was measured.
    """
    values = np.full(len(at), np.nan)
    finite = np.isfinite(line)
    if finite.any():
        within = (at >= steps[0]) & (at <= steps[-1])
        values[within] = np.interp(at[within], steps[finite], line[finite])
    values[np.searchsorted(at, steps)] = line
    return values


def _axis(id: str, lines: list[Floats]) -> tuple[Axis, list[Floats]]:
    if id == "compare-ratio":
        return Axis(label="log10 of update over weight, median", unit="decades"), lines
    if id == "compare-norm":
        return sized("|gradient|", lines)
    finite = np.concatenate([line[np.isfinite(line)] for line in lines])
    wide = bool(len(finite) and finite.min() > 0 and finite.max() > WIDE * finite.min())
    return Axis(label="loss", log=wide), lines
