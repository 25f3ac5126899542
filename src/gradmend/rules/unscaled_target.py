"""DAT102: regression targets far from where the outputs begin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.loss_call import LossCall, Values
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import targets, windows
from gradmend.theory.windows import plain

EXPLAINS = (
    "exploding-gradient",
    "diverging-loss",
    "learning-rate-too-high",
    "learning-rate-too-low",
    "loss-plateau",
    "loss-spike",
    "oscillating-loss",
    "non-finite-value",
    "dead-relu",
    "saturated-activation",
    "stalled-layers",
    "update-norm-spike",
    "clip-too-tight",
    "vanishing-gradient",
    "half-precision-overflow",
    "exponential-overflow",
)


@dataclass(frozen=True)
class Limits:
    """When targets are out of scale."""

    rms: float = limit(
        50.0,
        unit="units of the target",
        source="measured on a perceptron of 8-64-64-1: SGD at 0.01 trains on targets of mean 22"
        " and deviation 9 and diverges at a deviation of 30; Adam at 1e-3 takes five times as long"
        " at 100",
    )
    ratio: float = limit(
        20.0,
        unit="1",
        source="target over output before training: our choice; a model that ends in the targets'"
        " own scale has about 1",
    )
    explained: float = limit(
        0.5,
        unit="1",
        source="mean squared error over the targets' variance: half of it is explained",
    )
    huge: float = limit(
        1e4,
        unit="units of the target",
        source="the same perceptron: Adam at 1e-3 takes twenty times as long as at 1",
    )
    crawl: float = limit(
        10.0,
        unit="1",
        source="steps still to go over those taken, at the pace of the recent window: our choice",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    calls = targets.regressions(targets.firsts(history))
    by_hand = not calls and targets.squared_by_hand(history)
    target: Values | None = None
    start = math.nan
    if calls:
        call = max(calls, key=lambda c: c.target.rms if c.target.rms == c.target.rms else 0.0)
        target, start = call.target, _rms(call.prediction)
        size, squares = target.rms, call.function == "mse_loss" and call.reduction == "mean"
    elif by_hand:
        first = history["step"]["loss"][:1]
        size = math.sqrt(float(first[0, 0])) if first.size and first[0, 0] > 0 else math.nan
        start, squares = targets.output_rms(history), True
    else:
        return
    if not size >= limits.rms or not size >= limits.ratio * (0.0 if math.isnan(start) else start):
        return
    if len(history["step"].columns) > 1:
        return
    went = _went(history, target, size, squares, limits)
    if went is None:
        return
    broken = targets.broke(history) or "grown" in went
    yield _finding(
        modules=targets.last_linear(history),
        target=target,
        size=size,
        start=start,
        went=went,
        severity=Severity.ERROR if broken else Severity.WARNING,
        limits=limits,
        step=history.step,
    )


def _went(
    history: History, target: Values | None, size: float, squares: bool, limits: Limits
) -> str | None:
    """What became of the run, as a clause; ``None`` where it learns well, or it is too early."""
    broken = targets.first_broken(history)
    if broken is not None:
        return f", and came to NaN or infinity at step {broken.step}"
    courses = windows.loss_course(history)
    if not courses or len(courses[0].values) < windows.ENOUGH:
        return None
    course = courses[0]
    error = math.sqrt(course.last) if squares and course.last >= 0 else abs(course.last)
    if course.last > 5.0 * course.first:
        return f", and the loss has grown from {plain(course.first)} to {plain(course.last)}"
    if squares and error >= limits.rms and _beside_small_ones(history, size, limits):
        return f", and its error of {plain(error)} drowns the loss beside it"
    if target is not None and target.std > 0:
        spread = target.std * (1.0 if squares else 0.8)
        if error <= math.sqrt(limits.explained) * spread:
            return None
    elif error <= 0.1 * size:
        return None
    half = len(course.values) // 2
    middle = float(np.median(course.values[max(0, half - 8) : half + 8]))
    middle = math.sqrt(middle) if squares and middle >= 0 else abs(middle)
    pace = (middle - error) / (len(course.values) - half)
    if size < limits.huge and pace > 0 and error / pace <= limits.crawl * len(course.values):
        return None  # on its way
    return f", and the error is still {plain(error)} after {len(course.values)} losses"


def _beside_small_ones(history: History, size: float, limits: Limits) -> bool:
    """Whether the loss is a sum with one whose gradient is of order 1, or of far smaller targets.

    A squared error pulls with twice the error, a cross entropy with no more than sqrt(2).
    """
    calls = targets.firsts(history)
    return len(calls) > 1 and any(
        call.target.rms * limits.ratio <= size
        if call in targets.regressions(calls)
        else "cross_entropy" in call.function or call.function == "nll_loss"
        for call in calls
    )


def _rms(values: Values | None) -> float:
    return math.nan if values is None else values.rms


def _finding(
    *,
    modules: tuple[str, ...],
    target: Values | None,
    size: float,
    start: float,
    went: str,
    severity: Severity,
    limits: Limits,
    step: int = 0,
) -> Finding:
    if target is None:
        what = f"the first loss puts the targets at about {plain(size)}"
    else:
        what = f"the targets have mean {plain(target.mean)} and standard deviation"
        what += f" {plain(target.std)}"
    begins = "" if math.isnan(start) else f"; the outputs begin at {plain(start)}"
    return Finding(
        code="DAT102",
        name="unscaled-target",
        severity=severity,
        modules=modules,
        summary=f"{what}{begins}{went}: standardise the targets, and turn the outputs back",
        evidence=(
            Evidence(
                quantity="rms of the targets",
                observed=size,
                limit=limits.rms,
                unit="units of the target",
                step=step,
            ),
        ),
        weight=1002.0 if went else math.log10(size),
        explains=EXPLAINS,
        exculpation="targets of mean 0 and deviation 1, or a last layer that begins at their scale",
    )


@rule(
    code="DAT102",
    limits=Limits,
    fires_on=[
        Case.of("fed_regressor", scale=1e5, shift=2e5),
        Case.of("fed_regressor", scale=100.0, loss="l1"),
        Case.of("fed_regressor", scale=1e3, loss="by_hand"),
        Case.of("fed_regressor", shift=1e3, depth=4, width=64),
    ],
    silent_on=[
        Case.of("fed_regressor"),
        Case.of("fed_regressor", scale=9.0, shift=22.0),
        Case.of("fed_regressor", scale=1e5, shift=2e5, head="scaler"),
        Case.of("fed_regressor", inputs=1e3),
        Case.of("mlp"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("fed_regression", scale=1e5, shift=2e5),
        Case.of("fed_regression", scale=1e5, shift=2e5, loss="by_hand"),
        Case.of("fed_regression", scale=1e5, shift=2e5, optimizer="Adam", rate=1e-3),
        Case.of("fed_regression", shift=1e3, optimizer="Adam", rate=1e-3),
    ],
    live_silent_on=[
        Case.of("fed_regression"),
        Case.of("fed_regression", rate=10.0),
        Case.of("fed_regression", scale=100.0, optimizer="Adam", rate=1e-2),
        Case.of("fed_regression", scale=1e5, shift=2e5, head="scaler"),
    ],
)
def unscaled_target(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Regression targets whose scale or offset is far from what the outputs begin with.

    What it finds:
        Regressions (squared, absolute or Huber error, or a difference written by hand) on targets
        with a root mean square above 50, twenty times the outputs of the model and more.

    Why it matters:
        The error's gradient is proportional to the targets: at house prices the first step of
        gradient descent throws the weights away, and what follows looks like an exploding gradient
        or a learning rate too high. Steps of an optimizer that is scale free are the same as ever,
        so that an offset of a thousand takes the last bias a million of them at 1e-3.

    How it is measured:
        Targets and outputs of the first batch, as the loss is handed them; over a run, where the
        loss is written by hand, by the first loss. A run is told where it has come to NaN, has
        grown, or is not going to arrive soon; and where the squared error stays that large beside
        another loss, of which nothing is learned meanwhile.

    Silent when:
        The model ends in the targets' scale; the run explains half of the targets' variance, or
        will at its pace; targets are classes; the input is what is out of scale.

    References:
        LeCun, Bottou, Orr, Mueller 1998 (Efficient BackProp), section 4.5; keras-team/keras#510.
    """
    for call in targets.regressions_of(trace):
        size = call.target.rms
        start = _output(trace, call)
        if not size >= limits.rms or not size >= limits.ratio * (0.0 if start != start else start):
            continue
        yield _finding(
            modules=targets.output_module(trace),
            target=call.target,
            size=size,
            start=start,
            went="",
            severity=Severity.WARNING,
            limits=limits,
        )
        return


def _output(trace: Trace, call: LossCall) -> float:
    if call.prediction is not None:
        return call.prediction.rms
    first = next((op for op in targets.tail_of(trace) if op.name in targets.DIFFERENCES), None)
    if first is None or not first.upstream:
        return math.nan
    signal = trace.operations[first.upstream[0]].signal
    return math.sqrt(signal.mean_square) if signal is not None else math.nan
