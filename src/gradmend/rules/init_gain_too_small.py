"""INI101: weights too small for the activation they feed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Request
from gradmend.records.trace import Trace
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
    error_decades: float = limit(
        5.5,
        unit="decades",
        source="VGG16 without norm at torch's default (5.9 decades) does not learn: "
        "forums.fast.ai/t/48936; six sigmoid layers (5.1) do: microsoft/CNTK#476",
    )


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
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="relu"),
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
        gradient was lost.

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
    if trace.run.step or total is None or not total <= -limits.warning_decades:
        return  # trained weights are no initialisation, and NaN convicts nobody
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
        explains=("vanishing-gradient", "collapsed-signal", "depth-without-skip", "dead-relu"),
        exculpation="the gradient arrives all the same",
    )
