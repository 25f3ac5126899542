"""LOS221: a loss that jumps from side to side of a valley."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When a loss oscillates."""

    alternation: float = limit(
        -0.6,
        unit="1",
        source="correlation of neighbouring losses: noise of 64 steps stays above -0.6 in all but "
        "one of a million windows",
    )
    swing: float = limit(
        0.2,
        unit="1",
        source="deviation over the size of the first losses: chosen on our trainings",
    )
    steps: float = limit(32.0, unit="steps", source="shorter windows show -0.6 by chance")


@rule(
    code="LOS221",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("valley", rate=2.0, walls=True)],
    silent_on=[Case.of("valley", rate=0.9), Case.of("noisy_rewards"), Case.of("adversaries")],
)
def oscillating_loss(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that goes up and down at every other step, without getting anywhere.

    What it finds:
        Losses that alternate by a good part of their own first size, while not falling.

    Why it matters:
        The step is about twice the distance to the bottom of the valley: each lands as high on
        the other side. A smaller rate arrives.

    How it is measured:
        The correlation of neighbouring losses about a straight line over the last 64 steps: -1
        for up and down, 0 for noise. A symptom: learning-rate-too-high says why.

    Silent when:
        The loss falls; its noise does not alternate; two optimizers play against each other.

    References:
        LeCun, Bottou, Orr, Mueller 1998, section 4.4 (twice the optimal rate diverges); Cohen et
        al. 2021 (edge of stability).
    """
    courses = windows.loss_course(history, rows=64)
    if len(courses) != 1 or courses[0].learned:
        return
    course = courses[0]
    steps, values = course.steps[-64:], course.values[-64:]
    if len(values) < limits.steps or np.any(np.diff(steps) != 1):
        return  # thinned rows say nothing about neighbours
    found = windows.alternation(values)
    swing = float(np.std(values)) / course.level
    if not (found <= limits.alternation and swing >= limits.swing):
        return
    yield Finding(
        code="LOS221",
        name="oscillating-loss",
        severity=Severity.WARNING,
        modules=(),
        summary=(
            f"the loss goes up and down by {swing:.0%} of its first size at every other step"
            f" (neighbours correlate {found:.2f}) and does not fall"
        ),
        evidence=(
            Evidence(
                quantity="correlation of neighbouring losses",
                observed=found,
                limit=limits.alternation,
                step=history.step,
            ),
        ),
        weight=1.0,
        explains=("loss-plateau",),
        exculpation="a loss that falls, or noise that does not alternate",
        symptom=True,
    )
