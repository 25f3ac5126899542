"""How a run came to NaN: whether its own steps made loss and gradient climb."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradmend.records.history import Floats, History

WITHIN = 8
"""Steps before the first NaN in which a divergence is looked for."""
TELLING = 3.0
"""Times the lowest of those losses from which one has risen (our choice)."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Losses that rose from step to step until they were no numbers."""

    step: int
    """The last one before they rose."""
    losses: Floats
    """From that on."""
    decades: float
    """By which they rose."""


def divergence(history: History, decades: float, huge: float) -> Divergence | None:
    """How loss and gradient rose in the steps before the first NaN, if they did.

    Two losses in a row have to be high, as one alone may be a batch's; one will do where the
    step before, of plain gradient descent, was as large as the weights.

    Args:
        history: Of a single optimizer.
        decades: By which both have to rise.
        huge: log10 of a step over all weights that is as large as they.
    """
    table = history["step"]
    broken = next(history.of_kind("non-finite"), None)
    if broken is None or len(table.columns) != 1:
        return None
    steps, losses = table.series("loss", 0)
    known = np.isfinite(losses) & (steps <= broken.step)
    steps, losses = steps[known][-WITHIN:], losses[known][-WITHIN:]
    if len(losses) < 2 or broken.step - steps[-1] > 2:
        return None
    numbers, norms = table.series("log10_raw_norm", 0)
    within = (numbers >= steps[0]) & (numbers <= steps[-1]) & np.isfinite(norms)
    low = max(float(np.min(np.abs(losses[: max(1, len(losses) - 2)]))), 1e-12)
    start = len(losses)
    while start > 1 and losses[start - 1] > TELLING * low:
        start -= 1
    if start == len(losses) or np.count_nonzero(within) < 2:
        return None
    if len(losses) - start < 2 and not _relative_step(history, int(steps[start - 1])) >= huge:
        return None
    grown = math.log10(float(losses[-1]) / low)
    slope = float(norms[within].max() - norms[within][0])
    if not min(grown, slope) >= decades:
        return None
    return Divergence(step=int(steps[start - 1]), losses=losses[start - 1 :], decades=grown)


def _relative_step(history: History, step: int) -> float:
    """log10 |rate x gradient| / |weights| of a step of gradient descent; NaN where not known."""
    table, weights = history["step"], history["update"]
    rows = np.flatnonzero(table.steps == step)
    if not len(rows) or table.columns[0].kind != "SGD":
        return math.nan
    rate, norm = (float(table[q][rows[0], 0]) for q in ("learning_rate", "log10_norm"))
    sizes = weights.first("log10_weight")
    held = [
        column.size * 10.0 ** (2.0 * size)
        for column, size in zip(weights.columns, sizes, strict=True)
        if -100.0 < size < 100.0
    ]
    if not rate > 0.0 or not sum(held) > 0.0:
        return math.nan
    return math.log10(rate) + norm - 0.5 * math.log10(sum(held))
