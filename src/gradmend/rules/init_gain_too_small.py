"""INI101: weights too small for the activation they feed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Request
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory.recovery import few_steps, recovers
from gradmend.theory.reference_gain import gain_range


@dataclass(frozen=True)
class Limits:
    """When a gain is too small."""

    ratio: float = limit(
        0.8,
        unit="1",
        source="sigma_w / smallest critical sigma_w; 0.8 is a decade in ten layers. Sampling noise "
        "of a 64 x 64 weight's gain is 1 %",
    )
    warning_decades: float = limit(
        4.0,
        unit="decades",
        source="as for attenuating-activation: AutoTrainer's 1e-3 and one decade of margin",
    )
    alone: float = limit(
        0.5,
        unit="share",
        source="of the shortfall, by which one layer is named before all others: more than all of "
        "them together",
    )
    lone: float = limit(
        0.01,
        unit="1",
        source="sigma_w / smallest critical sigma_w of one layer, from which it is told whatever "
        "the rest makes of it: a thirtieth of torch's default before ReLU, and below the 0.04 of "
        "N(0, 0.01) on 27 inputs (Krizhevsky et al. 2012)",
    )
    quiet: float = limit(
        0.1,
        unit="1",
        source="rms of what such a layer puts out, across samples: above, its inputs are large, "
        "and a small weight scales them (our choice)",
    )
    error_decades: float = limit(
        5.5,
        unit="decades",
        source="VGG16 without norm at torch's default (5.9 decades) does not learn: "
        "forums.fast.ai/t/48936; six sigmoid layers (5.1) do: microsoft/CNTK#476",
    )


_EXPLAINS = ("vanishing-gradient", "collapsed-signal", "depth-without-skip", "dead-relu")


@rule(
    code="INI101",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=30, activation="tanh"),
        Case.of("mlp", depth=24, activation="relu"),
        Case.of("mlp", depth=24, activation="gelu"),
        Case.of("cnn", depth=16, activation="relu", norm=False),
        Case.of("mlp", depth=10, activation="tanh", init="orthogonal", bad_layer=4, bad_gain=1e-6),
        Case.of("mlp", depth=6, init="normal", gain=1.4, bad_layer=3, bad_gain=3e-3),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="relu"),
        Case.of("mlp", depth=6, init="normal", gain=1.4, bad_layer=3, bad_gain=0.03),
        Case.of("mlp", depth=6, norm="batch", init="normal", gain=1.4, bad_layer=3, bad_gain=0.01),
        Case.of("mlp", depth=30, activation="tanh", init="orthogonal", gain=1.05),
        Case.of("mlp", depth=24, activation="relu", init="normal", gain=1.414),
        Case.of("mlp", depth=12, activation="relu", norm="batch"),
        Case.of("cnn", depth=6, activation="relu"),
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=12.0),
    ],
)
def init_gain_too_small(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Weights initialised too small for the activation they feed.

    What it finds:
        Linear and convolutional layers whose weight gain sigma_w = sqrt(fan_in E[w^2]) is well
        below what their activation needs to pass signal and gradient on at the same size. Also
        a single such layer among good ones.

    Why it matters:
        One layer multiplies the squared gradient by chi = sigma_w^2 E[phi'^2]. Torch's default
        has sigma_w = 1/sqrt(3) for every activation, so chi is 0.33 for tanh, 0.17 for ReLU and
        0.02 for sigmoid, to the power of the depth.

    How it is measured:
        sigma_w from the weights themselves, against the smallest critical gain that the
        activation has at any depth, by quadrature; judged only where the ledger shows that the
        gradient was lost. A hundredth of it is told without that, where nothing behind restores
        the signal.

    Silent when:
        The gradient arrives (normalisation, skips, few layers), or theory does not know the
        activation; a loss below 5.5 decades that a few training steps bring back while the loss
        falls. In a look after training steps: weights that have become small were not
        initialised so.

    References:
        Glorot and Bengio 2010; He et al. 2015; Poole et al. 2016 (sigma_w, q map); Schoenholz
        et al. 2017 (chi, criticality). torch's default: pytorch/pytorch#15314.
    """
    total = trace.total_decades
    if trace.run.step or total is None or math.isnan(total):
        return  # trained weights are no initialisation, and NaN convicts nobody
    if not total <= -limits.warning_decades:
        yield from _lone(trace, limits)
        return
    guilty, ratios, functions = [], [], []
    pairs = list(trace.pairs())
    for weights, act in pairs:
        assert weights.weights is not None and act.activation is not None
        critical = gain_range(act.activation.function)
        if critical is None or weights.share <= 0:
            continue
        ratio = weights.weights.sigma_w / critical[0]
        if ratio < limits.ratio:
            guilty.append(weights)
            ratios.append(ratio)
            functions.append(act.activation.function)
    shortfall = -sum(
        max(math.log10(r), -30.0) * w.share for r, w in zip(ratios, guilty, strict=True) if r > 0
    )
    if not guilty or (shortfall < 0.25 * -total and all(r > 0 for r in ratios)):
        return
    if -total < limits.error_decades:  # such a loss a few steps may mend
        mended = recovers(
            trace, lambda after: -(after.total_decades or 0.0), limits.warning_decades
        )
        if mended:
            yield from _lone(trace, limits)
            return
        if mended is None:
            yield few_steps("INI101", "init-gain-too-small", "the gradient")
    worst = min(zip(ratios, guilty, strict=True), key=lambda pair: pair[0])
    alone = -max(math.log10(worst[0]), -30.0) * worst[1].share if worst[0] > 0 else math.inf
    if alone > limits.alone * shortfall or not worst[0] > 0:
        guilty.sort(key=lambda op: op is not worst[1])  # one place does it: named first
    function = max(set(functions), key=functions.count)
    critical = gain_range(function)
    assert critical is not None and worst[1].weights is not None
    single = len(guilty) <= max(1, len(pairs) // 5)
    which = (
        f"{worst[1].module or 'the model'} alone"
        if single and len(guilty) == 1
        else (f"{len(guilty)} layers")
    )
    yield Finding(
        code="INI101",
        name="init-gain-too-small",
        severity=Severity.ERROR if -total >= limits.error_decades else Severity.WARNING,
        modules=tuple(dict.fromkeys(op.module for op in guilty)),
        source=guilty[0].source if not single else worst[1].source,
        summary=(
            f"{which} start with weight gain {worst[1].weights.sigma_w:.3g}, where {function}"
            f" needs {critical[0]:.3g}: a factor {worst[0]:.2g} per layer"
        ),
        evidence=(
            Evidence(
                quantity="weight gain over critical gain",
                observed=worst[0],
                limit=limits.ratio,
                module=worst[1].module,
            ),
            Evidence(
                quantity="decades the shortfall explains",
                observed=shortfall,
                limit=0.25 * -total,
                unit="decades",
            ),
        ),
        weight=-sum(op.decades for op in guilty),
        explains=_EXPLAINS,
        exculpation="the gradient arrives all the same",
    )


def _lone(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """A layer on the trunk that passes on next to nothing, where the gradient's loss is small."""
    found: list[tuple[Operation, float, str]] = []
    last = trace.weights[-1].id if trace.weights else -1
    for op, act in trace.pairs():
        assert op.weights is not None and act.activation is not None
        critical = gain_range(act.activation.function)
        if critical is None or op.share <= 0.99 or op.id == last or not op.weights.trainable:
            continue
        ratio = op.weights.sigma_w / critical[0]
        if 0.0 < ratio <= limits.lone and not _restored(trace, op, limits):
            found.append((op, ratio, act.activation.function))
    if not found:
        return
    worst, ratio, function = min(found, key=lambda item: item[1])
    critical = gain_range(function)
    assert critical is not None and worst.weights is not None
    found.sort(key=lambda item: item[0] is not worst)
    yield Finding(
        code="INI101",
        name="init-gain-too-small",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(op.module for op, _, _ in found)),
        source=worst.source,
        summary=(
            f"{worst.module or 'the model'} starts with weight gain {worst.weights.sigma_w:.3g},"
            f" where {function} needs {critical[0]:.3g}: it passes on {ratio:.2g} of signal and"
            " gradient, and all of the model goes through it"
        ),
        evidence=(
            Evidence(
                quantity="weight gain over critical gain",
                observed=ratio,
                limit=limits.lone,
                module=worst.module,
            ),
        ),
        weight=-math.log10(ratio),
        explains=_EXPLAINS,
        exculpation="a gain of a hundredth and more, or a norm behind it",
    )


def _restored(trace: Trace, op: Operation, limits: Limits) -> bool:
    """Whether its inputs are large, or a norm behind it brings the signal back."""

    def told_apart(at: Operation) -> float:
        return math.sqrt(at.signal.spread_square) if at.signal is not None else 0.0

    return told_apart(op) > limits.quiet or any(
        later.cause == "normalisation" and later.share > 0.98 and told_apart(later) > limits.quiet
        for later in trace.operations[op.id + 1 :]
    )
