"""LOS203: a sigmoid before a loss that applies one itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import loss_tails, modules_at


@dataclass(frozen=True)
class Limits:
    """When a sigmoid is doubled."""

    sigmoids: float = limit(
        2.0, unit="operations in a row", source="the loss on logits has its own: one is enough"
    )


@rule(
    code="LOS203",
    limits=Limits,
    fires_on=[
        Case.of("binary_classifier", head="sigmoid"),
        Case.of("binary_classifier", head="sigmoid_twice"),
    ],
    silent_on=[
        Case.of("binary_classifier"),
        Case.of("binary_classifier", head="probability"),
        Case.of("classifier", head="softmax"),
    ],
)
def doubled_sigmoid(history: History, limits: Limits) -> Iterator[Finding]:
    """Sigmoid whose output goes through the loss's own sigmoid again.

    What it finds:
        ``binary_cross_entropy_with_logits``, or a sigmoid before ``binary_cross_entropy``, that
        reads a sigmoid directly.

    Why it matters:
        The second sigmoid sees [0, 1] and yields [0.5, 0.73]: the loss of a negative cannot fall
        below ln 2 = 0.69, and each sigmoid costs the gradient a factor of at most 1/4.

    How it is measured:
        The operations next to the loss, on its autograd graph; exact.

    Silent when:
        Something lies between the two.

    References:
        AmazingDD/daisyRec#15; NVIDIA-Merlin/models#1175.
    """
    for tail in loss_tails(history):
        for at, behind in tail.places():
            first, second = tail.operations[at], tail.operations[behind]
            own = first.op == "binary_cross_entropy_with_logits" or first.op == "sigmoid"
            if not own or second.op != "sigmoid":
                continue
            if first.op == "sigmoid" and not any(
                reader.op == "binary_cross_entropy" and read is first
                for reader, read in tail.pairs()
            ):
                continue
            yield Finding(
                code="LOS203",
                name="doubled-sigmoid",
                severity=Severity.WARNING,
                modules=modules_at(history, tail, behind),
                summary=(
                    "the loss applies a sigmoid to the output of a sigmoid: no probability leaves"
                    " [0.50, 0.73], and a negative's loss stays above 0.69; hand it the logits"
                ),
                evidence=(
                    Evidence(
                        quantity="sigmoids in a row",
                        observed=2.0,
                        limit=limits.sigmoids,
                        unit="operations in a row",
                        step=tail.step,
                    ),
                ),
                weight=100.0,
                explains=("loss-plateau", "vanishing-gradient", "stalled-layers"),
                exculpation="logits handed to the loss",
            )
            return
