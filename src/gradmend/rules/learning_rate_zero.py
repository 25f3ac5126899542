"""OPT223: gradients that are computed and multiplied with zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When a rate of zero is no schedule."""

    steps: float = limit(
        24.0, unit="steps", source="warm-ups from zero leave it after one or a few steps"
    )
    over: float = limit(
        0.5,
        unit="share",
        source="of the run's measured steps at zero, at its end: a schedule that ends at zero ends "
        "with the run",
    )


@rule(
    code="OPT223",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("step_size", rate=0.0), Case.of("schedule", kind="too short")],
    silent_on=[
        Case.of("step_size"),
        Case.of("step_size", rate=1e-9),
        Case.of("schedule", kind="linear"),
        Case.of("schedule", kind="warm-up"),
    ],
)
def learning_rate_zero(history: History, limits: Limits) -> Iterator[Finding]:
    """Learning rate of exactly zero, step after step, although gradients arrive.

    What it finds:
        Optimizers whose rate was never above zero, as after an integer division in a schedule; and
        runs more than half of which lie behind the end of their schedule.

    Why it matters:
        Every forward and backward pass is paid for and nothing is learned.

    How it is measured:
        The rate of the first parameter group at every measured step, and that no weight changed.

    Silent when:
        The schedule ended at zero within the last half of the run; a warm-up begins at zero;
        other groups of the optimizer have a rate, so that weights change.

    References:
        torch.optim.lr_scheduler.LambdaLR; Python's // where / was meant.
    """
    table = history["step"]
    updates = windows.lasting(table, "log10_update_norm")
    norms = windows.lasting(table, "log10_norm")
    for column, known in enumerate(table.columns):
        _, rates = table.series("learning_rate", column)
        at_zero = int(len(rates) - (np.flatnonzero(rates)[-1] + 1 if rates.any() else 0))
        if at_zero < limits.steps or np.isfinite(updates[column]) or np.isneginf(norms[column]):
            continue
        never = at_zero == len(rates)
        if not never and at_zero <= limits.over * len(rates):
            continue
        yield Finding(
            code="OPT223",
            name="learning-rate-zero",
            severity=Severity.ERROR if never else Severity.WARNING,
            modules=(),
            summary=(
                f"the learning rate of {known.name} "
                + ("was never above zero" if never else "has been zero")
                + f" in the last {at_zero} of {len(rates)} measured steps: no weight changes"
            ),
            evidence=(
                Evidence(
                    quantity="steps at zero",
                    observed=float(at_zero),
                    limit=limits.steps,
                    unit="steps",
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=(
                "loss-plateau",
                "stalled-layers",
                "learning-rate-too-low",
                "updates-lost-to-rounding",
            ),
            exculpation="a rate above zero",
        )
