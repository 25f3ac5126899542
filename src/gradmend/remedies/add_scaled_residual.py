"""Give the gradient a way around every layer, with branches of a fixed size."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.wrappable import gradient_left, why_not, wrappable


@remedy(
    treats=[
        "depth-without-skip",
        "attenuating-activation",
        "init-gain-too-small",
        "batch-norm-explosion",
        "vanishing-gradient",
        "collapsed-signal",
        "learning-rate-unscaled-with-depth",
    ],
    changes=[Change.RESIDUAL],
)
def add_scaled_residual(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Wrap layers into h + f(h) / sqrt(L), L the number of blocks.

    What it does:
        As add-rezero-residual, but every branch counts 1 / sqrt(L) for good, and nothing is
        learned beside the layers' own weights.

    Why it should work:
        L independent branches of the stream's size add L / L times its variance: the stream grows
        at most by a factor sqrt(e), whatever the depth, and all branches learn from the first
        step, also under small learning rates and plain SGD.

    What it predicts:
        The whole model's gradient changes by what the layers take that cannot be wrapped, as
        measured, within three decades.

    When it refuses:
        As add-rezero-residual. Not asked where weights are too large: a fixed factor keeps them so.

    What it costs:
        One addition a block. The architecture changes: checkpoints of the plain model no longer
        load, and it cannot be folded away.

    References:
        Yang et al. 2023 (Tensor Programs VI); Hanin and Rolnick 2018; He et al. 2016.
    """
    found = wrappable(trace)
    reason = why_not(trace, found, findings)
    if reason is not None:
        yield Refusal(
            remedy="add-scaled-residual",
            finding=findings[0].name if findings else "",
            reason=reason,
        )
        return
    factor = 1.0 / math.sqrt(len(found.runs))
    yield Prescription(
        edits=(
            Edit(
                kind="wrap_residual",
                targets=tuple(run.parts[0] for run in found.runs),
                args={"parts": [list(run.parts[1:]) for run in found.runs], "factor": factor},
            ),
        ),
        predictions=(gradient_left(trace, found),),
        changes=(Change.RESIDUAL,),
        reason=f"{len(found.runs)} blocks h + {factor:.2g} f(h)",
    )
