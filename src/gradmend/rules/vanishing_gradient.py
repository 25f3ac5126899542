"""GRF102: the symptom, for when no cause was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When a gradient has vanished."""

    decades: float = limit(
        5.5,
        unit="decades",
        source="six sigmoid layers (5.1 decades) train, seven (6.0) do not: microsoft/CNTK#476",
    )


@rule(
    code="GRF102",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=4, activation="relu", bad_layer=1, bad_bias=-30.0),
    ],
    silent_on=[
        Case.of("mlp", depth=3),
        Case.of("transformer"),
        Case.of("residual_mlp"),
        Case.of("recurrent"),
    ],
)
def vanishing_gradient(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Gradient that is lost between the outputs and the inputs.

    What it finds:
        Models whose gradient at the inputs is more than 5.5 decades smaller than at the outputs,
        or exactly zero. A symptom: it ranks below every cause that explains it.

    Why it matters:
        The layers near the input do not learn, and those behind them learn on noise.

    How it is measured:
        The ledger's total, relative to the model's own outputs, so that loss scale and reduction
        do not matter.

    Silent when:
        The loss is smaller than that; what exactly zero means is said apart.

    References:
        Hochreiter 1991; Bengio, Simard, Frasconi 1994.
    """
    ledger = trace.ledger
    if ledger is None:
        return
    if ledger.blocked_by is not None and ledger.total_decades is None:
        yield Finding(
            code="GRF102",
            name="vanishing-gradient",
            severity=Severity.ERROR,
            modules=(ledger.blocked_by,),
            source=next(
                (o.source for o in trace.operations if o.module == ledger.blocked_by), None
            ),
            summary=f"the gradient becomes exactly zero in {ledger.blocked_by}",
            exculpation="any gradient at all",
            symptom=True,
        )
    elif ledger.total_decades is not None and ledger.total_decades <= -limits.decades:
        largest = min(ledger.by_cause.items(), key=lambda item: item[1], default=("other", 0.0))
        yield Finding(
            code="GRF102",
            name="vanishing-gradient",
            severity=Severity.ERROR,
            modules=(),
            summary=(
                f"the gradient loses {-ledger.total_decades:.1f} decades on its way back, most of"
                f" them to {largest[0]}"
            ),
            evidence=(
                Evidence(
                    quantity="decades lost",
                    observed=-ledger.total_decades,
                    limit=limits.decades,
                    unit="decades",
                ),
            ),
            weight=-ledger.total_decades,
            exculpation="fewer decades",
            symptom=True,
        )
