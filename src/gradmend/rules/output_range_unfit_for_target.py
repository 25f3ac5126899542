"""LOS211: an activation at the output that cannot reach the targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.loss_call import LossCall, Values
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import targets, windows
from gradmend.theory.windows import plain
from gradmend.theory.wiring import REARRANGES, loss_tails

RANGES = {
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "threshold": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "log_softmax": (-math.inf, 0.0),
    "log_sigmoid": (-math.inf, 0.0),
    "elu": (-1.0, math.inf),
}
BY_HAND = frozenset({"sub", "rsub"})
EXPLAINS = (
    "loss-plateau",
    "saturated-activation",
    "dead-relu",
    "vanishing-gradient",
    "attenuating-activation",
    "stalled-layers",
    "collapsed-signal",
    "unscaled-target",
)


@dataclass(frozen=True)
class Limits:
    """When an output cannot reach its targets."""

    beyond: float = limit(
        0.02,
        unit="standard deviations of the targets",
        source="how far the hundredth-highest (or -lowest) target lies outside the range: labels"
        " at the very edge, 1 behind a sigmoid, are approached",
    )
    error: float = limit(
        0.5,
        unit="share of the targets' range",
        source="that lies outside, from which most of what is to be learned is out of reach",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    calls = targets.regressions(targets.firsts(history))
    if not calls:
        return
    for tail in loss_tails(history):
        for first, second in tail.pairs():
            if first.op not in {call.function for call in calls} or second.op not in RANGES:
                continue
            for call in calls:
                if call.function == first.op:
                    yield from _judge(
                        call.target,
                        second.op,
                        targets.output_modules(history),
                        limits,
                        step=history.step,
                        learned=windows.learned(history),
                    )
                    return


def _judge(
    target: Values,
    activation: str,
    modules: tuple[str, ...],
    limits: Limits,
    *,
    step: int = 0,
    source: str | None = None,
    learned: bool | None = None,
) -> Iterator[Finding]:
    low, high = RANGES[activation]
    spread = target.high - target.low
    if not (target.std > 0 or target.low < low or target.high > high):
        return
    above, below = max(0.0, target.high - high), max(0.0, low - target.low)
    beyond = above + below
    if not beyond > limits.beyond * max(target.std, 1e-12):
        return
    share = min(1.0, beyond / spread) if spread > 0 else 1.0
    words = f"[{plain(low)}, {plain(high)}]".replace("inf]", "infinity]")
    words = words.replace("[-inf", "[-infinity")
    small = share < 0.1 and learned is True
    yield Finding(
        code="LOS211",
        name="output-range-unfit-for-target",
        severity=Severity.NOTE
        if small
        else Severity.ERROR
        if share >= limits.error
        else Severity.WARNING,
        modules=modules,
        source=source,
        summary=(
            f"the output goes through {activation}, which stays in {words}, and the targets go"
            f" from {plain(target.smallest)} to {plain(target.largest)}: {share:.0%} of their range"
            " cannot be reached; end in a linear layer, or rescale the targets"
        ),
        evidence=(
            Evidence(
                quantity="share of the targets' range out of reach",
                observed=share,
                limit=limits.beyond,
                unit="share",
                step=step,
            ),
        ),
        weight=100.0,
        explains=EXPLAINS,
        exculpation="targets within the activation's range",
    )


@rule(
    code="LOS211",
    limits=Limits,
    fires_on=[
        Case.of("fed_regressor", head="tanh", scale=2.0),
        Case.of("fed_regressor", head="sigmoid", scale=60.0, shift=128.0),
        Case.of("fed_regressor", head="relu"),
        Case.of("fed_regressor", head="sigmoid", loss="by_hand"),
    ],
    silent_on=[
        Case.of("fed_regressor"),
        Case.of("fed_regressor", head="relu", scale=0.1, shift=3.0),
        Case.of("fed_regressor", head="sigmoid", scale=0.05, shift=0.5),
        Case.of("fed_regressor", head="scaler", scale=1e5, shift=2e5),
        Case.of("fed_regressor", head="scaled_tanh", scale=2.0),
        Case.of("labelled", loss="mse_of_softmax"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("fed_regression", head="tanh", scale=2.0),
        Case.of("fed_regression", head="sigmoid", scale=60.0, shift=128.0),
        Case.of("fed_regression", head="relu"),
    ],
    live_silent_on=[
        Case.of("fed_regression"),
        Case.of("fed_regression", head="relu", scale=0.1, shift=3.0),
        Case.of("fed_regression", head="scaler", scale=1e5, shift=2e5),
        Case.of("fed_regression", head="scaled_tanh", scale=2.0),
    ],
)
def output_range_unfit_for_target(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Output activation whose range does not hold the targets.

    What it finds:
        Regressions whose loss reads a sigmoid, tanh, ReLU, softmax or another activation with a
        bounded range, on targets outside of it.

    Why it matters:
        The output is driven against its bound, where its slope is zero: units die or saturate, and
        the loss stays where the bound is. It looks like a vanishing gradient.

    How it is measured:
        The operation that the loss reads, on its autograd graph, and the hundredth-lowest and
        -highest target of the batch.

    Silent when:
        Targets lie within the range, edges included; something lies between, such as a scale; the
        loss is one for probabilities.

    References:
        DeepDiagnosis (arXiv 2112.04036), out of range; theorangeduck.com (a rectified output).
    """
    for call in targets.regressions_of(trace):
        found = _activation(trace, call)
        if found is not None:
            activation, module, source = found
            modules = (module,) if module else targets.output_module(trace)
            yield from _judge(call.target, activation, modules, limits, source=source)
            return


def _activation(trace: Trace, call: LossCall) -> tuple[str, str, str | None] | None:
    """The activation that the loss reads, its module and line."""
    names = {call.function} if call.function else BY_HAND
    for op in targets.tail_of(trace):
        if op.name not in names:
            continue
        for place in op.upstream:
            before = trace.operations[place]
            while before.name in REARRANGES and len(before.upstream) == 1:
                before = trace.operations[before.upstream[0]]
            if before.name in RANGES:
                return before.name, before.module, before.source
        return None
    return None
