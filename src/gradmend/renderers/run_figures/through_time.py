"""Recurrent layers: what becomes of the gradient on its way back through time."""

from __future__ import annotations

import numpy as np

from gradmend.records.recurrence import Recurrence
from gradmend.records.trace import Trace
from gradmend.renderers.page.figure import Axis, Level, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.places import MODEL, forward, label
from gradmend.store.reader import RunReader

ID = "through-time"
OF_A_LOOK = "through-time-look"
FEW = 12
MOST_LINES = 60
MOST_STEPS = 400
_PANELS = (
    ("log10_gain", Axis(label="gradient per time step, back", unit="decades")),
    ("log10_span", Axis(label="gradient, first over last time step", unit="decades")),
    ("horizon", Axis(label="horizon of the gradient", unit="time steps", log=True)),
    ("spectral_radius", Axis(label="spectral radius")),
    ("forget_gate", Axis(label="opening of the forget gate", percent=True, lo=0.0, hi=1.0)),
)
SHOWN = tuple(name for name, _ in _PANELS)
_EVEN = {
    "log10_gain": (0.0, "0: kept"),
    "log10_span": (0.0, "0: kept"),
    "spectral_radius": (1.0, "1: vanishes below, may explode above"),
}


def over_steps(reader: RunReader) -> Lines | None:
    """Gain, span, horizon, spectral radius and forget gate; ``None`` without recurrent layers."""
    columns = reader.table_columns("recurrence")
    if not columns:
        return None
    seen = reader.overview("recurrence", [name for name, _ in _PANELS], MOST_STEPS)
    order = forward(columns).tolist()
    kept = np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_LINES)).round())
    panels: list[Axis] = []
    series: list[Series] = []
    levels: list[Level] = []
    for name, axis in _PANELS:
        values = seen.mean[name]
        mine = [order[int(place)] for place in kept]
        mine = [at for at in mine if not np.isnan(values[:, at]).all()]
        if not mine:
            continue
        series += [
            Series(
                name=label(columns[at]),
                layer=columns[at].module,
                values=values[:, at],
                role="background" if len(mine) > FEW else "",
                panel=len(panels),
            )
            for at in mine
        ]
        if name in _EVEN:
            y, text = _EVEN[name]
            levels.append(Level(y=y, text=text, panel=len(panels)))
        panels.append(axis)
    if not panels:
        return None
    return Lines(
        id=ID,
        title="Gradient through time",
        caption="What a recurrent layer does to the gradient from one time step to the one before."
        " The horizon is how many time steps back it is still worth 1/e; an infinite one reaches"
        " the beginning of the sequence." + _drawn(len(kept), len(order)),
        words=f"{len(order):,} recurrent layers over {wording.span(seen.steps)}: "
        + "; ".join(
            wording.line(f"{panels[each.panel].label} of {each.name}", each.values,
                         panels[each.panel])
            for each in series[: 5 * FEW]
        )
        + ".",
        x=wording.STEPS,
        at=seen.steps,
        panels=tuple(panels),
        series=tuple(series),
        levels=tuple(levels),
    )  # fmt: skip


def through_time_of(trace: Trace) -> Lines | None:
    """The gradient at each time step, as one look measured it; ``None`` where it kept no curve."""
    found = [each for each in trace.recurrences if each.log10_grads]
    if not found:
        return None
    axis = Axis(label="log10 |dL/dh_t|", unit="decades")
    steps = max(len(each.log10_grads) for each in found)
    kept = found[:MOST_LINES]
    series = [
        Series(
            name=_called(each),
            layer=each.name,
            values=_aligned(each.log10_grads, steps),
            role="background" if len(kept) > FEW else "",
        )
        for each in kept
    ]
    return Lines(
        id=OF_A_LOOK,
        title="Gradient at each time step",
        caption="Size of the loss's gradient with respect to the state after each time step, in"
        " the order in which the layer reads them. A line that falls towards the left has"
        " forgotten the beginning of the sequence." + _drawn(len(kept), len(found)),
        words="Gradient over time steps: "
        + "; ".join(wording.line(each.name, each.values, axis) for each in series)
        + ".",
        x=Axis(label="time step, as read"),
        at=np.arange(1, steps + 1),
        panels=(axis,),
        series=tuple(series),
    )


def _aligned(logs: tuple[float, ...], steps: int) -> np.ndarray:
    """Sequences of different lengths end together, at the step read last."""
    values = np.full(steps, np.nan)
    values[steps - len(logs) :] = logs
    return values


def _called(record: Recurrence) -> str:
    parts = [record.name or MODEL, record.kind]
    if record.layer:
        parts.append(f"layer {record.layer}")
    if record.direction != "forward":
        parts.append(record.direction)
    return ", ".join(part for part in parts if part)


def _drawn(some: int, of: int) -> str:
    return f" {some:,} of {of:,} layers are drawn." if some < of else ""
