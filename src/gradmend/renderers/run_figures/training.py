"""A training over steps: loss, gradient norm, update norm, learning rate and loss scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradmend.records.history import Floats
from gradmend.renderers import numbers
from gradmend.renderers.page.figure import Axis, Lines, Series
from gradmend.renderers.run_figures import marks, wording
from gradmend.renderers.run_figures.places import label
from gradmend.store.overview import Overview
from gradmend.store.reader import RunReader

ID = "training"
MOST_STEPS = 768
"""Points over steps: what the store keeps of the longest run (at most 512 buckets, and its end)."""
WIDE = 50.0
"""Largest over smallest number from which an axis is logarithmic (our choice)."""
_EXACT = 37.0
"""Decades that single precision holds in full; beyond them logarithms are drawn."""
_QUANTITIES = (
    "loss", "log10_raw_norm", "log10_norm", "clip_limit", "clip_factor", "log10_update_norm",
    "learning_rate", "loss_scale", "skipped",
)  # fmt: skip
SHOWN = ("loss", "log10_raw_norm", "log10_norm", "log10_update_norm", "learning_rate", "loss_scale")
"""What makes a panel."""


def over_steps(reader: RunReader) -> Lines | None:
    """The figure; ``None`` where no step was seen."""
    columns = reader.table_columns("step")
    if not columns:
        return None
    seen = reader.overview("step", _QUANTITIES, MOST_STEPS, spread=["loss"])
    names = [label(column) for column in columns]
    panels: list[Axis] = []
    series: list[Series] = []
    for axis, lines in _panels(seen, names):
        if lines:
            series += [_at_panel(line, len(panels)) for line in lines]
            panels.append(axis)
    if not panels:
        return None
    found = marks.of_events(reader.events(marks.KINDS))
    skipped = seen.mean["skipped"]
    if (skipped > 0).any():
        most = np.fmax.reduce(skipped, axis=1)
        found = marks.fewest([*found, *marks.of_skipped(seen.steps, most)])
    return Lines(
        id=ID,
        title="Training over time",
        caption="What moves together: a spike of the loss with the norm of the gradient, clipping"
        " with the update, skipped steps with the loss scale."
        + (
            " Each point stands for several steps: the mean, and of the loss also the lowest and"
            " the highest."
            if seen.pooled
            else ""
        ),
        words=f"The training over {wording.span(seen.steps)}: "
        + "; ".join(wording.line(each.name, each.values, panels[each.panel]) for each in series)
        + f". {_marked(found)}",
        x=wording.STEPS,
        at=seen.steps,
        panels=tuple(panels),
        series=tuple(series),
        marks=tuple(found),
    )


def sized(label: str, lines: Sequence[Floats]) -> tuple[Axis, list[Floats]]:
    """Numbers given by their logarithms, as such where they can be told in single precision."""
    finite = np.concatenate([line[np.isfinite(line)] for line in lines])
    if len(finite) and np.abs(finite).max() > _EXACT:
        return Axis(label=f"log10 {label}", unit="decades"), list(lines)
    with np.errstate(over="ignore"):
        return Axis(label=label, log=True), [10.0**line for line in lines]


def _panels(seen: Overview, names: Sequence[str]) -> list[tuple[Axis, list[Series]]]:
    loss = _lines(seen, "loss", "loss", names, role="loss")
    norm = _norms(seen, names)
    updates = _lines(seen, "log10_update_norm", "update norm", names)
    update_axis, values = sized("|update|", [line.values for line in updates] or [np.zeros(0)])
    updates = [_with(line, cells) for line, cells in zip(updates, values, strict=False)]
    rates = _lines(seen, "learning_rate", "learning rate", names)
    scales = _lines(seen, "loss_scale", "loss scale", names)
    return [
        (Axis(label="loss", log=_wide(loss)), loss),
        norm,
        (update_axis, updates),
        (Axis(label="learning rate", log=_wide(rates)), rates),
        (Axis(label="loss scale", log=_wide(scales)), scales),
    ]


def _norms(seen: Overview, names: Sequence[str]) -> tuple[Axis, list[Series]]:
    """The gradient's norm before clipping, what is left of it, and the limit."""
    raw, norm = seen.mean["log10_raw_norm"], seen.mean["log10_norm"]
    limit = seen.mean["clip_limit"]
    # Clipping by value has a limit too, but that is no norm; it has no factor either.
    by_norm = ~np.isnan(seen.mean["clip_factor"])
    with np.errstate(invalid="ignore", divide="ignore"):
        limit = np.log10(np.where(by_norm & (limit > 0), limit, np.nan))
    raw = np.where(np.isnan(raw), norm, raw)
    lines: list[Series] = []
    for at, name in enumerate(names):
        clipped = ~np.isnan(limit[:, at]).all()
        for values, what, role in (
            (raw[:, at], "gradient norm before clipping" if clipped else "gradient norm", "before"),
            (norm[:, at], "gradient norm after clipping", "after"),
            (limit[:, at], "clip limit", "limit"),
        ):
            if np.isnan(values).all() or (role == "after" and not clipped):
                continue
            told = role if clipped else ""
            lines.append(Series(name=_told(what, name, names), values=values, role=told))
    axis, sizes = sized("|gradient|", [line.values for line in lines] or [np.zeros(0)])
    return axis, [_with(line, values) for line, values in zip(lines, sizes, strict=False)]


def _lines(
    seen: Overview, quantity: str, what: str, names: Sequence[str], role: str = ""
) -> list[Series]:
    values = seen.mean[quantity]
    low, high = seen.low.get(quantity), seen.high.get(quantity)
    banded = low is not None and high is not None and seen.pooled
    return [
        Series(
            name=_told(what, name, names),
            values=values[:, at],
            low=low[:, at] if banded and low is not None else None,
            high=high[:, at] if banded and high is not None else None,
            role=role if len(names) == 1 else "",
        )
        for at, name in enumerate(names)
        if not np.isnan(values[:, at]).all()
    ]


def _told(what: str, name: str, names: Sequence[str]) -> str:
    return what if len(names) == 1 else f"{what}, {name}"


def _wide(lines: Sequence[Series]) -> bool:
    """Whether numbers are better told by their size."""
    if not lines:
        return False
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() > WIDE * values.min())


def _with(line: Series, values: Floats) -> Series:
    return Series(name=line.name, values=values, layer=line.layer, role=line.role)


def _at_panel(line: Series, panel: int) -> Series:
    return Series(
        name=line.name, values=line.values, layer=line.layer, low=line.low, high=line.high,
        role=line.role, panel=panel,
    )  # fmt: skip


def _marked(found: Sequence[object]) -> str:
    if not found:
        return "Nothing is marked."
    return f"{numbers.count(len(found), 'event')} {'is' if len(found) == 1 else 'are'} marked."
