"""LOS202: a negative log likelihood of numbers that are no logarithms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.windows import plain
from gradmend.theory.wiring import loss_tails, modules_at, optimizer_column

NO_LOGARITHM = frozenset(
    {"addmm", "mm", "bmm", "baddbmm", "matmul", "linear", "convolution"}
    | {"relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"}
)
"""Operations whose output is no logarithm of a probability, whatever they read."""


@dataclass(frozen=True)
class Limits:
    """When the logarithm is missing."""

    loss: float = limit(
        0.0, unit="1", source="a negative log likelihood of classes is never below zero"
    )


@rule(
    code="LOS202",
    limits=Limits,
    fires_on=[
        Case.of("classifier", head="nll_of_softmax"),
        Case.of("classifier", head="nll_of_logits"),
    ],
    silent_on=[
        Case.of("classifier"),
        Case.of("classifier", head="nll"),
        Case.of("classifier", head="by_hand"),
        Case.of("classifier", head="softmax"),
    ],
)
def missing_logarithm(history: History, limits: Limits) -> Iterator[Finding]:
    """Softmax, or bare logits, handed to nll_loss, which expects log-probabilities.

    What it finds:
        An ``nll_loss`` that reads a softmax directly: the loss is minus the probability. Or one
        that reads a layer's output as it is: the loss is minus the logit.

    Why it matters:
        Of a probability its gradient p (1 - p) is nearly zero where the network is surely wrong,
        just where cross entropy has its largest: those samples are never learned. A logit has no
        upper bound, so that loss falls without end while nothing is learned of the other classes.

    How it is measured:
        The operations next to the loss, on its autograd graph; exact.

    Silent when:
        A ``log_softmax`` or a logarithm lies between.

    References:
        torch.nn.NLLLoss expects log-probabilities.
    """
    for tail in loss_tails(history):
        for place, behind in tail.places():
            first, second = tail.operations[place], tail.operations[behind]
            bare = second.op in NO_LOGARITHM
            if not first.op.startswith("nll_loss") or not (bare or second.op == "softmax"):
                continue
            loss = history["step"].last("loss")
            at = optimizer_column(history, tail.where)
            observed = float(loss[at]) if at >= 0 else float("nan")
            yield Finding(
                code="LOS202",
                name="missing-logarithm",
                severity=Severity.ERROR if bare else Severity.WARNING,
                modules=modules_at(history, tail, behind),
                summary=(
                    f"nll_loss reads {'bare logits' if bare else 'a softmax'}, so the loss is"
                    f" minus {'a logit' if bare else 'a probability'} ({plain(observed)} now):"
                    " use log_softmax, or cross_entropy on logits"
                ),
                evidence=(
                    Evidence(quantity="loss", observed=observed, limit=limits.loss, step=tail.step),
                ),
                weight=100.0,
                explains=(
                    *("loss-plateau", "vanishing-gradient", "negated-loss", "diverging-loss"),
                    *("non-finite-value", "learning-rate-too-high", "update-norm-spike"),
                ),
                exculpation="log_softmax before nll_loss",
            )
            return
