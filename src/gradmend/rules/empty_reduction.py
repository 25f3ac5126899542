"""LOS214: a mean over no elements."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues

NAME = "empty-reduction"


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, event, present)


def _finding(bad: BadValue, event: Event | None = None, present: bool = True) -> Finding:
    if bad.ignored == 1.0:
        what = "every target of the batch is one that the loss ignores"
        todo = "drop such batches (prompts cut off before their answer), or sum and divide by"
        todo += " max(count, 1)"
    elif bad.operation == "div":
        what = "a sum over selected elements is divided by their count, and none is selected"
        todo = "divide by max(count, 1)"
    else:
        what = "it is taken over no elements"
        todo = "leave the term out where nothing is selected"
    return badvalues.found(
        bad,
        code="LOS214",
        name=NAME,
        summary=f"{badvalues.place(bad)} is 0 / 0: {what}: {todo}",
        quantity="elements that were averaged",
        observed=0.0,
        limit=1.0,
        unit="elements",
        exculpation="at least one element",
        event=event,
        present=present,
    )


@rule(
    code="LOS214",
    fires_on=[Case.of("arithmetic", loss="ignored"), Case.of("arithmetic", loss="empty")],
    silent_on=[
        Case.of("arithmetic", loss="half_ignored"),
        Case.of("arithmetic", operation="spread"),
        Case.of("arithmetic", operation="unit_norm"),
        Case.of("arithmetic"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("breaking_arithmetic", fault="empty_loss"),
        Case.of("breaking_arithmetic", fault="empty_loss", once=True),
    ],
    live_silent_on=[
        Case.of("breaking_arithmetic"),
        Case.of("breaking_arithmetic", fault="spread_loss"),
        Case.of("breaking_arithmetic", fault="log_loss"),
    ],
)
def empty_reduction(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """A mean over no elements: all labels ignored, a mask that selects nothing.

    What it finds:
        The operation from which NaN spread to the loss, where it is a mean of an empty tensor, a
        loss whose targets are all ignored, or a sum divided by a count that is zero.

    Why it matters:
        The loss is NaN although the outputs are finite. With all labels ignored the gradients stay
        finite and training goes on, so that only the log shows it; with a mean of
        nothing they do not, and the next step makes every weight NaN.

    How it is measured:
        The bad value is followed back from the loss to the first operation whose operands were
        finite; elements and ignored targets are counted. In a run, on the loss's own graph.

    Silent when:
        One element is left; a spread or norm is zero instead, where division-by-zero judges.

    References:
        pytorch/pytorch#70348 and #116349; huggingface/trl#6668; OpenRLHF/OpenRLHF#583.
    """
    del limits  # unused: a number is finite or not
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad)
