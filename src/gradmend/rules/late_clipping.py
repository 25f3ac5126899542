"""OPT201: clipping after the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import share_of_last


@dataclass(frozen=True)
class Limits:
    """When clipping comes late."""

    share: float = limit(
        0.5, unit="share of steps", source="exact at each step; half of them as for a wrong order"
    )


@rule(
    code="OPT201",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("miswired_loop", fault="clip_late")],
    silent_on=[
        Case.of("miswired_loop", fault="clip"),
        Case.of("miswired_loop", fault="norm_logged_late"),
        Case.of("miswired_loop"),
    ],
)
def late_clipping(history: History, limits: Limits) -> Iterator[Finding]:
    """Gradient clipping that comes after the optimizer has stepped.

    What it finds:
        Loops that clip between a step and the next backward, at half of the steps or more.

    Why it matters:
        The step has used the gradient as it was: the limit holds for nothing, and a gradient that
        it was meant to tame goes into the weights.

    How it is measured:
        The order of the calls: a clip before any backward since the last step.

    Silent when:
        The limit is infinite: the call only measures the norm, to log it.

    References:
        awslabs/graphstorm#1366; torch.nn.utils.clip_grad_norm_.
    """
    table = history["step"]
    for at, optimizer in enumerate(table.columns):
        share = share_of_last(table, "clip_late", at)
        bound = table.series("clip_limit", at)[1]
        if not share >= limits.share or (len(bound) and np.isinf(bound[-1])):
            continue
        said = f" to {bound[-1]:.3g}" if len(bound) else ""
        yield Finding(
            code="OPT201",
            name="late-clipping",
            severity=Severity.WARNING,
            modules=(),
            summary=(
                f"gradients are clipped{said} after {optimizer.name} has stepped, at {share:.0%} of"
                " the last steps: it does nothing there; clip between backward and step"
            ),
            evidence=(
                Evidence(
                    quantity="share of steps with clipping after them",
                    observed=share,
                    limit=limits.share,
                    unit="share of steps",
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=(
                "exploding-gradient",
                "diverging-loss",
                "loss-spike",
                "update-norm-spike",
                "oscillating-loss",
                "learning-rate-too-high",
                "gradient-grown-through-time",
                "saturated-activation",
                "saturated-attention",
                "dead-relu",
                "init-gain-too-large",
                "non-finite-value",
                "loss-plateau",
            ),
            exculpation="clipping between backward and step",
        )
