"""DAT204: labels that the inputs seem to say nothing about."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import targets, windows
from gradmend.theory.windows import plain


@dataclass(frozen=True)
class Limits:
    """When labels seem to carry no signal."""

    losses: float = limit(
        160.0, unit="losses", source="before it is said: longer than most warm-ups; our choice"
    )
    off: float = limit(
        0.1,
        unit="1",
        source="distance of the loss from the log of the number of classes, over it: our choice",
    )
    fall: float = limit(
        0.02, unit="1", source="below the loss of guessing, over it: as in loss-plateau"
    )
    smallest: float = limit(
        -4.0, unit="decades", source="log10 update over weight: below it steps are too small"
    )
    largest: float = limit(
        -1.3, unit="decades", source="log10 update over weight: above it steps are too large"
    )


@rule(
    code="DAT204",
    limits=Limits,
    rehearsed=False,
    fires_on=[
        Case.of("fed_classifier", labels="shuffled", rate=0.05, steps=240),
        Case.of("fed_classifier", labels="shuffled", optimizer="Adam", rate=1e-3, steps=240),
    ],
    silent_on=[
        Case.of("fed_classifier", rate=0.05, steps=240),
        Case.of("fed_classifier", rate=1e-6, steps=240),
        Case.of("fed_classifier", labels="constant", steps=240),
        Case.of("fed_regression", steps=240),
        Case.of("step_size", rate=300.0),
    ],
)
def signalless_labels(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that stays at that of guessing although the network takes sound steps.

    What it finds:
        Classifiers whose loss has stayed at the logarithm of the number of classes for 160 losses
        and more, whose layers all get a gradient and move by a usual share of their size. Labels
        without a relation to their inputs look so, and so does a task that begins slowly: any
        other cause that is found comes first.

    Why it matters:
        Inputs and labels shuffled apart, or joined by the wrong key, train without an error and
        with gradients that look well.

    How it is measured:
        Medians of the loss against the logarithm of the classes seen in a batch; update over
        weight of the matrices.

    Silent when:
        The loss falls; steps are too small or too large to learn from; a layer gets no gradient;
        labels are constant, or the loss is no cross entropy.

    References:
        Zhang et al. 2017 (random labels can be fitted, given time); Karpathy, A recipe for training
        neural networks.
    """
    courses = windows.loss_course(history)
    calls = [c for c in targets.firsts(history) if c.function == "cross_entropy"]
    if len(courses) != 1 or len(calls) != 1 or len(courses[0].values) < limits.losses:
        return
    course, output = courses[0], calls[0].prediction
    classes = 0 if output is None or len(output.shape) < 2 else output.shape[1]
    if classes < 2 or calls[0].target.constant:
        return
    guess = math.log(classes)
    best = float(windows.rolling_median(course.values).min())
    if (
        min(best, course.last) < guess - limits.fall * guess
        or abs(course.last - guess) > limits.off * guess
        or windows.rate_is_passing(history, course.column)
        or not _moves_well(history, limits)
    ):
        return
    yield Finding(
        code="DAT204",
        name="signalless-labels",
        severity=Severity.WARNING,
        modules=(),
        confidence=0.5,
        summary=(
            f"after {len(course.values)} losses the loss is {plain(course.last)}, that of guessing"
            f" among {classes} classes ({plain(guess)}), with sound steps in every layer: see"
            " whether each label belongs to its input"
        ),
        evidence=(
            Evidence(
                quantity="loss over that of guessing",
                observed=course.last / guess,
                limit=1.0 + limits.off,
                step=history.step,
            ),
        ),
        weight=1.0,
        explains=("loss-plateau",),
        exculpation="a loss below that of guessing",
    )


def _moves_well(history: History, limits: Limits) -> bool:
    """Whether every weight matrix changes by a usual share of its size."""
    table = history["update"]
    at = windows.matrices(table.columns)
    typical = windows.lasting(table, "log10_ratio")[at]
    known = typical[~np.isnan(typical)]
    return bool(len(known)) and bool(
        (known.min() >= limits.smallest) and (known.max() <= limits.largest)
    )
