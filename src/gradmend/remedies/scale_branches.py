"""Begin residual branches smaller, by the weights that they end in."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.branches import branch_endings

STAYS = Prediction(
    quantity="stream_growth",
    low=-0.8,
    high=0.8,
    unit="decades",
    sentence="the residual stream keeps its size within 0.8 decades",
)
"""(1 + 1/L)^(L/2) < sqrt(e) is 0.22 decades; branches up to three times their stream stay below."""


@remedy(treats=["residual-growth"], changes=[Change.INITIALISATION])
def scale_branches(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Multiply the last weights of every residual branch by 1 / sqrt(L), for L branches.

    What it does:
        Finds the sums on the residual stream and follows each branch back to the layer (or norm)
        that it ends in, whose weight and bias are multiplied by 1 / sqrt(L).

    Why it should work:
        Two independent signals of one size add up to twice the variance, L times in a row to 2^L.
        With branches of 1 / L of the stream's variance it is (1 + 1/L)^L < e. Unlike branches
        that begin at zero, all layers learn from the first step.

    What it predicts:
        The residual stream keeps its size within 0.8 decades, first sum to last.

    When it refuses:
        Skip and branch cannot be told apart, or a branch ends in something without parameters, or
        in frozen ones.

    What it costs:
        Nothing at run time. Trained weights lose their function.

    References:
        Hanin and Rolnick 2018; Zhang, Dauphin, Ma 2019 (Fixup); Yang et al. 2023 (Tensor
        Programs VI).
    """
    endings = branch_endings(trace)
    if len(endings) < 2:
        yield Refusal(
            remedy="scale-branches",
            finding=findings[0].name if findings else "",
            reason="no sums whose branch ends in trainable parameters of its own",
        )
        return
    names = tuple(name for ending in endings for name in ending.parameters)
    factor = 1.0 / math.sqrt(len(endings))
    yield Prescription(
        edits=(Edit(kind="scale_weights", targets=names, args={"factors": [factor] * len(names)}),),
        predictions=(STAYS,),
        changes=(Change.INITIALISATION,),
        reason=f"the ends of {len(endings)} residual branches multiplied by {factor:.2g}",
    )
