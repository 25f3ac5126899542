"""LOS223: nothing is learned, for when nothing says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import guessing, targets, windows


@dataclass(frozen=True)
class Limits:
    """When a loss stands still."""

    steps: float = limit(
        96.0, unit="losses", source="measured before it is said; a warm-up is shorter or rises"
    )
    fall: float = limit(
        0.02,
        unit="1",
        source="fall since the beginning over the first losses' size; a language model's first "
        "hundred steps take 20 %",
    )
    long: float = limit(
        160.0,
        unit="losses",
        source="from which a loss that stays at a guess is a warning, as in signalless-labels",
    )
    guess: float = limit(
        0.97,
        unit="1",
        source="loss over that of a guess: a classifier's 2 % are noise over a hundred batches",
    )
    noise: float = limit(
        0.3,
        unit="1",
        source="deviation over level beyond which a fall could not be seen: rewards, tiny batches",
    )


@rule(
    code="LOS223",
    limits=Limits,
    fires_on=[Case.of("unlearnable")],
    silent_on=[
        Case.of("perceptron"),
        Case.of("converged"),
        Case.of("noisy_rewards"),
        Case.of("adversaries"),
    ],
)
def loss_plateau(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that has not fallen since the beginning.

    What it finds:
        Runs of a hundred measured losses and more whose loss is what it was. A symptom: any cause
        that is found explains it, and without one it says so. A note, or a warning where the loss
        is no better than that of a guess.

    Why it matters:
        A run that learns nothing costs what one that learns costs.

    How it is measured:
        Medians of the first and of the recent losses, against their noise; a guess costs the log
        of the number of classes, or the variance of the targets.

    Silent when:
        The loss has fallen at any time, as in a run that has converged; its noise is as large as
        itself; it takes both signs; the learning rate still warms up; two optimizers play.

    References:
        SageMaker Debugger's loss_not_decreasing; Karpathy, A recipe for training neural networks.
    """
    courses = windows.loss_course(history)
    if len(courses) != 1 or len(courses[0].values) < limits.steps:
        return
    course = courses[0]
    best = float(windows.rolling_median(course.values).min())
    fall = (course.first - min(best, course.last)) / course.level
    if (
        fall > limits.fall
        or course.learned
        or course.values.min() <= 0.0
        or course.noise > limits.noise * course.level
        or windows.rate_is_passing(history, course.column)
    ):
        return
    yield Finding(
        code="LOS223",
        name="loss-plateau",
        severity=Severity.WARNING if _is_a_guess(history, course, limits) else Severity.NOTE,
        modules=(),
        summary=(
            f"the loss has not fallen in {int(course.steps[-1] - course.steps[0]) + 1} steps: it"
            f" began at {windows.plain(course.first)} and is {windows.plain(course.last)}; where"
            " nothing else is found, look at the data and their labels"
        ),
        evidence=(
            Evidence(
                quantity="fall of the loss", observed=fall, limit=limits.fall, step=history.step
            ),
        ),
        weight=0.0,
        exculpation=f"a fall of {limits.fall:.0%} at any time",
        symptom=True,
    )


def _is_a_guess(history: History, course: windows.Loss, limits: Limits) -> bool:
    """Whether the loss has long been that of somebody who has not seen the inputs."""
    if len(course.values) < limits.long:
        return False
    guesses = [
        call.target.std**2
        for call in targets.firsts(history)
        if call.function == "mse_loss" and call.reduction == "mean"
    ]
    if (odds := guessing.loss_of_a_guess(history)) is not None:
        guesses.append(odds)
    return any(limits.guess * g <= course.last <= 2.0 * g for g in guesses if g > 0.0)
