"""LOS222: a loss that leaves its beginning behind, upwards."""

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
    """When a loss diverges."""

    factor: float = limit(
        5.0,
        unit="1",
        source="recent losses over the largest of the first ones: chosen above what value losses "
        "of reinforcement learning and adversarial losses show in our trainings",
    )
    error_factor: float = limit(
        100.0, unit="1", source="two decades: nothing that is learned costs so much on the way"
    )


@rule(
    code="LOS222",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("valley", rate=1.05)],
    silent_on=[Case.of("valley", rate=0.9), Case.of("noisy_rewards"), Case.of("adversaries")],
)
def diverging_loss(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that grows and stays far above where it began.

    What it finds:
        Runs whose losses of the recent window, all but a tenth, are five times above the largest
        of the first ones. A symptom.

    Why it matters:
        Each step makes it worse; what was learned, or pre-trained, is being lost.

    How it is measured:
        A low rank of the recent losses against the largest of the beginning, so that a spike
        that recovers does not count.

    Silent when:
        The loss is below that; it takes both signs, so that a factor has no meaning; several
        optimizers play against each other.

    References:
        LeCun, Bottou, Orr, Mueller 1998, section 4.4.
    """
    courses = windows.loss_course(history)
    if len(courses) != 1:
        return
    course = courses[0]
    begin, end = course.values[: windows.FEWEST], course.values[-windows.RECENT :]
    low, before = float(np.quantile(end, 0.1)), float(begin.max())
    if begin.min() <= 0.0 or not low >= limits.factor * before:
        return
    yield Finding(
        code="LOS222",
        name="diverging-loss",
        severity=Severity.ERROR if low >= limits.error_factor * before else Severity.WARNING,
        modules=(),
        summary=(
            f"the loss has grown from {windows.plain(course.first)} to {windows.plain(course.last)}"
            " and stays there"
        ),
        evidence=(
            Evidence(
                quantity="recent loss over the largest first one",
                observed=low / before,
                limit=limits.factor,
                step=history.step,
            ),
        ),
        weight=float(np.log10(low / before)),
        explains=("loss-plateau", "oscillating-loss"),
        exculpation="losses like those of the beginning",
        symptom=True,
    )
