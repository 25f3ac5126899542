"""Bring norms that stand out back to what is usual."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import norm_limit, why_not_clip

ALPHA, SCORE, BEGIN = 0.97, 2.5, 25
"""Share of the past, deviations that pass, norms gathered first: Kumar et al. 2025."""


@remedy(treats=["loss-spike", "outlier-batch", "update-norm-spike"], changes=[Change.OPTIMIZER])
def clip_by_z_score(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Cut norms that lie more than 2.5 deviations above their moving mean (ZClip).

    What it does:
        Follows mean and deviation of the norm; one that stands out is brought back to between the
        two, the nearer to the mean the farther out it was. The first 25 steps are watched, and cut
        at twice the usual norm. A step whose gradient is not finite is left out.

    Why it should work:
        A rare bad batch is cut harder than a limit would, and every other step passes untouched:
        no learning rate is lost. The right way to clip where spikes are rare.

    What it predicts:
        Nothing that one look can check: it acts at the step.

    When it refuses:
        Where the gradient vanishes or no norm is known.

    What it costs:
        One pass over the gradients. A norm that drifts slowly upwards takes the mean with it.

    References:
        Kumar et al. 2025 (ZClip, arXiv 2504.02507).
    """
    reason = why_not_clip(findings, trace)
    limit = norm_limit(trace)
    if reason or limit is None:
        yield Refusal(
            remedy="clip-by-z-score", finding=findings[0].name if findings else "", reason=reason
        )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="clip_gradients",
                args={
                    "method": "z_score",
                    "alpha": ALPHA,
                    "z": SCORE,
                    "begin": BEGIN,
                    "limit": limit,
                },
            ),
        ),
        changes=(Change.OPTIMIZER,),
        reason=f"norms above {SCORE:g} moving deviations are cut, after {BEGIN} steps: right where"
        " spikes are rare; all other steps pass untouched",
        keeps_function=True,
    )
