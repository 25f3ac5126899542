"""OPT222: steps too small to get anywhere."""

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
    """When a rate is too low."""

    ratio: float = limit(
        -6.0,
        unit="decades",
        source="log10 of update over weight: 1e-3 is usual (CS231n); at 1e-6 a weight needs a "
        "million steps in one direction to change by its own size",
    )
    steps: float = limit(48.0, unit="steps", source="a warm-up may begin lower than this for fewer")


@rule(
    code="OPT222",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("step_size", rate=1e-7)],
    silent_on=[
        Case.of("step_size"),
        Case.of("step_size", rate=0.0),
        Case.of("converged"),
        Case.of("schedule", kind="linear"),
        Case.of("schedule", kind="warm-up"),
        Case.of("sigmoid_stack", depth=12),
    ],
)
def learning_rate_too_low(history: History, limits: Limits) -> Iterator[Finding]:
    """Updates below a millionth of every weight, with a loss that has hardly moved.

    What it finds:
        Optimizers under which no weight matrix changes by more than 1e-6 of its size at a step,
        although they have gradients and the learning rate is above zero.

    Why it matters:
        The run would need millions of steps for what others take a thousand for; in low precision
        the updates round to nothing.

    How it is measured:
        The largest update over weight of all matrices of the optimizer, over the recent window.

    Silent when:
        The loss has fallen; the rate is warming up or at the end of its schedule; any matrix
        moves; the rate is exactly zero, or no gradient arrives, which are other findings.

    References:
        CS231n neural-networks-3 (ratio of updates to weights).
    """
    table, steps = history["update"], history["step"]
    if not len(table) or windows.learned(history) is not False:
        return
    size = windows.lasting(table, "log10_ratio", 0.75)
    norms = windows.lasting(steps, "log10_norm")
    for column in range(len(steps.columns)):
        at = windows.of_optimizer(table.columns, windows.matrices(table.columns), column)
        known = size[at][np.isfinite(size[at])]
        numbers, rates = steps.series("learning_rate", column)
        if (
            not len(known)
            or len(rates) < limits.steps
            or not float(rates[-1]) > 0.0
            or known.max() > limits.ratio
            or np.isneginf(norms[column])
            or windows.rate_is_passing(history, column)
        ):
            continue
        yield Finding(
            code="OPT222",
            name="learning-rate-too-low",
            severity=Severity.WARNING,
            modules=(),
            summary=(
                "no step changes any weight matrix by more than"
                f" {windows.times(known.max()):.1e} of its size, at a learning rate of"
                f" {float(rates[-1]):g} for {len(numbers)} measured steps; 1e-3 is usual"
            ),
            evidence=(
                Evidence(
                    quantity="log10 update over weight",
                    observed=float(known.max()),
                    limit=limits.ratio,
                    unit="decades",
                    step=history.step,
                ),
            ),
            weight=-3.0 - float(known.max()),
            explains=("loss-plateau", "updates-lost-to-rounding"),
            exculpation="a loss that falls, or larger updates",
        )
