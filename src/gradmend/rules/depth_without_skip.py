"""RES101: more layers in a row than this kind of layer can pass a gradient through."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When a chain is too deep."""

    horizon_decades: float = limit(
        5.5,
        unit="decades",
        source="six sigmoid layers (5.1 decades) train, seven (6.0) do not: microsoft/CNTK#476",
    )
    layers: float = limit(
        10,
        unit="layers",
        source="plain nets of up to ten layers train in Srivastava et al. 2015, figure 1",
    )


@rule(
    code="RES101",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=30, activation="tanh"),
        Case.of("mlp", depth=24, activation="relu"),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="sigmoid"),
        Case.of("mlp", depth=30, activation="tanh", init="orthogonal", gain=1.05),
        Case.of("residual_mlp", depth=30),
        Case.of("cnn", depth=6),
    ],
)
def depth_without_skip(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Layers in a row, without a skip, beyond the depth at which their losses add up.

    What it finds:
        Chains of linear maps that all of the gradient must pass one after the other, longer than
        the number of layers after which, at the measured loss per layer, nothing is left.

    Why it matters:
        Small losses multiply: 0.857 decades a layer is harmless in three layers and 85 decades
        in a hundred. A skip adds a path along which nothing is multiplied.

    How it is measured:
        Decades per layer from the ledger; the horizon is the depth at which they reach 5.5.

    Silent when:
        Skips carry the gradient (its share of the chain is below one), the loss per layer is
        small enough for the depth there is, or one operation alone accounts for half of it.

    References:
        Hochreiter 1991; Srivastava, Greff, Schmidhuber 2015 (Highway Networks); He et al. 2016;
        Schoenholz et al. 2017 (trainable depth 6 xi).
    """
    total, depth = trace.total_decades, trace.chain_depth
    if total is None or depth <= limits.layers:
        return
    if not limits.horizon_decades <= abs(total) < math.inf:  # NaN convicts nobody
        return
    largest = max((abs(op.decades) for op in trace.operations), default=0.0)
    if largest > 0.5 * abs(total):
        return  # one place does it, not the depth
    per_layer = total / depth
    horizon = limits.horizon_decades / abs(per_layer)
    chain = [op.module for op in trace.weights if op.share > 0.99]
    verb = "lose" if total < 0 else "gain"
    yield Finding(
        code="RES101",
        name="depth-without-skip",
        severity=Severity.WARNING,
        modules=tuple(dict.fromkeys(chain)),
        source=None,
        summary=(
            f"{depth} layers in a row {verb} {abs(per_layer):.2g} decades each; such layers pass"
            f" a gradient through about {horizon:.0f} of them"
        ),
        evidence=(
            Evidence(
                quantity="layers in a row", observed=float(depth), limit=horizon, unit="layers"
            ),
        ),
        confidence=0.5,
        weight=0.0,
        explains=("vanishing-gradient", "exploding-gradient"),
        exculpation="skips, or less loss per layer",
    )
