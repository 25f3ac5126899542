"""The books of a step: from the raw gradient to the change of the weights, in decades."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradmend.records.history import History


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the books: a size, or what changed it."""

    what: str
    log10: float | None = None
    """log10 of the norm that stands here, for a size."""
    decades: float | None = None
    """What was multiplied with, for a change."""


@dataclass(frozen=True, slots=True)
class StepBooks:
    """A step of an optimizer, from loss scale to weights."""

    optimizer: str
    step: int
    lines: tuple[Line, ...]
    decay_share: float
    """Root mean square of the weight decay's part over that of the whole change; NaN unknown."""


def step_books(history: History, optimizer: int) -> StepBooks | None:
    """The books of the step that was last measured whole; ``None`` where none was."""
    table = history["step"]
    got, changed = (table[name][:, optimizer] for name in ("log10_norm", "log10_update_norm"))
    rows = np.flatnonzero(np.isfinite(got) & np.isfinite(changed))
    if not len(rows):
        return None
    row = int(rows[-1])

    def at(quantity: str) -> float:
        return float(table[quantity][row, optimizer])

    raw, norm, change, scale = (
        at(name) for name in ("log10_raw_norm", "log10_norm", "log10_update_norm", "loss_scale")
    )
    lines: list[Line] = []
    raw = raw if math.isfinite(raw) else norm
    if scale > 0 and scale != 1.0:
        lines.append(Line("gradient after backward, loss scaled", log10=raw + math.log10(scale)))
        lines.append(Line("taking out the loss scale", decades=-math.log10(scale)))
    lines.append(Line("raw gradient", log10=raw))
    if math.isfinite(at("clip_limit")):
        lines.append(Line("clipping", decades=norm - raw))
        lines.append(Line("gradient that the optimizer got", log10=norm))
    rate = at("learning_rate")
    scaled = change - norm
    if rate > 0:
        lines.append(Line("learning rate", decades=math.log10(rate)))
        scaled -= math.log10(rate)
    kind = table.columns[optimizer].kind or "the optimizer"
    weights, decay = _weights(history, optimizer, int(table.steps[row]))
    decays = " and weight decay" if decay > 0 else ""
    lines.append(Line(f"{kind}'s own scaling{decays}", decades=scaled))
    lines.append(Line("change of the weights", log10=change))
    if math.isfinite(weights):
        lines.append(Line("over the weights' own size", decades=-weights))
        lines.append(Line("update over weight", log10=change - weights))
    return StepBooks(table.columns[optimizer].name, int(table.steps[row]), tuple(lines), decay)


def _weights(history: History, optimizer: int, step: int) -> tuple[float, float]:
    """log10 |weights|, and the share of weight decay in their change."""
    updates = history["update"]
    rows = np.flatnonzero(updates.steps <= step)
    mine = [
        at
        for at, column in enumerate(updates.columns)
        if column.facts.get("optimizer") == optimizer
    ]
    if not len(rows) or not mine:
        return math.nan, math.nan
    row = int(rows[-1])
    size = np.array([updates.columns[at].size for at in mine], dtype=float)
    weight, ratio, decay = (
        updates[name][row, mine] for name in ("log10_weight", "log10_ratio", "decay_share")
    )
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        squares = np.nansum(size * 10.0 ** (2 * weight))
        moved = size * 10.0 ** (2 * (weight + ratio))
        known = np.isfinite(moved) & np.isfinite(decay)
        share = np.sqrt((moved * decay**2)[known].sum() / moved[known].sum())
        return float(0.5 * np.log10(squares)), float(share)
