"""LOS204: an activation between the last layer and a loss on logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import loss_tails, modules_at

LOGIT_LOSSES = frozenset({"log_softmax", "binary_cross_entropy_with_logits"})
BOUNDS = {
    "relu": "cannot be negative, and die",
    "relu6": "cannot leave [0, 6]",
    "tanh": "cannot leave [-1, 1]",
    "sigmoid": "cannot leave [0, 1]",
    "hardtanh": "are cut off at both ends",
    "hardsigmoid": "cannot leave [0, 1]",
    "softplus": "cannot be negative",
}


@dataclass(frozen=True)
class Limits:
    """When logits are bounded."""

    activations: float = limit(
        1.0, unit="activations", source="a loss on logits needs the whole line of numbers"
    )


@rule(
    code="LOS204",
    limits=Limits,
    fires_on=[
        Case.of("classifier", head="relu"),
        Case.of("classifier", head="tanh"),
        Case.of("binary_classifier", head="relu"),
    ],
    silent_on=[
        Case.of("classifier"),
        Case.of("classifier", head="soft_cap"),
        Case.of("classifier", head="pooled"),
        Case.of("binary_classifier", head="sigmoid"),
        Case.of("regression", head="relu"),
    ],
)
def bounded_logits(history: History, limits: Limits) -> Iterator[Finding]:
    """Logits that an activation has cut to a part of the line.

    What it finds:
        A ``log_softmax`` or ``binary_cross_entropy_with_logits`` that reads a ReLU, tanh, sigmoid
        or another activation with a bounded range directly.

    Why it matters:
        Logits of [-1, 1] can never be sure (with ten classes the loss stays above 0.79), and a
        ReLU's units that are zero on all samples never come back.

    How it is measured:
        The operations next to the loss, on its autograd graph; exact.

    Silent when:
        Something lies between: a scale behind a tanh (soft capping), pooling behind a ReLU. The
        loss is a regression's, whose targets may have that range. A sigmoid before a loss that
        has one itself is doubled-sigmoid.

    References:
        torch.nn.CrossEntropyLoss expects unnormalised logits.
    """
    for tail in loss_tails(history):
        for at, behind in tail.places():
            first, second = tail.operations[at], tail.operations[behind]
            if first.op not in LOGIT_LOSSES or second.op not in BOUNDS:
                continue
            if first.op == "binary_cross_entropy_with_logits" and second.op == "sigmoid":
                continue
            yield Finding(
                code="LOS204",
                name="bounded-logits",
                severity=Severity.WARNING,
                modules=modules_at(history, tail, behind),
                summary=(
                    f"{second.op} lies between the last layer and {_loss(first.op)}, shape"
                    f" {list(second.shape or ())}: the logits {BOUNDS[second.op]}; take it away"
                ),
                evidence=(
                    Evidence(
                        quantity="activations behind the last layer",
                        observed=1.0,
                        limit=limits.activations,
                        unit="activations",
                        step=tail.step,
                    ),
                ),
                weight=100.0,
                explains=(
                    "loss-plateau",
                    "vanishing-gradient",
                    "dead-relu",
                    "saturated-activation",
                ),
                exculpation="the last layer's output handed to the loss as it is",
            )
            return


def _loss(op: str) -> str:
    return "the cross entropy" if op == "log_softmax" else op
