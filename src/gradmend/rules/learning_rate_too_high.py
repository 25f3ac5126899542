"""OPT221: steps as large as the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Floats, History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.divergence import Divergence, divergence


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
    swing: float = limit(
        0.2, unit="1", source="deviation over the first losses' size, as in oscillating-loss"
    )
    huge: float = limit(
        0.0,
        unit="decades",
        source="log10 of update over weight of one step: as large as the weights themselves",
    )
    growth: float = limit(
        1.0,
        unit="decades",
        source="of the typical weight matrix within the first rows, with nothing learned: between "
        "two rows ten steps apart at least one step was then a quarter of the weights",
    )
    climb: float = limit(
        2.0,
        unit="decades",
        source="by which loss and gradient rise together in the last steps before NaN. Divergence "
        "is geometric: each step's error makes the next step larger; a bad value is there at once",
    )


_NUMBERS = (
    "exponential-overflow",
    "half-precision-overflow",
    "logarithm-of-zero",
    "division-by-zero",
)
_SYMPTOMS = (
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
    "collapsed-signal",
    "weight-collapse",
    "gradient-lost-through-time",
    "learning-rate-too-low",
)


@rule(
    code="OPT221",
    rehearsed=False,
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
        diverges with the steps it takes; and runs whose loss and gradient climb by decades in the
        last steps before NaN.

    Why it matters:
        A gradient is true only nearby: a step beyond that lands anywhere. One such step is enough
        to switch rectifiers off for good.

    How it is measured:
        log10 of update over weight, the median over the matrices of an optimizer, over the recent
        window and at its largest; how far the weights have grown since the beginning, as the one
        step that did it may lie between two rows; the loss's medians and the correlation of its
        neighbours.

    Silent when:
        The loss has fallen. Weights that began at zero, as in adapters, take large relative steps
        at first and learn.

    References:
        LeCun, Bottou, Orr, Mueller 1998; CS231n neural-networks-3; pytorch-nin-cifar10#1 (2.302585
        for ever after one epoch at 0.1).
    """
    if (climb := divergence(history, limits.climb, limits.huge)) is not None:
        yield _climbing(history, climb, limits)
        return
    courses = windows.loss_course(history)
    if len(courses) > 1 or any(course.learned for course in courses):
        return
    course, table = next(iter(courses), None), history["update"]
    at = windows.matrices(table.columns)
    ratios = table["log10_ratio"][:, at]
    started = table["log10_weight"][:, at] > -6.0  # a weight of zero has no size to compare with
    ratios = np.where(started | np.isnan(table["log10_weight"][:, at]), ratios, np.nan)
    own = ~(table["decay_share"][:, at] > 0.5)  # what weight decay takes is weight-collapse's
    typical = windows.rank(np.where(own, ratios, np.nan).T, 0.5)
    known = typical[np.isfinite(typical)]
    lasting = float(np.median(known[-windows.RECENT :])) if len(known) >= windows.FEWEST else -99.0
    huge = _huge_step(history, typical, limits)
    words, ratio = "", lasting
    if course is not None and lasting >= limits.ratio:
        words = (
            f"a step changes the typical weight matrix by {windows.times(ratio):.2g} of its size"
        )
    elif huge is not None and not (course is None and not _broke(history)):
        number, ratio = huge
        changed = f"{windows.times(ratio):.2g} of its size"
        words = f"step {number} changed the typical weight matrix by {changed}"
    elif (grown := _growth(history)) >= limits.growth and (course is not None or _broke(history)):
        words = f"the steps made the typical weight matrix {windows.times(grown):.3g} times larger"
    elif course is not None and _swings(course, limits):
        words = "the loss swings from side to side"
    elif course is not None and _grows_smoothly(course):
        words = "the loss rises step by step"
    if not words:
        return
    numbers, rates = history["step"].series("learning_rate", course.column if course else 0)
    then = rates[numbers <= (history.step if huge is None else huge[0])]
    rate = f"a learning rate of {float(then[-1]):g}: " if len(then) else ""
    went = "and then came NaN or infinity"
    if course is not None:
        went = (
            f"and the loss went from {windows.plain(course.first)} to {windows.plain(course.last)}"
        )
    yield Finding(
        code="OPT221",
        name="learning-rate-too-high",
        severity=Severity.ERROR,
        modules=(),
        summary=f"{rate}{words}, {went}",
        evidence=(
            Evidence(
                quantity="log10 update over weight",
                observed=ratio,
                limit=limits.ratio,
                unit="decades",
                step=history.step,
            ),
        ),
        weight=1001.0 if _broke(history) else 5.0 + max(ratio, 0.0),
        explains=(*_SYMPTOMS, *_NUMBERS),
        exculpation="a loss that falls",
    )


def _climbing(history: History, climb: Divergence, limits: Limits) -> Finding:
    numbers, rates = history["step"].series("learning_rate", 0)
    then = rates[numbers <= climb.step]
    rate = f"a learning rate of {float(then[-1]):g}: " if len(then) else ""
    course = ", ".join(windows.plain(float(loss)) for loss in climb.losses[:5])
    did = "each step made the loss larger" if len(climb.losses) > 2 else "the loss rose"
    return Finding(
        code="OPT221",
        name="learning-rate-too-high",
        severity=Severity.ERROR,
        modules=(),
        summary=f"{rate}from step {climb.step} on {did} ({course}), and then came NaN or infinity",
        evidence=(
            Evidence(
                quantity="decades that the loss rose before it was no number",
                observed=climb.decades,
                limit=limits.climb,
                unit="decades",
                step=climb.step,
            ),
        ),
        weight=999.0,  # what makes a bad value at once is told by its own rule, and comes first
        explains=_SYMPTOMS,
        exculpation="a loss that was moderate one step before NaN",
    )


def _huge_step(history: History, typical: Floats, limits: Limits) -> tuple[int, float] | None:
    """The largest step, if as large as the weights while the gradient was the usual one."""
    if not np.any(typical >= limits.huge):
        return None
    table, steps = history["update"], history["step"]
    row = int(np.flatnonzero(typical >= limits.huge)[0])
    number = int(table.steps[row])
    for quantity in ("log10_raw_norm", "log10_norm"):
        at, norms = steps.series(quantity, 0) if len(steps.columns) else (steps.steps, typical[:0])
        norms, at = norms[np.isfinite(norms)], at[np.isfinite(norms)]
        before, then = norms[at < number], norms[at == number]
        if len(then) and len(before) >= windows.FEWEST:
            if float(then[0]) > float(np.median(before)) + 1.0:
                return None  # a bad batch, not the rate
            break
    return number, float(typical[row])


def _growth(history: History) -> float:
    """Decades by which the typical weight matrix has grown within the first rows."""
    table = history["update"]
    at = windows.matrices(table.columns)
    if not len(table) or not len(at):
        return 0.0
    # Later growth may be a bad batch's, or slow.
    begin, now = table.first("log10_weight")[at], windows.early(table, "log10_weight")[at]
    known = (begin > -6.0) & np.isfinite(now)  # what begins at zero grows without end
    if not known.any():
        return 0.0
    return float(np.median(now[known] - begin[known]))


def _broke(history: History) -> bool:
    return any(True for _ in history.of_kind("non-finite"))


def _swings(course: windows.Loss, limits: Limits) -> bool:
    values, steps = course.values[-64:], course.steps[-64:]
    return (
        len(values) >= 32
        and bool(np.all(np.diff(steps) == 1))
        and windows.alternation(values) <= limits.alternation
        and float(np.std(values)) >= limits.swing * course.level
    )


def _grows_smoothly(course: windows.Loss) -> bool:
    """Losses grow by a factor at nearly every step: the steps themselves make it worse."""
    values = course.values[-windows.RECENT :]
    if values.min() <= 0.0:
        return False
    grown = float(np.mean(np.diff(values) > 0.0))
    return grown >= 0.9 and values[-1] >= 3.0 * values[0]
