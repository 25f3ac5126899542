"""OPT224: updates that now and then are many times what they usually are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Floats, History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When an update is a spike."""

    factor: float = limit(
        0.7,
        unit="decades",
        source="above the median of the window, a factor of 5; Adam's updates double before loss "
        "spikes in large models (marin-community/marin#1368), where noise is smaller",
    )
    noise: float = limit(
        5.0, unit="standard deviations", source="of the window's updates in decades, robustly"
    )
    times: float = limit(3.0, unit="spikes", source="in the window: one spike recovers by itself")
    fewest: float = limit(32.0, unit="rows", source="for a robust deviation")


@rule(
    code="OPT224",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("bad_batch", size=50.0, every=20)],
    silent_on=[
        Case.of("bad_batch", size=20.0),
        Case.of("noisy_rewards"),
        Case.of("adversaries"),
        Case.of("perceptron"),
    ],
)
def update_norm_spike(history: History, limits: Limits) -> Iterator[Finding]:
    """Updates that again and again are five times the usual, before the loss itself jumps.

    What it finds:
        Three and more steps of the recent ones whose change of the weights stands out of all the
        others. An early warning.

    Why it matters:
        What a thousand small steps have arranged one large step undoes; in large models update
        spikes come some steps before the loss spikes.

    How it is measured:
        The norm of the weights' change in decades against the median of its neighbours, over the
        last 128 measured steps, by factor and by robust deviation.

    Silent when:
        Fewer stand out; updates vary so much that none does.

    References:
        Molybog et al. 2023; marin-community/marin#1368; AdaGC (arXiv 2502.11034).
    """
    table = history["step"]
    for column in range(len(table.columns)):
        steps, values = table.series("log10_update_norm", column)
        steps, values = steps[np.isfinite(values)][-128:], values[np.isfinite(values)][-128:]
        if len(values) < limits.fewest:
            continue
        above = values - _level(values)
        spikes = above >= max(limits.factor, limits.noise * windows.spread(above))
        # Neighbouring rows are one spike.
        begins = np.flatnonzero(spikes & ~np.concatenate([[False], spikes[:-1]]))
        if len(begins) < limits.times:
            continue
        largest = float(above.max())
        yield Finding(
            code="OPT224",
            name="update-norm-spike",
            severity=Severity.WARNING,
            modules=(),
            summary=(
                f"{len(begins)} of the last {len(values)} measured updates stand out, the largest"
                f" {windows.plain(windows.times(largest))} times the usual, last at step"
                f" {int(steps[begins[-1]])}"
            ),
            evidence=(
                Evidence(
                    quantity="decades above the median update",
                    observed=largest,
                    limit=limits.factor,
                    unit="decades",
                    step=int(steps[begins[-1]]),
                ),
            ),
            weight=largest,
            explains=("loss-plateau", "loss-spike"),
            exculpation="fewer than three spikes in the window",
        )


def _level(values: Floats) -> Floats:
    """Median of the neighbours of each value, which follows a run that calms down."""
    width = 2 * windows.FEWEST + 1
    middle = windows.rolling_median(values, width)
    edge = (width - 1) // 2
    return np.concatenate([np.full(edge, middle[0]), middle, np.full(edge, middle[-1])])
