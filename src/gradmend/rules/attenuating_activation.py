"""ACT101: an activation whose slope is below one wherever it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Request
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory.guessing import stuck_at_a_guess
from gradmend.theory.recovery import few_steps, recovers


@dataclass(frozen=True)
class Limits:
    """When an attenuation counts."""

    steepest_slope: float = limit(
        0.5,
        unit="1",
        source="sup |phi'|: sigmoid 1/4, hardsigmoid 1/6; tanh, ReLU, GELU reach 1 or more",
    )
    warning_decades: float = limit(
        4.0,
        unit="decades",
        source="AutoTrainer (Zhang et al. 2021) calls a first/last ratio of 1e-3 vanishing; one "
        "decade more keeps healthy shallow nets silent",
    )
    error_decades: float = limit(
        5.5,
        unit="decades",
        source="six sigmoid layers (5.1 decades) train and seven (6.0) do not: microsoft/CNTK#476",
    )
    stuck_decades: float = limit(
        1.2,
        unit="decades",
        source="two sigmoids at their steepest, where fifty steps of the run's own optimizer have "
        "not moved the loss from that of a guess: our choice",
    )
    beyond_steepest: float = limit(
        0.4,
        unit="decades",
        source="lost by a layer beyond its steepest slope, up to which the function itself is to "
        "blame: a sigmoid loses 0.07 at pre-activations of variance 1 and 0.34 at 25 "
        "(quadrature); what it loses beyond is saturated-activation's",
    )


@rule(
    code="ACT101",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=10, activation="sigmoid", init="normal"),
        Case.of("functional_mlp", depth=12, activation="sigmoid"),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="sigmoid"),
        Case.of("mlp", depth=30, activation="tanh"),
        Case.of("mlp", depth=12, activation="sigmoid", norm="batch"),
        Case.of("residual_mlp", depth=12, activation="sigmoid"),
        Case.of("mlp", depth=4, activation="sigmoid", bad_layer=1, bad_bias=12.0),
    ],
)
def attenuating_activation(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Activation whose slope stays far below one, at every layer.

    What it finds:
        Layers of an activation whose steepest slope is below one half (sigmoid, hardsigmoid),
        where the gradient pays for them and nothing else in the network pays it back.

    Why it matters:
        On its way back the gradient is multiplied by phi'(z) at every layer. For the sigmoid
        phi' <= 1/4, so L layers cost at least 0.6 L decades; the weights would have to be four
        times larger to make up for it.

    How it is measured:
        In the gradient ledger: decades booked to the activation's derivative, weighted by the
        share of the gradient that passes there, against the decades the whole model loses. A
        layer counts up to a little more than its steepest slope costs: beyond that it is where
        it works, and not what it is. One backward pass. Where the run's own optimizer was
        rehearsed and the loss stayed that of a guess, two sigmoids are enough to be named.

    Silent when:
        The model as a whole keeps its gradient (normalisation, skips or larger weights pay it
        back), there are too few such layers to matter, or fewer than 5.5 decades are lost that
        a few training steps bring back while the loss falls.

    References:
        Hochreiter 1991; Bengio, Simard, Frasconi 1994; Glorot and Bengio 2010, section 3.
        microsoft/CNTK#476: six sigmoid layers train, seven do not.
    """
    total = trace.ledger.total_decades if trace.ledger else None
    least = limits.stuck_decades if stuck_at_a_guess(trace) else limits.warning_decades
    if total is None or not total <= -least:  # NaN convicts nobody
        return
    guilty: dict[str, list[Operation]] = {}
    for op in trace.activations:
        facts = op.activation
        assert facts is not None
        steepest = facts.steepest_slope
        if steepest is not None and steepest < limits.steepest_slope and op.share > 0:
            guilty.setdefault(facts.function, []).append(op)
    for function, ops in guilty.items():
        lost = sum(_by_nature(op, limits) for op in ops)
        if not lost >= least:
            continue
        if (
            -total < limits.error_decades and least == limits.warning_decades
        ):  # such a loss a few steps may mend
            mended = recovers(
                trace, lambda after: -(after.total_decades or 0.0), limits.warning_decades
            )
            if mended:
                return
            if mended is None:
                yield few_steps("ACT101", "attenuating-activation", "the gradient")
        facts = ops[0].activation
        assert facts is not None and facts.steepest_slope is not None
        worst = min(ops, key=lambda op: op.decades)
        yield Finding(
            code="ACT101",
            name="attenuating-activation",
            severity=Severity.ERROR if -total >= limits.error_decades else Severity.WARNING,
            modules=tuple(dict.fromkeys(op.module for op in ops)),
            source=ops[0].source,
            summary=(
                f"{len(ops)} {function} layers multiply the gradient by at most"
                f" {facts.steepest_slope:.3g} each: {lost:.1f} of the {-total:.1f} decades lost"
            ),
            evidence=(
                Evidence(
                    quantity="decades lost to the activation's derivative",
                    observed=lost,
                    limit=least,
                    unit="decades",
                ),
                Evidence(
                    quantity="slope (rms) of the worst layer",
                    observed=worst.activation.slope_rms if worst.activation else 0.0,
                    limit=limits.steepest_slope,
                    module=worst.module,
                ),
            ),
            weight=lost,
            explains=("vanishing-gradient", "depth-without-skip"),
            exculpation="weights, skips or norms that pay the loss back",
        )


def _by_nature(op: Operation, limits: Limits) -> float:
    """Decades that a layer loses because of what its function is, not of where it works."""
    assert op.activation is not None
    steepest = op.activation.steepest_slope
    assert steepest is not None
    return min(-op.decades, op.share * (limits.beyond_steepest - math.log10(steepest)))
