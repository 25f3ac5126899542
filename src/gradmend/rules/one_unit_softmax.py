"""LOS207: a softmax over a single class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import loss_tails, modules_at, states


@dataclass(frozen=True)
class Limits:
    """When a softmax has nothing to choose."""

    classes: float = limit(1.0, unit="classes", source="softmax of one number is 1, whatever it is")


@rule(
    code="LOS207",
    limits=Limits,
    fires_on=[
        Case.of("binary_classifier", head="one_unit_softmax"),
        Case.of("classifier", classes=1),
    ],
    silent_on=[
        Case.of("classifier", classes=2),
        Case.of("binary_classifier"),
        Case.of("binary_classifier", head="over_samples"),
    ],
)
def one_unit_softmax(history: History, limits: Limits) -> Iterator[Finding]:
    """Softmax over a dimension of size one, next to the loss.

    What it finds:
        A softmax or log_softmax at the loss with one class, in a run in which parameters get
        gradients that are exactly zero.

    Why it matters:
        The probability of the only class is 1, its derivative 0: nothing is learned.

    How it is measured:
        Shapes on the loss's autograd graph, and the state of the gradients; exact.

    Silent when:
        Gradients are not zero (the softmax runs over samples, as in attention pooling).

    References:
        One output with sigmoid, or two with softmax.
    """
    if not states(history).zero.any():
        return
    for tail in loss_tails(history):
        for at, operation in enumerate(tail.operations):
            shape = operation.shape or ()
            if operation.op not in ("softmax", "log_softmax") or len(shape) < 1:
                continue
            if min(shape[1:] or shape) > limits.classes:
                continue
            yield Finding(
                code="LOS207",
                name="one-unit-softmax",
                severity=Severity.ERROR,
                modules=modules_at(history, tail, at),
                summary=(
                    f"{operation.op} of shape {list(shape)} runs over one class: its output is"
                    " constant and its gradient 0; use a sigmoid, or two outputs"
                ),
                evidence=(
                    Evidence(
                        quantity="classes",
                        observed=float(min(shape[1:] or shape)),
                        limit=limits.classes,
                        unit="classes",
                        step=tail.step,
                    ),
                ),
                weight=1600.0,
                explains=(
                    "loss-plateau",
                    "vanishing-gradient",
                    "stalled-layers",
                    "loss-unfit-for-target",
                    "constant-target",
                ),
                exculpation="more than one class",
            )
            return
