"""Keep the norm of the gradient below a percentile of those so far."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import why_not_clip

PERCENTILE = 10.0
"""Seetharaman et al. 2020 find 10 best: nine steps in ten are cut to the small ones' norm."""


@remedy(treats=["loss-spike", "outlier-batch", "update-norm-spike"], changes=[Change.OPTIMIZER])
def clip_by_percentile(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Scale the gradient to a percentile of all norms so far (AutoClip).

    What it does:
        The limit of each step is the tenth percentile of the last thousand norms, its own among
        them. A step whose gradient is not finite is left out.

    Why it should work:
        The limit follows the run, so nobody has to know the gradient's scale, which shrinks by
        decades while a loss falls. The right way to clip where steps of any size may come.

    What it predicts:
        Nothing that one look can check: it acts at the step.

    When it refuses:
        Where the gradient vanishes or no norm is known; where it is too large at every step: then
        every percentile is, too.

    What it costs:
        By its nature nine steps in ten are cut, if only a little: the learning rate is in effect
        lower by the ratio of the tenth percentile to the typical norm.

    References:
        Seetharaman, Wichern, Pardo, Le Roux 2020 (AutoClip).
    """
    reason = why_not_clip(findings, trace)
    if reason:
        yield Refusal(
            remedy="clip-by-percentile", finding=findings[0].name if findings else "", reason=reason
        )
        return
    yield Prescription(
        edits=(
            Edit(kind="clip_gradients", args={"method": "percentile", "percentile": PERCENTILE}),
        ),
        changes=(Change.OPTIMIZER,),
        reason=f"norm clipped at percentile {PERCENTILE:g} of the norms so far: right where the"
        " scale is not known or changes; nine steps in ten are cut, most of them a little",
        keeps_function=True,
    )
