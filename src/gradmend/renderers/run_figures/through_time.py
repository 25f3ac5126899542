"""Recurrent layers: what becomes of the gradient on its way back through time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradmend.records.history import Floats
from gradmend.records.recurrence import Recurrence, thinned
from gradmend.records.trace import Trace
from gradmend.renderers.page.figure import Axis, Level, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.places import MODEL, forward, label
from gradmend.store.reader import RunReader
from gradmend.theory.repeated import ZERO, repeated_modules

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


@dataclass(frozen=True, slots=True)
class _Curve:
    """The gradient over the time steps of one layer."""

    name: str
    layer: str
    steps: int
    points: tuple[tuple[int, float], ...]
    """(step, log10 of the gradient)."""
    loop: bool = False

    def at(self, wanted: Floats, steps: int) -> Floats:
        """The curve at the wanted ones of so many steps: all end together, at the one read last.

        Between points that were kept it is drawn straight, as a line would be; NaN before it
        begins.
        """
        kept, logs = np.array(self.points).T
        places = kept + (steps - self.steps)
        near = logs[np.abs(places[:, None] - wanted).argmin(axis=0)]
        with np.errstate(invalid="ignore"):
            values = np.interp(wanted, places, logs)
        values = np.where(np.isfinite(values), values, near)  # beside an exact zero
        return np.where(wanted < places[0], np.nan, values)


def through_time_of(trace: Trace) -> Lines | None:
    """The gradient at each time step, as one look measured it; ``None`` where it kept no curve."""
    found = [*_layers(trace), *_loops(trace)]
    if not found:
        return None
    kept = found[:MOST_LINES]
    longest = max(kept, key=lambda each: each.steps)
    at = np.array([step for step, _ in longest.points])
    names = {False: "log10 |dL/dh_t|", True: "log10 |dL/d output| of a call"}
    loops = sorted({each.loop for each in kept})
    panels = tuple(Axis(label=names[loop], unit="decades") for loop in loops)
    series = [
        Series(
            name=each.name,
            layer=each.layer,
            values=each.at(at, longest.steps),
            role="background" if len(kept) > FEW else "",
            panel=loops.index(each.loop),
        )
        for each in kept
    ]
    what = (
        " the state after each time step, in the order in which the layer reads them",
        " what a module called in a loop puts out at each call",
    )
    return Lines(
        id=OF_A_LOOK,
        title="Gradient at each time step",
        caption="Size of the loss's gradient with respect to"
        + "; or to".join(what[loop] for loop in loops)
        + ". A line that falls towards the left has forgotten the beginning of the sequence."
        + _drawn(len(kept), len(found))
        + _drawn(len(at), longest.steps, "time steps"),
        words="Gradient over time steps: "
        + "; ".join(wording.line(each.name, each.values, panels[each.panel]) for each in series)
        + ".",
        x=Axis(label="time step, as read"),
        at=at,
        panels=panels,
        series=tuple(series),
    )


def _layers(trace: Trace) -> list[_Curve]:
    """Recurrent layers and cells of torch's own."""
    return [
        _Curve(_called(each), each.name, each.steps, each.log10_curve)
        for each in trace.recurrences
        if each.log10_curve
    ]


def _loops(trace: Trace) -> list[_Curve]:
    """Recurrences written by hand: modules whose calls read what the call before made."""
    known = {each.name for each in trace.recurrences}
    return [
        _Curve(
            f"{each.module or MODEL}, by call",
            each.module,
            len(each.log10_grad),
            thinned(np.where(each.log10_grad <= ZERO, -np.inf, each.log10_grad).tolist()),
            loop=True,
        )
        for each in repeated_modules(trace, 0.0)
        if each.module not in known
    ]


def _called(record: Recurrence) -> str:
    parts = [record.name or MODEL, record.kind]
    if record.layer:
        parts.append(f"layer {record.layer}")
    if record.direction != "forward":
        parts.append(record.direction)
    return ", ".join(part for part in parts if part)


def _drawn(some: int, of: int, what: str = "layers") -> str:
    return f" {some:,} of {of:,} {what} are drawn." if some < of else ""
