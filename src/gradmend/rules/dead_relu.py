"""ACT104: rectifier units that are off on every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import CannotJudge, Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.activations import KNOWN, activation


@dataclass(frozen=True)
class Limits:
    """When units count as dead."""

    dead_share: float = limit(
        0.7,
        unit="1",
        source="AutoTrainer's gamma = 0.7 (Zhang et al. 2021) and DeepDiagnosis' 70 %, applied to "
        "units over all samples instead of entries",
    )
    samples: float = limit(
        16,
        unit="samples",
        source="a unit active on one sample in four is off for 16 in a row with probability 1 %",
    )
    silent_share: float = limit(
        0.999,
        unit="share",
        source="of a rectifier's outputs exactly zero, step after step; half is normal",
    )
    sparse_share: float = limit(
        0.9,
        unit="share",
        source="the same in a run that has not learned; late layers of trained networks may be as "
        "sparse and healthy",
    )
    huge_step: float = limit(
        0.0,
        unit="decades",
        source="log10 of update over weight: a step as large as the weights themselves "
        "(pytorch-nin-cifar10#1); 1e-3 is usual",
    )
    bias: float = limit(
        2.0,
        unit="1",
        source="bias over the standard deviation that inputs give: two leave 2 % of samples above",
    )
    narrow: float = limit(
        6.0,
        unit="units",
        source="Lu et al. 2019: a layer of n units is born dead with probability 2^-n, 2 % for six",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    table = history["output"]
    if not len(table):
        return
    dead = windows.lasting(table, "dead_share", 0.25)
    # The units counted as dead never lived; a layer that died later shows in its zeros.
    silent = windows.lasting(table, "zero_share", 0.25)
    stuck = windows.learned(history) is False
    gone = np.nan_to_num(silent) >= (limits.sparse_share if stuck else limits.silent_share)
    share = np.where(gone, np.nan_to_num(silent), np.nan_to_num(dead))
    guilty = [
        at
        for at in np.flatnonzero(share >= limits.dead_share)
        if table.columns[at].kind.lower() in _RECTIFIERS
    ]
    if not guilty:
        return
    guilty.sort(key=lambda at: table.columns[at].order)
    worst = max(guilty, key=lambda at: float(share[at]))
    first = min(guilty, key=lambda at: table.columns[at].order)
    column = table.columns[worst]
    killed = _killed(history, limits, int(worst))
    yield Finding(
        code="ACT104",
        name="dead-relu",
        severity=Severity.ERROR if share[worst] >= limits.silent_share else Severity.WARNING,
        modules=tuple(table.columns[at].module for at in guilty),
        source=table.columns[first].source,
        summary=(
            f"{share[worst]:.0%} of the {column.kind} units of {column.module or 'the model'} are"
            f" off whatever is fed{killed}"
        ),
        evidence=(
            Evidence(
                quantity="share of dead units",
                observed=float(share[worst]),
                limit=limits.dead_share,
                unit="share",
                module=column.module,
                step=history.step,
            ),
        ),
        weight=10.0 * float(share[worst]),
        explains=(
            "vanishing-gradient",
            "collapsed-signal",
            "detached-parameters",
            "stalled-layers",
            "loss-plateau",
            "loss-spike",
        ),
        exculpation="units alive on some sample",
    )


_RECTIFIERS = {"relu", "relu6", "relu_", "threshold", "threshold_"}


def _killed(history: History, limits: Limits, column: int) -> str:
    """What is known of how a layer came to be off, as the end of a sentence."""
    table = history["output"]
    rows, zeros = table.series("zero_share", column)
    if len(zeros) and zeros[0] >= limits.silent_share:
        return f", from the first step that was seen ({int(rows[0])}): born dead, by its start"
    shock = _huge_step(history, limits)
    if shock is None:
        return ""
    return f", after step {shock[0]} changed the weights by {shock[1]:.1f} times their size"


def _huge_step(history: History, limits: Limits) -> tuple[int, float] | None:
    """The step whose median change of a matrix was the largest, if larger than the weights."""
    table = history["update"]
    at = windows.matrices(table.columns)
    if not len(table) or not len(at):
        return None
    typical = np.nan_to_num(windows.rank(table["log10_ratio"][:, at].T, 0.5), nan=-np.inf)
    row = int(np.argmax(typical))
    if not typical[row] >= limits.huge_step or not np.isfinite(typical[row]):
        return None
    return int(table.steps[row]), windows.times(typical[row])


@rule(
    code="ACT104",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=4, activation="relu", bad_layer=1, bad_bias=-30.0),
        Case.of("cnn", depth=2, activation="relu", norm=False, init="constant", gain=-4.0),
    ],
    silent_on=[
        Case.of("mlp", depth=4, activation="relu"),
        Case.of("mlp", depth=24, activation="relu"),
        Case.of("mlp", depth=4, activation="sigmoid", bad_layer=1, bad_bias=12.0),
        Case.of("cnn", depth=4, activation="relu"),
        Case.of("mlp", depth=3, activation="tanh", scale=1e5),
    ],
    live=_live,
    live_fires_on=[Case.of("huge_step")],
    live_silent_on=[
        Case.of("huge_step", rate=0.05),
        Case.of("perceptron"),
        Case.of("convolutions"),
    ],
)
def dead_relu(trace: Trace, limits: Limits) -> Iterator[Finding | CannotJudge]:
    """Rectifier units that are off for every sample, so that nothing can switch them on again.

    What it finds:
        Layers of ReLU and its kin in which most units have slope exactly zero on every sample of
        the batch.

    Why it matters:
        A unit with z < 0 on all data has zero gradient at its weights and its bias: it stays off
        for ever. A whole layer of them cuts the network in two.

    How it is measured:
        phi' = 0 on all samples, per unit (channel for images), not per entry: a healthy ReLU has
        half of its entries at zero and every unit alive. Over a run: units off on every sample
        so far, or outputs all zero over the recent window; and whether one huge step came before.
        Told with it, where it shows: a bias far below what inputs add, layers so narrow that they
        are born dead (2^-n each), off from the first step, or off since a huge step.

    Silent when:
        What goes in is exactly zero, as behind a residual branch that begins at zero: the first
        step wakes it. Fewer than 16 samples tell units apart; most units live; the activation has
        no exact zero slope.

    References:
        Lu, Shin, Su, Karniadakis 2019 (Dying ReLU and initialization); Maas, Hannun, Ng 2013.
    """
    guilty = []
    for op in trace.activations:
        facts = op.activation
        if facts is None or not facts.dead_units or facts.dead_share < limits.dead_share:
            continue
        if facts.function != "relu6" and _saturates(facts.function):
            continue  # a slope that rounds to zero far out: saturated-activation says so
        if _unfed(trace, op):
            continue  # z = 0 exactly: a branch that begins at zero, or a dead layer before this one
        if facts.samples < limits.samples:
            yield CannotJudge(
                code="ACT104",
                name="dead-relu",
                needs=f"a batch of at least {limits.samples:.0f} samples, it had {facts.samples}",
            )
            return
        guilty.append(op)
    if not guilty:
        return
    worst = max(guilty, key=lambda op: op.activation.dead_share if op.activation else 0.0)
    assert worst.activation is not None
    facts = worst.activation
    yield Finding(
        code="ACT104",
        name="dead-relu",
        severity=Severity.ERROR if facts.dead_units == facts.units else Severity.WARNING,
        modules=tuple(dict.fromkeys(name for op in guilty for name in _places(trace, op, limits))),
        source=guilty[0].source,
        summary=(
            f"{facts.dead_units} of {facts.units} {facts.function} units of"
            f" {_places(trace, worst, limits)[0] or 'the model'} are off on all {facts.samples}"
            f" samples"
            f"{_why(trace, worst, limits)}"
        ),
        evidence=(
            Evidence(
                quantity="share of dead units",
                observed=facts.dead_share,
                limit=limits.dead_share,
                unit="share",
                module=worst.module,
            ),
        ),
        weight=10.0 * facts.dead_share,
        explains=("vanishing-gradient", "collapsed-signal", "detached-parameters"),
        exculpation="units alive on some sample",
    )


def _unfed(trace: Trace, op: Operation) -> bool:
    """Whether nothing but zeros went in: such units are at the kink, not below it."""
    signals = [trace.operations[at].signal for at in op.upstream]
    return bool(signals) and all(s is not None and s.mean_square == 0.0 for s in signals)


def _places(trace: Trace, op: Operation, limits: Limits) -> tuple[str, ...]:
    """The activation's module, where it is one, and the layer that feeds it."""
    before = next((trace.operations[at] for at in op.upstream), None)
    layer = before.module if before is not None and before.weights is not None else ""
    own = op.module if op.activation is not None and op.activation.replaceable else ""
    if layer and _lowered(trace, op, limits):
        own, layer = layer, own
    return tuple(name for name in (own, layer) if name) or (op.module,)


def _lowered(trace: Trace, op: Operation, limits: Limits) -> str:
    """That a layer's bias switches it off, as the end of a sentence; empty where it does not."""
    before = next((trace.operations[at] for at in op.upstream), None)
    if before is None or before.weights is None or before.signal is None:
        return ""
    facts, signal = before.weights, before.signal
    bias, reach = facts.bias_mean_square**0.5, signal.spread_square**0.5
    usual = facts.fan_in**-0.5 if facts.fan_in else 1.0  # the most that torch's default draws
    lowered = bias > usual and bias**2 > 0.25 * signal.mean_square and signal.mean < 0.0
    if lowered and bias > limits.bias * reach:
        return (
            f": its bias is about -{bias:.2g}, and what the inputs add has a standard deviation of"
            f" {reach:.2g}"
        )
    return ""


def _why(trace: Trace, op: Operation, limits: Limits) -> str:
    """What switches a layer off, as the end of a sentence; empty where the look does not tell."""
    lowered = _lowered(trace, op, limits)
    if lowered:
        return lowered
    widths = [
        o.activation.units
        for o in trace.activations
        if o.id <= op.id and o.activation is not None and o.activation.function == "relu"
    ]
    if trace.run.step == 0 and widths and min(widths) <= limits.narrow:
        alive = math.prod(1.0 - 0.5**width for width in widths)
        return (
            f": born dead; a stack of {len(widths)} ReLU layers, {min(widths)} wide at the"
            f" narrowest, begins so with probability {1.0 - alive:.0%}"
        )
    return ""


def _saturates(function: str) -> bool:
    return function in KNOWN and activation(function).bounded
