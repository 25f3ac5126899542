"""Show where to look, where the data carry nothing to learn."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.source_changes import DATA, advise


@remedy(treats=list(DATA), changes=[Change.DATA_SCALE])
def look_at_the_data(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Advice]:
    """Show what to look at in a loader whose inputs or labels say nothing.

    What it does:
        Names the question, and the usual slip with its correction.

    Why it should work:
        What is not in the data no edit of a model brings back.

    What it predicts:
        Nothing: no edit is made, so nothing is tried.

    When it refuses:
        Never; it only speaks.

    What it costs:
        Nothing.

    References:
        Karpathy, A recipe for training neural networks (become one with the data).
    """
    del trace  # unused: the findings say it all
    yield from advise("look-at-the-data", findings, DATA)
