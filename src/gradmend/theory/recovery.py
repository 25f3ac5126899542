"""Whether what a first look found is gone after a few training steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Trace

FALL = 0.05
"""Share of the first loss by which it must have fallen, as for runs (our choice)."""
FEWEST = 8
"""Losses below which nothing is said."""


def recovers(trace: Trace, lost: Callable[[Trace], float | None], decades: float) -> bool | None:
    """Whether the few steps made the loss fall and brought back what was lost.

    Args:
        trace: The first look, with the answers to what was asked.
        lost: Decades that a look has lost; ``None`` where it cannot tell.
        decades: From which that is too many.

    Returns:
        ``None`` where the steps were not taken: ask with :func:`few_steps`.
    """
    answer = trace.answer(Measurement.FEW_STEPS)
    if answer is None:
        return None
    losses = [loss for loss in answer.losses if math.isfinite(loss)]
    if len(losses) < FEWEST:
        return False
    fell = losses[0] - statistics.median(losses[-3:]) > FALL * abs(losses[0])
    after = lost(answer.trace)
    return fell and after is not None and after < decades


def few_steps(code: str, name: str, what: str) -> Request:
    """Ask for a few training steps, to see whether they bring something back."""
    return Request(
        code=code,
        name=name,
        measurement=Measurement.FEW_STEPS,
        why=f"whether {what} comes back while the loss falls",
    )
