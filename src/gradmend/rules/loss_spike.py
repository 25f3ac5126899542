"""LOS224: a jump of the loss from which it does not come back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When a spike has done damage."""

    height: float = limit(
        0.5,
        unit="1",
        source="jump over what the run had learned before it: half of it is lost",
    )
    noise: float = limit(
        6.0, unit="standard deviations", source="of the losses before the jump, robustly"
    )
    shock: float = limit(
        0.5,
        unit="decades",
        source="gradient or update at the jump over their median before: a factor of 3, where "
        "Adam's updates double before spikes (marin-community/marin#1368)",
    )


@rule(
    code="LOS224",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("bad_batch", size=3e3)],
    silent_on=[
        Case.of("bad_batch", size=1.0),
        Case.of("bad_batch", size=20.0),
        Case.of("noisy_rewards"),
        Case.of("adversaries"),
    ],
)
def loss_spike(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that jumped when one step was much larger than the others, and has stayed up.

    What it finds:
        Runs that had learned, took one or a few large steps, and have lost at least half of what
        they had learned since.

    Why it matters:
        The steps after it are spent on learning the same again, or the run never recovers: going
        back to the last checkpoint and past the batch is cheaper.

    How it is measured:
        Rolling medians of nine losses: the largest rise from one to the next; the recent window
        against the level before; the gradient's and the update's norm around it.

    Silent when:
        The loss comes back; nothing was learned before; no step stood out, so that it may be the
        task or the data that changed; several optimizers play against each other.

    References:
        Chowdhery et al. 2022 (PaLM: rewind and skip); facebookresearch/metaseq#521; Molybog et
        al. 2023 (Adam's instability).
    """
    courses = windows.loss_course(history)
    if len(courses) != 1 or len(courses[0].values) < 6 * windows.FEWEST:
        return
    course = courses[0]
    smooth = windows.rolling_median(course.values)
    width = len(course.values) - len(smooth) + 1
    rise = smooth[width:] - smooth[:-width]
    if not len(rise):
        return
    at = int(np.argmax(rise))
    before = float(smooth[at])
    # Of the differences, so that the fall itself is no noise.
    noise = windows.spread(np.diff(course.values[: at + width])) / math.sqrt(2.0)
    learned, height = course.first - before, course.last - before
    after = course.values[at + 2 * width :]
    if (
        len(after) < windows.FEWEST
        or learned <= limits.noise * noise
        or height < max(limits.height * learned, limits.noise * noise)
        or float(np.quantile(after, 0.1)) < before + 0.5 * height
    ):
        return
    jumped = int(course.steps[at + width])
    first, last = int(course.steps[at]), int(course.steps[at + 2 * width])
    shock = _shock(history, course.column, first, last)
    if shock < limits.shock:
        return
    yield Finding(
        code="LOS224",
        name="loss-spike",
        severity=Severity.WARNING,
        modules=(),
        summary=(
            f"near step {jumped} the loss jumped from {windows.plain(before)} and has stayed near"
            f" {windows.plain(course.last)}: a step was {windows.plain(windows.times(shock))} times"
            " the usual"
        ),
        evidence=(
            Evidence(
                quantity="loss lost over loss learned",
                observed=height / learned,
                limit=limits.height,
                step=jumped,
            ),
        ),
        weight=shock,
        explains=("loss-plateau", "diverging-loss"),
        exculpation="a loss that comes back",
    )


def _shock(history: History, column: int, first: int, last: int) -> float:
    """Largest norm within some steps over the median before them, in decades."""
    largest = 0.0
    for quantity in ("log10_raw_norm", "log10_norm", "log10_update_norm"):
        steps, values = history["step"].series(quantity, column)
        steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
        around, before = values[(steps >= first) & (steps <= last)], values[steps < first]
        if len(around) and len(before) >= windows.FEWEST:
            largest = max(largest, float(around.max() - np.median(before)))
    return largest
