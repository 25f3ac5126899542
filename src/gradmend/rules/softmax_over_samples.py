"""LOS216: a softmax over the samples of the batch, where a loss reads classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import LossTail, loss_tails, modules_at

SOFTMAXES = frozenset({"softmax", "log_softmax"})
ON_THE_WAY = frozenset({"log", "add", "sub", "clamp", "clamp_min", "clamp_max", "neg"})


@dataclass(frozen=True)
class Limits:
    """When a softmax is over the wrong dimension."""

    classes: float = limit(
        2.0, unit="classes", source="with one, scores of samples against each other may be meant"
    )


@rule(
    code="LOS216",
    limits=Limits,
    fires_on=[
        Case.of("classifier", head="nll_over_samples"),
        Case.of("classifier", head="by_hand_over_samples"),
    ],
    silent_on=[
        Case.of("classifier", head="nll"),
        Case.of("classifier", head="by_hand"),
        Case.of("classifier", head="softmax"),
        Case.of("binary_classifier", head="over_samples"),
    ],
)
def softmax_over_samples(history: History, limits: Limits) -> Iterator[Finding]:
    """Softmax along the batch, read as if it were along the classes.

    What it finds:
        A softmax or log_softmax over dimension 0 of [samples, classes], of which ``nll_loss``, or a
        choice of one class per sample, reads the result.

    Why it matters:
        The samples of a batch compete with each other for each class: what is learned depends on
        who else is in the batch, and the loss starts at the logarithm of the batch's size and stays
        far above that of a guess.

    How it is measured:
        The operations next to the loss, on its autograd graph, and the dimension they were told;
        exact.

    Silent when:
        Samples and classes are equally many, as in contrastive losses, where both ways are used;
        there is one class (rankings, attention over instances); the table has three dimensions.

    References:
        torch.nn.functional.log_softmax; torch.nn.LogSoftmax(dim=0) in user questions on losses that
        stay above ln K.
    """
    for tail in loss_tails(history):
        for at, operation in enumerate(tail.operations):
            shape = operation.shape or ()
            if operation.op not in SOFTMAXES or operation.dim != 0 or len(shape) != 2:
                continue
            if shape[1] < limits.classes or shape[0] == shape[1] or not _is_of_classes(tail, at):
                continue
            yield Finding(
                code="LOS216",
                name="softmax-over-samples",
                severity=Severity.ERROR,
                modules=modules_at(history, tail, at),
                summary=(
                    f"{operation.op} runs over the {shape[0]} samples of {list(shape)}, not over"
                    f" its {shape[1]} classes: samples compete with each other; use dim=1"
                ),
                evidence=(
                    Evidence(
                        quantity="classes beside the dimension of the softmax",
                        observed=float(shape[1]),
                        limit=limits.classes,
                        unit="classes",
                        step=tail.step,
                    ),
                ),
                weight=1000.0,
                explains=(
                    "loss-plateau",
                    "vanishing-gradient",
                    "stalled-layers",
                    "signalless-labels",
                    "doubled-softmax",
                    "missing-logarithm",
                ),
                exculpation="a softmax over the last dimension",
            )
            return


def _is_of_classes(tail: LossTail, at: int) -> bool:
    """Whether what follows reads one class of each sample."""
    seen: set[int] = set()
    while at not in seen:
        seen.add(at)
        readers = [n for n in range(len(tail.operations)) if at in tail.reads(n)]
        if len(readers) != 1:
            return False
        at = readers[0]
        operation = tail.operations[at]
        if operation.op.startswith("nll_loss") or operation.op in ("index", "log_softmax"):
            return True
        if operation.op == "gather":
            return operation.dim == 1
        if operation.op not in ON_THE_WAY:
            return False
    return False
