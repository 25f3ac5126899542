"""OPT221: steps as large as the weights."""

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
    """When a step is too large."""

    ratio: float = limit(
        -1.0,
        unit="decades",
        source="log10 of update over weight, median over the matrices, while nothing is learned; "
        "1e-3 is usual (CS231n), 1e-2 still trains",
    )
    alternation: float = limit(
        -0.6, unit="1", source="as in oscillating-loss: the loss itself overshoots"
    )
    huge: float = limit(
        0.0,
        unit="decades",
        source="log10 of update over weight of one step: as large as the weights themselves",
    )


@rule(
    code="OPT221",
    limits=Limits,
    fires_on=[Case.of("step_size", rate=300.0), Case.of("valley", rate=1.05)],
    silent_on=[
        Case.of("step_size"),
        Case.of("low_rank_adapter"),
        Case.of("rezero"),
        Case.of("noisy_rewards"),
        Case.of("step_size", rate=1e-9),
    ],
)
def learning_rate_too_high(history: History, limits: Limits) -> Iterator[Finding]:
    """Steps so large that the loss rises, jumps from side to side, or never recovers from one.

    What it finds:
        Runs that have not learned, and whose typical weight matrix changes by a tenth of its own
        size at each step, or changed by its whole size at one; or whose loss alternates or
        diverges with the steps it takes.

    Why it matters:
        A gradient is true only nearby: a step beyond that lands anywhere. One such step is enough
        to switch rectifiers off for good.

    How it is measured:
        log10 of update over weight, the median over the matrices of an optimizer, over the recent
        window and at its largest; the loss's medians and the correlation of its neighbours.

    Silent when:
        The loss has fallen. Weights that began at zero, as in adapters, take large relative steps
        at first and learn.

    References:
        LeCun, Bottou, Orr, Mueller 1998; CS231n neural-networks-3; pytorch-nin-cifar10#1 (2.302585
        for ever after one epoch at 0.1).
    """
    courses = windows.loss_course(history)
    if len(courses) != 1 or courses[0].learned:
        return
    course, table = courses[0], history["update"]
    at = windows.matrices(table.columns)
    ratios = table["log10_ratio"][:, at]
    started = table["log10_weight"][:, at] > -6.0  # a weight of zero has no size to compare with
    ratios = np.where(started | np.isnan(table["log10_weight"][:, at]), ratios, np.nan)
    typical = windows.rank(ratios.T, 0.5)
    known = typical[np.isfinite(typical)]
    lasting = float(np.median(known[-windows.RECENT :])) if len(known) >= windows.FEWEST else -99.0
    largest = float(known.max()) if len(known) else -99.0
    rising = course.last > course.first + max(3.0 * course.error, 0.1 * abs(course.first))
    values = course.values[-64:]
    consecutive = len(values) >= 32 and bool(np.all(np.diff(course.steps[-64:]) == 1))
    swings = (
        consecutive
        and windows.alternation(values) <= limits.alternation
        and float(np.std(values)) >= 0.2 * course.level
    )
    if lasting >= limits.ratio or (largest >= limits.huge and not _was_learning(course)):
        ratio = max(lasting, largest if lasting < limits.ratio else lasting)
        words = f"a step changes the typical weight matrix by {10.0**ratio:.2g} of its size"
        if lasting < limits.ratio:
            row = int(np.nanargmax(typical))
            words = (
                f"step {int(table.steps[row])} changed the typical weight matrix by"
                f" {10.0**ratio:.2g} of its size"
            )
    elif swings or (rising and _grows_smoothly(course)):
        ratio = lasting
        words = "the loss " + ("swings from side to side" if swings else "rises step by step")
    else:
        return
    _, rates = history["step"].series("learning_rate", course.column)
    rate = f"a learning rate of {float(rates[-1]):g}: " if len(rates) else ""
    yield Finding(
        code="OPT221",
        name="learning-rate-too-high",
        severity=Severity.ERROR,
        modules=(),
        summary=(
            f"{rate}{words}, and the loss went from {windows.plain(course.first)} to"
            f" {windows.plain(course.last)}"
        ),
        evidence=(
            Evidence(
                quantity="log10 update over weight",
                observed=ratio,
                limit=limits.ratio,
                unit="decades",
                step=history.step,
            ),
        ),
        weight=5.0 + max(ratio, 0.0),
        explains=(
            "oscillating-loss",
            "diverging-loss",
            "loss-plateau",
            "loss-spike",
            "exploding-gradient",
            "dead-relu",
            "saturated-activation",
            "vanishing-gradient",
            "non-finite-value",
            "update-norm-spike",
            "saturated-attention",
            "attention-logit-growth",
            "stalled-layers",
        ),
        exculpation="a loss that falls",
    )


def _was_learning(course: windows.Loss) -> bool:
    """It fell and stayed down for a while: what came later is a spike's affair."""
    smooth = windows.rolling_median(course.values)
    return float(smooth.min()) < course.first - max(0.2 * abs(course.first), 6.0 * course.noise)


def _grows_smoothly(course: windows.Loss) -> bool:
    """Losses grow by a factor at nearly every step: the steps themselves make it worse."""
    values = course.values[-windows.RECENT :]
    if values.min() <= 0.0:
        return False
    grown = float(np.mean(np.diff(values) > 0.0))
    return grown >= 0.9 and values[-1] >= 3.0 * values[0]
