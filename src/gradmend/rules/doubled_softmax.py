"""LOS201: a softmax before a loss that applies one itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import loss_tails, modules_at


@dataclass(frozen=True)
class Limits:
    """When a softmax is doubled."""

    softmaxes: float = limit(
        2.0, unit="operations in a row", source="log_softmax is the loss's own: one is enough"
    )


@rule(
    code="LOS201",
    limits=Limits,
    fires_on=[
        Case.of("classifier", head="softmax"),
        Case.of("classifier", head="softmax", classes=3),
    ],
    silent_on=[
        Case.of("classifier"),
        Case.of("classifier", head="log_softmax"),
        Case.of("classifier", head="nll"),
        Case.of("classifier", head="by_hand"),
    ],
)
def doubled_softmax(history: History, limits: Limits) -> Iterator[Finding]:
    """Softmax whose probabilities go through the loss's own softmax again.

    What it finds:
        A ``log_softmax`` (cross_entropy has one inside) that reads a softmax directly.

    Why it matters:
        Probabilities lie in [0, 1], so the second softmax can never be sure: with K classes the
        loss cannot fall below ln(e + K - 1) - 1, 1.46 for ten, and the gradient is small wherever
        the network is right or surely wrong.

    How it is measured:
        The operations next to the loss, on its autograd graph; exact.

    Silent when:
        Something lies between the two (a logarithm, a temperature); ``log_softmax`` is applied
        twice, which changes nothing.

    References:
        torch.nn.CrossEntropyLoss expects logits; discuss.pytorch.org/t/43814.
    """
    for tail in loss_tails(history):
        for at, behind in tail.places():
            first, second = tail.operations[at], tail.operations[behind]
            if first.op != "log_softmax" or second.op != "softmax":
                continue
            classes = first.shape[_last(first.shape)] if first.shape else 1
            floor = math.log(math.e + classes - 1) - 1
            yield Finding(
                code="LOS201",
                name="doubled-softmax",
                severity=Severity.WARNING,
                modules=modules_at(history, tail, behind),
                summary=(
                    f"the loss applies log_softmax to the output of a softmax over {classes}"
                    f" classes: it cannot fall below {floor:.2f}; hand it the logits"
                ),
                evidence=(
                    Evidence(
                        quantity="softmaxes in a row",
                        observed=2.0,
                        limit=limits.softmaxes,
                        unit="operations in a row",
                        step=tail.step,
                    ),
                ),
                weight=100.0,
                explains=("loss-plateau", "vanishing-gradient", "stalled-layers"),
                exculpation="logits handed to the loss",
            )
            return


def _last(shape: tuple[int, ...]) -> int:
    """The dimension of the classes: the second of an image's or a sequence's, as losses have it."""
    return 1 if len(shape) > 2 else len(shape) - 1
