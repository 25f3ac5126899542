"""ACT102: an activation whose output has a mean that drowns the signal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Request
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory.offset import intrinsic_offset
from gradmend.theory.recovery import few_steps, recovers


@dataclass(frozen=True)
class Limits:
    """When an offset drowns a signal."""

    intrinsic_offset: float = limit(
        0.5,
        unit="1",
        source="E[phi]^2 / E[phi^2] at unit variance: sigmoid 0.86, softplus 0.78; ReLU 0.32, "
        "GELU 0.19, tanh 0 (quadrature)",
    )
    warning_decades: float = limit(
        4.0,
        unit="decades",
        source="signal and gradient shrink alike in plain nets, so the limits of "
        "attenuating-activation hold for both",
    )
    error_decades: float = limit(
        5.5,
        unit="decades",
        source="six sigmoid layers (5.1 decades) train and seven (6.0) do not: microsoft/CNTK#476",
    )
    one_place: float = limit(
        0.5,
        unit="share",
        source="of the lost signal between two layers, beyond which those two are to blame and "
        "not the activation's kind; as in depth-without-skip",
    )


@rule(
    code="ACT102",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=30, activation="softplus"),
        Case.of("mlp", depth=40, activation="sigmoid", init="orthogonal", gain=4.0),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="sigmoid"),
        Case.of("mlp", depth=30, activation="tanh"),
        Case.of("mlp", depth=30, activation="relu"),
        Case.of("mlp", depth=12, activation="sigmoid", norm="batch"),
        Case.of("mlp", depth=4, activation="sigmoid", bad_layer=1, bad_bias=15.0),
    ],
)
def uncentred_activation(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Activation with a large mean output, in which the differences between samples drown.

    What it finds:
        Activations whose output sits far from zero whatever the input (sigmoid around 1/2,
        softplus around ln 2), in networks whose deeper layers give every sample nearly the
        same output.

    Why it matters:
        The mean passes through every layer's weights as a constant offset that is the same for
        all samples. It fills the pre-activation's second moment q, so scaling the weights to
        keep q does not keep the signal. A gradient through a layer that answers the same to
        every input carries no information, however large it is.

    How it is measured:
        E[phi]^2/E[phi^2] of the activation by quadrature, and the rms across samples of the
        first and last linear layer's output. One forward pass.

    Silent when:
        The signal across samples survives: normalisation over the batch, a bias that removes
        the mean, or few layers. Most of it is lost at one place: a single layer that saturates, or
        whose weights are tiny. Fewer than 5.5 decades that a few training steps bring back.

    References:
        LeCun, Bottou, Orr, Mueller 1998 (Efficient BackProp), section 4.4; Glorot and Bengio
        2010, section 3.1; Schoenholz et al. 2017 (correlation length).
    """
    lost = trace.signal_lost
    if lost is None or not lost >= limits.warning_decades:  # NaN convicts nobody
        return
    guilty: dict[str, list[Operation]] = {}
    for op in trace.activations:
        facts = op.activation
        if facts is not None and intrinsic_offset(facts.function) > limits.intrinsic_offset:
            guilty.setdefault(facts.function, []).append(op)
    if not _over_all(trace, lost, limits):
        return
    if guilty and lost < limits.error_decades:  # such a loss a few steps may mend
        mended = recovers(trace, lambda after: after.signal_lost, limits.warning_decades)
        if mended:
            return
        if mended is None:
            yield few_steps("ACT102", "uncentred-activation", "the signal")
    for function, ops in guilty.items():
        offset = max((op.signal.offset_share for op in ops if op.signal), default=0.0)
        yield Finding(
            code="ACT102",
            name="uncentred-activation",
            severity=Severity.ERROR if lost >= limits.error_decades else Severity.WARNING,
            modules=tuple(dict.fromkeys(op.module for op in ops)),
            source=ops[0].source,
            summary=(
                f"{function}'s mean output makes {offset:.1%} of its energy the same for every"
                f" sample; {len(ops)} layers on, the signal is {lost:.1f} decades smaller"
            ),
            evidence=(
                Evidence(
                    quantity="signal lost across samples",
                    observed=lost,
                    limit=limits.warning_decades,
                    unit="decades",
                ),
                Evidence(
                    quantity="share of the output's energy that all samples share",
                    observed=offset,
                    limit=limits.intrinsic_offset,
                    unit="share",
                ),
            ),
            weight=0.5 * lost,  # what the gradient itself loses comes first
            explains=("collapsed-signal",),
            exculpation="a bias or a batch norm that removes the mean",
        )


def _over_all(trace: Trace, lost: float, limits: Limits) -> bool:
    """Whether the signal is lost bit by bit, and not most of it at one place."""
    spreads = [op.signal.spread_square for op in trace.weights if op.signal]
    steps = [
        0.5 * (math.log10(before) - math.log10(after))
        for before, after in pairwise(spreads)
        if before > 0 and after > 0
    ]
    return bool(steps) and max(steps) <= limits.one_place * lost
