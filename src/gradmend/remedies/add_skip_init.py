"""Multiply residual branches by a learned number that starts at zero."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.branches import branch_endings


@remedy(treats=["residual-growth"], changes=[Change.RESIDUAL])
def add_skip_init(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Put a learned scalar, from zero, behind the last layer of every residual branch.

    What it does:
        x + f(x) becomes x + alpha f(x) in the blocks that there are: the module that a branch ends
        in is followed by one parameter alpha.

    Why it should work:
        At alpha = 0 the stream keeps its size at any depth; the branches keep their weights and
        open as far as they help, each at its own pace.

    What it predicts:
        The residual stream keeps its size within 0.8 decades, first sum to last.

    When it refuses:
        Skip and branch cannot be told apart, or a branch ends in a module that is called several
        times, or whose weights are read by somebody else (as torch's own transformer layers read
        their attention's).

    What it costs:
        One parameter and one multiplication a block; parameter names of the last layers change.

    References:
        De and Smith 2020 (SkipInit); Bachlechner et al. 2021 (ReZero).
    """
    endings = branch_endings(trace)
    if len(endings) < 2 or not all(ending.plain and ending.exact for ending in endings):
        yield Refusal(
            remedy="add-skip-init",
            finding=findings[0].name if findings else "",
            reason="not every branch ends in a module of its own, called once",
        )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="multiply_output",
                targets=tuple(ending.module for ending in endings),
                args={"factors": [0.0] * len(endings), "learned": True},
            ),
        ),
        predictions=(
            Prediction(
                quantity="stream_growth",
                low=-0.8,
                high=0.8,
                unit="decades",
                sentence="the residual stream keeps its size within 0.8 decades",
            ),
        ),
        changes=(Change.RESIDUAL,),
        reason=f"{len(endings)} residual branches get a learned factor, from zero",
    )
