"""Whether a run can still recover: only what no further step can change counts."""

from __future__ import annotations

import numpy as np

from gradmend.records.history import History

BAD_STEPS = 20
"""Steps in a row with a loss that is no number, weights among the sick, before a run is dead."""
STILL_ROWS = 10
"""Measured rows in a row in which not one weight changed a bit."""
STILL_STEPS = 100
"""Steps that those rows must span: a warm-up from zero moves before that."""


def why_dead(history: History) -> str | None:
    """One sentence why no further step can change anything; ``None`` while one may."""
    steps = history["step"]
    if not len(steps):
        return None
    loss = steps["loss"][-BAD_STEPS:]
    bad = np.isnan(loss).all() or (~np.isfinite(loss)).any(axis=1).all()
    if len(loss) == BAD_STEPS and bad and _weights_are_sick(history):
        return f"loss and weights have not been finite for {BAD_STEPS} steps"
    known = ~np.isnan(steps["unchanged_share"]).all(axis=1)
    known &= (steps["learning_rate"] > 0).any(axis=1)  # a rate of zero may yet rise
    still = steps["unchanged_share"][known]
    rows = steps.steps[known]
    run = 0
    for row in still[::-1]:
        if not (np.isnan(row) | (row >= 1.0)).all():
            break
        run += 1
    if run < STILL_ROWS or rows[-1] - rows[-run] < STILL_STEPS:
        return None
    since = int(rows[-run])
    return f"not one weight has changed a bit since step {since}"


def _weights_are_sick(history: History) -> bool:
    state = history["gradient"].last("state")
    return bool(len(state)) and bool((state == 3).any())
