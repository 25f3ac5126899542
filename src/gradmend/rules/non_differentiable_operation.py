"""GRF203: an operation on the loss's way that has no derivative."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import loss_tails, states


@dataclass(frozen=True)
class Limits:
    """When an operation blocks the gradient."""

    parameters: float = limit(
        1.0, unit="parameters", source="with a gradient that is exactly zero at every step"
    )


@rule(
    code="GRF203",
    limits=Limits,
    fires_on=[
        Case.of("quantised", operation="round"),
        Case.of("quantised", operation="sign", at=1),
    ],
    silent_on=[
        Case.of("quantised"),
        Case.of("quantised", operation="straight_through"),
        Case.of("quantised", operation="side_branch"),
        Case.of("regression", head="relu", target="negative"),
    ],
)
def non_differentiable_operation(history: History, limits: Limits) -> Iterator[Finding]:
    """Rounding, sign or floor between parameters and the loss.

    What it finds:
        ``round``, ``floor``, ``ceil``, ``trunc``, ``sign`` or ``heaviside`` on the loss's graph,
        while parameters get gradients that are exactly zero at every recent step.

    Why it matters:
        The derivative of a step function is zero: everything before it gets exactly nothing. It
        looks like a vanished gradient and no initialisation mends it.

    How it is measured:
        Names of the operations on the loss's autograd graph; exact zeros in the gradients.

    Silent when:
        The gradient passes another way (straight-through estimators detach the step); no
        parameter's gradient is exactly zero. Integers (``argmax``) cut the graph instead:
        detached-parameters.

    References:
        Bengio, Leonard, Courville 2013 (straight-through estimator).
    """
    tails = [tail for tail in loss_tails(history) if tail.flat]
    if not tails:
        return
    table = history["gradient"]
    zero = np.flatnonzero(states(history).zero)
    if len(zero) < limits.parameters:
        return
    columns = [table.columns[at] for at in zero]
    tail = tails[-1]
    yield Finding(
        code="GRF203",
        name="non-differentiable-operation",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(c.module for c in reversed(columns))),
        source=columns[-1].source,
        summary=(
            f"{' and '.join(tail.flat)} has no derivative: {len(columns)} parameters before it, the"
            f" last {columns[-1].name}, get a gradient of exactly zero; pass it straight through,"
            " or use a smooth one"
        ),
        evidence=(
            Evidence(
                quantity="parameters with a gradient of exactly zero",
                observed=float(len(columns)),
                limit=limits.parameters,
                unit="parameters",
                module=columns[-1].module,
                step=history.step,
            ),
        ),
        weight=100.0,
        explains=("vanishing-gradient", "stalled-layers", "loss-plateau", "dead-relu"),
        exculpation="a gradient that is not exactly zero",
    )
