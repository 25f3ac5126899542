"""Show the loss that fits, where the source has another."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.source_changes import LOSS, advise


@remedy(treats=list(LOSS), changes=[Change.WIRING])
def mend_the_loss(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Advice]:
    """Show the change of source for a loss that no edit of the model mends.

    What it does:
        Shows a line of the kind and what it should be: Huber's loss for a clamped error, the loss
        that fits the targets, a generator's loss that does not saturate.

    Why it should work:
        The loss is the user's own code, and another loss is another question: nobody but the user
        can say which one is meant.

    What it predicts:
        Nothing: no edit is made, so nothing is tried.

    When it refuses:
        Never; it only speaks.

    What it costs:
        Nothing.

    References:
        Huber 1964; Goodfellow et al. 2014, section 3; torch.nn's loss functions.
    """
    del trace  # unused: the findings say it all
    yield from advise("mend-the-loss", findings, LOSS)
