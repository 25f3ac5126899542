"""INI102: weights too large for the activation they feed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory.reference_gain import gain_range


@dataclass(frozen=True)
class Limits:
    """When a gain is too large."""

    ratio: float = limit(
        1.2,
        unit="1",
        source="sigma_w / largest critical sigma_w; sampling noise of a 64 x 64 weight's gain is "
        "1 %, and torch's calculate_gain('tanh') = 5/3 lies inside the range",
    )
    decades: float = limit(
        4.0,
        unit="decades",
        source="AutoTrainer's explosion ratio of 70 (Zhang et al. 2021) is 1.8 decades and flags "
        "healthy nets; four is a gradient 10,000 times larger at one end",
    )
    flat_share: float = limit(
        0.5,
        unit="1",
        source="half of a layer on its flats: SageMaker Debugger SaturatedActivation, "
        "DeepDiagnosis (Wardat et al. 2022)",
    )


@rule(
    code="INI102",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=12.0),
        Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0),
        Case.of("mlp", depth=12, activation="gelu", init="normal", gain=6.0),
        Case.of(
            "mlp", depth=8, activation="relu", init="normal", gain=1.4, bad_layer=3, bad_gain=1e5
        ),
    ],
    silent_on=[
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=1.0),
        Case.of("mlp", depth=4, activation="tanh", init="normal", gain=1.667),
        Case.of("mlp", depth=24, activation="relu", init="normal", gain=1.414),
        Case.of("mlp", depth=3, activation="tanh", scale=100.0),
        Case.of("mlp", depth=100, activation="sigmoid"),
    ],
)
def init_gain_too_large(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Weights initialised too large for the activation they feed.

    What it finds:
        Layers whose weight gain is far above the critical one, where that shows: the gradient
        or the signal grows by decades, or a bounded activation works on its flats.

    Why it matters:
        With unbounded activations chi > 1 multiplies the gradient at every layer until it
        overflows or one step destroys the weights. With bounded ones the pre-activations land
        on the flats, where phi' = 0 and single units cannot learn.

    How it is measured:
        sigma_w against the largest critical gain of the activation; and, to convict, decades
        gained in the ledger, growth of the signal, or the share of entries with |phi'| below 5 %
        of its steepest value.

    Silent when:
        Nothing grows and nothing saturates: a large gain that the next layer, a norm or a skip
        absorbs is nobody's trouble. Inputs that saturate the first layer are unscaled-input.

    References:
        Glorot and Bengio 2010; Poole et al. 2016; Pennington, Schoenholz, Ganguli 2017. The
        makemore lecture (Karpathy) shows the saturated case.
    """
    pairs = []
    for weights, act in trace.pairs():
        assert weights.weights is not None and act.activation is not None
        critical = gain_range(act.activation.function)
        if critical is not None and weights.share > 0:
            pairs.append((weights, act, weights.weights.sigma_w / critical[1]))
    large = [pair for pair in pairs if pair[2] > limits.ratio]
    if not large:
        return
    total = trace.total_decades or 0.0
    growth = max(total, -(trace.signal_lost or 0.0))
    flat = [
        (weights, act)
        for weights, act, _ in large
        if act.activation is not None
        and act.activation.steepest_slope is not None
        and act.activation.flat_share > limits.flat_share
        and _fed_by_a_layer(trace, weights)
    ]
    if not growth >= limits.decades and len(flat) < max(1, len(large) // 2):
        return
    weights, act, ratio = max(large, key=lambda pair: pair[2])
    assert weights.weights is not None and act.activation is not None
    shown = (
        f"{growth:.1f} decades of growth"
        if growth >= limits.decades
        else f"{len(flat)} layers on their flats"
    )
    yield Finding(
        code="INI102",
        name="init-gain-too-large",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(w.module for w, _, _ in large)),
        source=weights.source,
        summary=(
            f"{len(large)} layer(s) start with weight gain up to {weights.weights.sigma_w:.3g},"
            f" {ratio:.2g} times what {act.activation.function} needs: {shown}"
        ),
        evidence=(
            Evidence(
                quantity="weight gain over critical gain",
                observed=ratio,
                limit=limits.ratio,
                module=weights.module,
            ),
            Evidence(
                quantity="growth of gradient or signal",
                observed=growth,
                limit=limits.decades,
                unit="decades",
            ),
        ),
        weight=max(growth, float(len(flat))),
        explains=(
            "exploding-gradient",
            "saturated-activation",
            "dead-relu",
            "collapsed-signal",
            "vanishing-gradient",
            "depth-without-skip",
        ),
        exculpation="neither growth nor saturation",
    )


def _fed_by_a_layer(trace: Trace, weights: Operation) -> bool:
    """Whether a layer reads other layers, so that its own gain and no input scale is to blame."""
    scale = max((i.stats.rms for i in trace.inputs if i.floating), default=1.0)
    return bool(weights.upstream) or scale < 3.0
