"""Keep each tensor's gradient near its own usual norm."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import (
    SPREAD,
    norm_limit,
    spread_over_layers,
    why_not_clip,
)

RELATIVE, BETA, BEGIN = 1.05, 0.98, 100
"""Times its moving norm, share of the past, steps clipped as a whole: Wang et al. 2025."""
SHORTEST = 20
"""Steps clipped as a whole where a run is short: ours, a twentieth of a trial's length."""


@remedy(
    treats=["loss-spike", "update-norm-spike", "outlier-batch", "exploding-gradient"],
    changes=[Change.OPTIMIZER],
)
def clip_per_tensor(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Clip each tensor's gradient to 1.05 times its own moving norm (AdaGC).

    What it does:
        In the first steps the whole gradient is clipped at twice its usual norm, and the least
        norm of each tensor remembered; after that each tensor's norm may be 1.05 times the moving
        mean of what was let through. A step whose gradient is not finite is left out.

    Why it should work:
        One norm over all parameters is that of the largest: a spike of a small layer does not
        show in it, and one of the large layer cuts all others. The right way to clip where the
        layers' norms differ by decades.

    What it predicts:
        Nothing that one look can check: it acts at the step.

    When it refuses:
        Where the gradient vanishes or no norm is known; where the layers' gradients lie within
        two decades, for one limit is simpler and does the same.

    What it costs:
        One pass over the gradients and one number for each tensor. Norms can grow by at most 0.1 %
        a step, so a run whose gradients must grow is held back.

    References:
        Wang et al. 2025 (AdaGC, arXiv 2502.11034).
    """
    reason = why_not_clip(findings, trace)
    spread, limit = spread_over_layers(trace), norm_limit(trace)
    if not reason and spread < SPREAD:
        reason = f"the layers' gradients lie within {spread:.1f} decades: one limit does the same"
    if reason or limit is None:
        yield Refusal(
            remedy="clip-per-tensor", finding=findings[0].name if findings else "", reason=reason
        )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="clip_gradients",
                args={
                    "method": "per_tensor",
                    "relative": RELATIVE,
                    "beta": BETA,
                    "limit": limit,
                    "begin": SHORTEST,
                },
            ),
        ),
        changes=(Change.OPTIMIZER,),
        reason=f"each tensor clipped near its own usual norm: right where the layers' gradients"
        f" differ by decades, here {spread:.1f}",
        keeps_function=True,
    )
