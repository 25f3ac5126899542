"""OPT202: clipping before the loss scale is taken out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.windows import RECENT
from gradmend.theory.wiring import share_of_last


@dataclass(frozen=True)
class Limits:
    """When scaled gradients are clipped."""

    share: float = limit(
        0.5, unit="share of steps", source="exact at each step; half of them as for a wrong order"
    )


@rule(
    code="OPT202",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("miswired_loop", fault="clip_scaled")],
    silent_on=[
        Case.of("miswired_loop", fault="clip_unscaled"),
        Case.of("miswired_loop", fault="clip"),
        Case.of("miswired_loop", fault="scaler"),
    ],
)
def clipping_of_scaled_gradients(history: History, limits: Limits) -> Iterator[Finding]:
    """Gradient clipping while the loss scale is still in the gradient.

    What it finds:
        Loops with a gradient scaler that clip before ``scaler.unscale_(optimizer)``.

    Why it matters:
        The limit is compared with a norm that is 65,536 times too large, so it always bites; the
        step then divides by the scale: what is left has the norm limit / scale.

    How it is measured:
        The order of the calls to the scaler and to clipping.

    Silent when:
        The scaler is off or its scale is 1; the gradient was unscaled before.

    References:
        Lightning-AI/pytorch-lightning#9330; PyTorch's AMP recipes, "Gradient clipping".
    """
    table = history["step"]
    for at, optimizer in enumerate(table.columns):
        share = share_of_last(table, "clip_scaled", at)
        if not share >= limits.share:
            continue
        scale = table.series("loss_scale", at)[1][-RECENT:]
        bound = table.series("clip_limit", at)[1][-RECENT:]
        left = ""
        if len(scale) and len(bound) and scale[-1] > 0 and math.isfinite(bound[-1]):
            left = (
                f": a limit of {bound[-1]:.3g} leaves a norm of {bound[-1] / scale[-1]:.2g}"
                f" behind the scale of {scale[-1]:.6g}"
            )
        yield Finding(
            code="OPT202",
            name="clipping-of-scaled-gradients",
            severity=Severity.ERROR,
            modules=(),
            summary=(
                f"gradients of {optimizer.name} are clipped before scaler.unscale_(), at"
                f" {share:.0%} of the last steps{left}"
            ),
            evidence=(
                Evidence(
                    quantity="share of steps clipped with the loss scale in",
                    observed=share,
                    limit=limits.share,
                    unit="share of steps",
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=(
                "clip-too-tight",
                "vanishing-gradient",
                "stalled-layers",
                "learning-rate-too-low",
                "loss-plateau",
            ),
            exculpation="scaler.unscale_(optimizer) before clipping",
        )
