"""Let every query of attention look at something."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["fully-masked-row"], changes=[Change.WIRING])
def unmask_empty_rows(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Advice]:
    """Show how to leave a key to every row of attention.

    What it does:
        Shows the change of the source: where a row of the mask covers every key, it is lifted.
        The mask is made by code that no edit reaches.

    Why it should work:
        The softmax of minus infinity alone is 0 / 0. What a row without keys answers is of no
        meaning, so any finite answer does, as long as the loss leaves it out as before.

    What it predicts:
        Nothing: it is advice, and no edit.

    When it refuses:
        Never.

    What it costs:
        One reduction over the mask a batch.

    References:
        pytorch/pytorch#41508 and #40932.
    """
    del trace  # unused: the finding names the place
    yield Advice(
        remedy="unmask-empty-rows",
        finding=findings[0].name if findings else "fully-masked-row",
        text=(
            "lift the mask in rows that it covers wholly (a sample of padding only, a causal mask"
            " on left padding), or leave such samples out of the batch"
        ),
        before="scores = scores.masked_fill(mask, float('-inf'))",
        after=(
            "mask = mask & ~mask.all(dim=-1, keepdim=True)\n"
            "scores = scores.masked_fill(mask, float('-inf'))"
        ),
        source=findings[0].source if findings else None,
    )
