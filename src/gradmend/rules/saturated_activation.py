"""ACT103: a bounded activation that works on its flats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory.activations import KNOWN, activation


@dataclass(frozen=True)
class Limits:
    """When an activation is saturated."""

    flat_share: float = limit(
        0.5,
        unit="1",
        source="share of entries with |phi'| < 5 % of its steepest; half a layer as in SageMaker "
        "Debugger and DeepDiagnosis (Wardat et al. 2022)",
    )
    error_share: float = limit(
        0.9,
        unit="1",
        source="nine entries in ten pass less than 5 % of the gradient: chosen on our zoo",
    )


@rule(
    code="ACT103",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=12.0),
        Case.of("mlp", depth=3, activation="tanh", scale=100.0),
        Case.of("mlp", depth=4, activation="sigmoid", bad_layer=1, bad_bias=12.0),
    ],
    silent_on=[
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=1.0),
        Case.of("mlp", depth=4, activation="tanh", init="normal", gain=1.667),
        Case.of("mlp", depth=24, activation="relu"),
        Case.of("mlp", depth=4, activation="relu", init="normal", gain=12.0),
    ],
)
def saturated_activation(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Bounded activation whose pre-activations lie on its flat tails.

    What it finds:
        Layers of sigmoid, tanh, hardtanh and other bounded activations in which at least half of
        the entries have nearly no slope.

    Why it matters:
        delta_l = phi'(z_l) * W^T delta_(l+1): where phi' is nearly zero the unit learns nothing
        and passes nothing on, and as its output is constant nothing changes that.

    How it is measured:
        phi' itself, from the backward node of the activation, per entry of the batch, against
        the function's steepest slope. Not |output| > 1 - eps, which calls every large linear
        output saturated.

    Silent when:
        The activation is not bounded (a ReLU's zero half is its nature: see dead-relu).

    References:
        Glorot and Bengio 2010, section 3; Rakitianskaia and Engelbrecht 2015 (measuring
        saturation).
    """
    guilty = []
    for op in trace.activations:
        facts = op.activation
        if facts is None or facts.function not in KNOWN:
            continue
        if activation(facts.function).bounded and facts.flat_share >= limits.flat_share:
            guilty.append(op)
    if not guilty:
        return
    worst = max(guilty, key=lambda op: op.activation.flat_share if op.activation else 0.0)
    assert worst.activation is not None
    share = worst.activation.flat_share
    yield Finding(
        code="ACT103",
        name="saturated-activation",
        severity=Severity.ERROR if share >= limits.error_share else Severity.WARNING,
        modules=tuple(dict.fromkeys(op.module for op in guilty)),
        source=guilty[0].source,
        summary=(
            f"{len(guilty)} {worst.activation.function} layer(s) work on their flats:"
            f" {share:.0%} of the entries of {worst.module or 'the worst'}"
            " have no slope to speak of"
        ),
        evidence=(
            Evidence(
                quantity="share of flat entries",
                observed=share,
                limit=limits.flat_share,
                module=worst.module,
            ),
        ),
        weight=-min(0.0, sum(op.decades for op in guilty)),
        explains=("vanishing-gradient", "collapsed-signal"),
        exculpation="fewer than half of the entries flat",
    )
