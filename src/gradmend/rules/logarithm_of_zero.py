"""NUM203: the logarithm of zero, or of a negative number."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues

NAME = "logarithm-of-zero"


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, event, present)


def _finding(bad: BadValue, event: Event | None = None, present: bool = True) -> Finding:
    first = bad.operand()
    negative = bool(first.negative)
    what = "a negative number" if negative and not first.zeros else "zero"
    count = (first.negative if what != "zero" else first.zeros) or bad.bad
    many = f" ({count} of {first.entries} entries)" if first.entries else ""
    made = next((n for n in ("log_softmax", "softmax", "sigmoid") if n in first.lineage), "")
    todo = {
        "softmax": "hand the logits to cross_entropy, or use log_softmax, which cannot underflow",
        "sigmoid": "use binary_cross_entropy_with_logits, or logsigmoid, which cannot underflow",
    }.get(made, "clamp its argument at a small positive number, or use log1p, xlogy")
    return badvalues.found(
        bad,
        code="NUM203",
        name=NAME,
        summary=(
            f"{badvalues.place(bad)} takes the logarithm of {what}{many}"
            f"{f', a {made} that underflowed' if made else ''}: {todo}"
        ),
        quantity="entries of the argument that are zero or negative",
        observed=float(first.zeros + first.negative),
        limit=0.0,
        unit="entries",
        exculpation="a positive argument",
        event=event,
        present=present,
    )


@rule(
    code="NUM203",
    fires_on=[
        Case.of("arithmetic", operation="logarithm"),
        Case.of("arithmetic", loss="by_hand"),
        Case.of("overflowing", where="forward"),
    ],
    silent_on=[
        Case.of("arithmetic", operation="guarded_logarithm"),
        Case.of("arithmetic", operation="root"),
        Case.of("arithmetic", operation="unit_norm"),
        Case.of("arithmetic", operation="causal_mask"),
        Case.of("arithmetic"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("breaking_arithmetic", fault="logarithm"),
        Case.of("breaking_arithmetic", fault="log_loss"),
    ],
    live_silent_on=[
        Case.of("breaking_arithmetic"),
        Case.of("breaking_arithmetic", fault="spread_loss"),
        Case.of("breaking_arithmetic", fault="root_loss"),
    ],
)
def logarithm_of_zero(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """A logarithm of zero or of a negative number, in the model or in a loss written by hand.

    What it finds:
        The operation from which NaN or infinity spread to the loss, where it is a logarithm and
        its argument holds zeros or negative numbers: probabilities that underflowed, counts,
        a variance, a softmax or sigmoid written out by hand.

    Why it matters:
        log 0 is minus infinity and the logarithm of a negative number is NaN; the loss is then no
        number, and the next step makes every weight NaN.

    How it is measured:
        The bad value is followed back from the loss, in the model's own number format, to the
        first operation whose operands were finite. Minus infinity that a mask puts there is none.

    Silent when:
        Arguments are positive; the zero is an exponential that underflowed, where
        exponential-overflow judges; another operation was the first.

    References:
        torch.nn.CrossEntropyLoss expects logits; PyTorch forum, own cross entropy is infinite.
    """
    del limits  # unused: a number is finite or not
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad)
