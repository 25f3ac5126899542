"""GRF103: the opposite symptom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When a gradient has exploded."""

    decades: float = limit(
        4.0,
        unit="decades",
        source="a gradient 10,000 times larger at one end of the model than at the other; "
        "AutoTrainer's ratio of 70 flags healthy nets",
    )


@rule(
    code="GRF103",
    limits=Limits,
    fires_on=[Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0)],
    silent_on=[
        Case.of("mlp", depth=3),
        Case.of("transformer"),
        Case.of("residual_mlp"),
        Case.of("mlp", depth=24, activation="relu", init="normal", gain=1.414),
    ],
)
def exploding_gradient(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Gradient that grows between the outputs and the inputs.

    What it finds:
        Models whose gradient at the inputs is more than four decades larger than at the outputs.
        A symptom: it ranks below every cause that explains it.

    Why it matters:
        A learning rate small enough for the first layers moves none of the last, and one step at
        the usual rate destroys the first.

    How it is measured:
        The ledger's total, relative to the model's own outputs.

    Silent when:
        The growth is smaller than that.

    References:
        Bengio, Simard, Frasconi 1994; Pascanu, Mikolov, Bengio 2013; Hanin 2018.
    """
    total = trace.total_decades
    if total is None or not total >= limits.decades:  # NaN convicts nobody
        return
    yield Finding(
        code="GRF103",
        name="exploding-gradient",
        severity=Severity.ERROR,
        modules=(),
        summary=f"the gradient grows by {total:.1f} decades on its way back",
        evidence=(
            Evidence(
                quantity="decades gained", observed=total, limit=limits.decades, unit="decades"
            ),
        ),
        weight=total,
        exculpation="less growth",
        symptom=True,
    )
