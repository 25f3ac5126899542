"""Keep each unit's gradient below a share of its weights."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import RARE, why_not_clip

RATIO = 0.01
"""Largest gradient over weight of a unit: Brock et al. 2021, for batches of 4096 at rates of 1.6;
theirs is 0.16 for batches of 256."""
SMALL_RATIO = 0.16
LARGE_BATCH = 1024
EPS = 1e-3
"""Least norm of weights that counts: Brock et al. 2021."""


@remedy(
    treats=["exploding-gradient", "gradient-grown-through-time", "diverging-loss"],
    changes=[Change.OPTIMIZER],
)
def clip_per_unit(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Scale each unit's gradient down where it is large for the unit's own weights (AGC).

    What it does:
        For each row w of a weight and its gradient g: g becomes g min(1, ratio max(|w|, 1e-3) /
        |g|), with a ratio of 0.01 for batches of 1024 and more and 0.16 below. The last layer is
        left alone. A step whose gradient is not finite is left out.

    Why it should work:
        What a step does to a layer depends on its size beside the weights, not on its size alone.
        The right way to clip where nothing normalises the layers, and where some of them get far
        larger gradients than others: each is held to its own measure, and no norm has to be known.

    What it predicts:
        Nothing that one look can check: it acts at the step.

    When it refuses:
        Where the gradient vanishes or single steps stand out (norms over time tell those); for
        Adam and its kin where it is too large at every step alike; fewer than two weights.

    What it costs:
        Two passes over gradients and weights, and directions that change from unit to unit.

    References:
        Brock, De, Smith, Simonyan 2021 (NFNets), section 4.
    """
    matrices = [p for p in trace.parameters if p.trainable and p.reached and len(p.shape) > 1]
    reason = why_not_clip(findings, trace)
    if not reason and findings and all(finding.name in RARE for finding in findings):
        reason = "single steps stand out: a measure over time tells them, not one over weights"
    if not reason and len(matrices) < 2:
        reason = "there is one weight only, and the last layer is to be left alone"
    if reason:
        yield Refusal(
            remedy="clip-per-unit", finding=findings[0].name if findings else "", reason=reason
        )
        return
    last = trace.weights[-1].module if trace.weights else matrices[-1].module
    spared = [p.name for p in trace.parameters if p.module == last and p.trainable]
    ratio = RATIO if trace.run.batch_size >= LARGE_BATCH else SMALL_RATIO
    yield Prescription(
        edits=(
            Edit(
                kind="clip_gradients",
                args={"method": "per_unit", "ratio": ratio, "eps": EPS, "spared": spared},
            ),
        ),
        changes=(Change.OPTIMIZER,),
        reason=f"each unit's gradient kept below {ratio:g} of its weights, but for {last}:"
        " right where no layer is normalised or batches are large",
        keeps_function=True,
    )
