"""LOS212: gradients of several batches added up, and not divided by their number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import targets, windows
from gradmend.theory.windows import FEWEST, SCALE_FREE, plain
from gradmend.theory.wiring import LossTail, loss_tails, optimizer_column


@dataclass(frozen=True)
class Limits:
    """When accumulation is undivided."""

    backwards: float = limit(
        3.0,
        unit="backward passes",
        source="per step; two are also two losses, or a real and a made batch",
    )
    steady: float = limit(
        0.75, unit="share", source="of the steps with that many: a last batch has fewer"
    )


@rule(
    code="LOS212",
    limits=Limits,
    rehearsed=False,
    fires_on=[
        Case.of("accumulated", divided=False, rate=0.15),
        Case.of("accumulated", divided=False, rate=0.2, micro=16),
    ],
    silent_on=[
        Case.of("accumulated", rate=0.15),
        Case.of("accumulated", divided=False, rate=0.005),
        Case.of("accumulated", divided=False, optimizer="Adam", rate=1e-3),
        Case.of("accumulated", micro=1, divided=False, rate=3.0),
        Case.of("miswired_loop", fault="accumulation"),
        Case.of("miswired_loop", fault="not_cleared"),
        Case.of("adversaries"),
    ],
)
def undivided_accumulation(history: History, limits: Limits) -> Iterator[Finding]:
    """Gradient accumulation over several batches whose losses are not divided by their number.

    What it finds:
        Three backward passes and more before each step, on losses that end in a mean and nothing
        that divides it, with an optimizer whose step grows with the gradient, in a run that does
        not learn. In one that does, and where the gradient is clipped, a note.

    Why it matters:
        The gradient is the sum over the batches: the rate is as many times larger than without
        accumulation, and a clipping threshold as many times tighter.

    How it is measured:
        Backward passes per step, and the last operation of the loss on its autograd graph.

    Silent when:
        The loss is divided, or multiplied, before backward; there is one backward pass per step,
        or two; several optimizers share them; the optimizer is scale free (Adam) and does not
        clip.

    References:
        karpathy/nanoGPT#168; huggingface/accelerate's guide to gradient accumulation.
    """
    table = history["step"]
    if len(table.columns) != 1:
        return
    for tail in loss_tails(history):
        at = optimizer_column(history, tail.where)
        if at < 0 or not _ends_in_a_mean(tail):
            continue
        counts = table.series("backwards", at)[1]
        if len(counts) < (3 if targets.broke(history) else FEWEST):
            continue
        number = float(np.median(counts))
        steady = float(np.mean(counts == number))
        if not number >= limits.backwards or steady < limits.steady:
            continue
        if _uncleared(history, at):
            continue  # the gradients of all steps add up: that is another mistake
        clipped = bool((table["clip_factor"][-windows.RECENT :, at] < 1.0).any())
        free = table.columns[at].kind in SCALE_FREE
        if free and not clipped:
            return
        went = None if free or clipped else _trouble(history)
        yield Finding(
            code="LOS212",
            name="undivided-accumulation",
            severity=Severity.NOTE
            if went is None
            else Severity.ERROR
            if "NaN" in went
            else Severity.WARNING,
            modules=(),
            summary=(
                f"{number:.0f} backward passes before each step, and their losses are not divided:"
                f" the gradient is {number:.0f} times that of their mean"
                + (f", and {went}" if went else "")
                + f"; hand loss / {number:.0f} to backward"
            ),
            evidence=(
                Evidence(
                    quantity="backward passes per step",
                    observed=number,
                    limit=limits.backwards,
                    unit="backward passes",
                    step=history.step,
                ),
            ),
            weight=1003.0 if went else math.log10(number),
            explains=(
                "learning-rate-too-high",
                "diverging-loss",
                "oscillating-loss",
                "exploding-gradient",
                "loss-spike",
                "loss-plateau",
                "non-finite-value",
                "dead-relu",
                "saturated-activation",
                "update-norm-spike",
                "vanishing-gradient",
                "stalled-layers",
                "weight-collapse",
            ),
            exculpation="a loss that is divided by the number of batches",
        )
        return


def _ends_in_a_mean(tail: LossTail) -> bool:
    if tail.root is None or targets.divided(tail):
        return False
    return tail.operations[tail.root].op not in ("sum", "add")


def _uncleared(history: History, at: int) -> bool:
    seen = history["step"].series("not_cleared", at)[1]
    return len(seen) > 0 and float(seen.mean()) > 0.5


def _trouble(history: History) -> str | None:
    """What says that the steps are too large; ``None`` where the run learns."""
    broken = targets.first_broken(history)
    if broken is not None:
        return f"NaN or infinity came at step {broken.step}"
    courses = windows.loss_course(history)
    if not courses or courses[0].learned:
        return None
    course = courses[0]
    if course.last > 1.2 * course.first > 0:
        return f"the loss has grown from {plain(course.first)} to {plain(course.last)}"
    if len(course.values) >= windows.ENOUGH:
        return f"the loss has not fallen from {plain(course.first)}"
    return None
