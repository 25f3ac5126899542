"""Show how to let the gradient through, where the source cuts it off."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.source_changes import GRAPH, advise


@remedy(treats=list(GRAPH), changes=[Change.WIRING])
def mend_the_graph(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Advice]:
    """Show the change of source that lets the gradient reach what it does not reach.

    What it does:
        Names the line, where it is known, and shows what it should be: no detach, no no_grad, a
        checkpoint that is not reentrant, a straight-through estimate, weights drawn once.

    Why it should work:
        The graph ends in the user's own code; nothing that is done to modules joins it again.

    What it predicts:
        Nothing: no edit is made, so nothing is tried.

    When it refuses:
        Never; it only speaks.

    What it costs:
        Nothing.

    References:
        PyTorch's notes on autograd mechanics; Bengio, Leonard, Courville 2013 (straight through).
    """
    cut = next((c.source for c in trace.cuts if c.source), None)
    yield from advise("mend-the-graph", findings, GRAPH, cut)
