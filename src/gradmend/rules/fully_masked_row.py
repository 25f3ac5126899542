"""ATT201: attention over nothing: a row whose keys are all masked."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues

NAME = "fully-masked-row"


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, event, present)


def _finding(bad: BadValue, event: Event | None = None, present: bool = True) -> Finding:
    rows = max((item.masked_rows for item in bad.operands), default=0)
    many = f"{rows} row{'' if rows == 1 else 's'}" if rows else "a row"
    return badvalues.found(
        bad,
        code="ATT201",
        name=NAME,
        summary=(
            f"{badvalues.place(bad)} has nothing to look at: in {many} every key is masked, and the"
            " softmax of minus infinity alone is NaN: leave samples out that are all padding, let"
            " each query see itself, or fill with a large negative number instead"
        ),
        quantity="rows in which every key is masked",
        observed=float(rows),
        limit=0.0,
        unit="rows",
        exculpation="a key to look at in every row",
        event=event,
        present=present,
    )


@rule(
    code="ATT201",
    fires_on=[
        Case.of("arithmetic", operation="masked_row"),
        Case.of("padded_attention", rows=1),
    ],
    silent_on=[
        Case.of("arithmetic", operation="causal_mask"),
        Case.of("padded_attention"),
        Case.of("arithmetic", operation="logarithm"),
        Case.of("transformer"),
    ],
    live=_live,
    live_fires_on=[Case.of("padded_sentences", empty_at=12)],
    live_silent_on=[Case.of("padded_sentences"), Case.of("breaking_arithmetic", fault="log_loss")],
)
def fully_masked_row(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """Attention in which a query may look at no key at all.

    What it finds:
        A softmax, or an attention module, that is the first to give NaN, and whose logits are minus
        infinity in a whole row, or whose mask covers one: a sample made of padding only, a causal
        mask combined with left padding.

    Why it matters:
        exp(-inf) / sum of exp(-inf) is 0 / 0. Clipping does not help, and the same batch breaks
        every epoch.

    How it is measured:
        The bad value is followed back from the loss to the first operation that made NaN of finite
        numbers and masks; its rows of minus infinity are counted.

    Silent when:
        Every row has a key; rows are filled with a large negative number, which gives even
        attention instead of NaN.

    References:
        pytorch/pytorch#41508 and #40932.
    """
    del limits  # unused: a number is finite or not
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad)
