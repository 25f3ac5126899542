"""NUM201: the root of zero, whose slope is infinite."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues

NAME = "square-root-at-zero"


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, event, present)


def _finding(bad: BadValue, event: Event | None = None, present: bool = True) -> Finding:
    first = bad.operand()
    if bad.direction == "forward":
        many = f"{first.negative} of {first.entries} entries are negative"
        summary = (
            f"{badvalues.place(bad)} takes the root of a negative number ({many}, down to"
            f" {first.least:.2g}), which is NaN: clamp it at a small positive number first"
        )
        observed = float(first.negative)
    elif bad.operation in ("acos", "asin", "acosh", "atanh"):
        summary = (
            f"the loss is finite and its gradient is not: {badvalues.place(bad)} is taken where"
            " its slope 1 / sqrt(1 - x^2) is infinite: keep its argument inside (-1, 1)"
        )
        observed = float(max(abs(first.largest), abs(first.least)))
    else:
        where = f" ({first.zeros} of {first.entries} entries)" if first.zeros else ""
        summary = (
            f"the loss is finite and its gradient is not: {badvalues.place(bad)} is taken at"
            f" zero{where}, where its slope 1 / (2 sqrt(x)) is infinite: add a small number"
            " inside the root"
        )
        observed = float(first.zeros)
    return badvalues.found(
        bad,
        code="NUM201",
        name=NAME,
        summary=summary,
        quantity="entries under the root that are zero or negative",
        observed=observed,
        limit=0.0,
        unit="entries",
        exculpation="a positive number under every root",
        event=event,
        present=present,
    )


@rule(
    code="NUM201",
    fires_on=[
        Case.of("arithmetic", operation="root"),
        Case.of("arithmetic", operation="power"),
        Case.of("arithmetic", operation="negative_root"),
        Case.of("overflowing", where="backward"),
    ],
    silent_on=[
        Case.of("arithmetic", operation="guarded_root"),
        Case.of("arithmetic", operation="rectified_root"),
        Case.of("arithmetic", operation="hidden_root"),
        Case.of("arithmetic", operation="double_where"),
        Case.of("arithmetic", operation="logarithm"),
        Case.of("arithmetic", operation="unit_norm"),
        Case.of("mlp"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("breaking_arithmetic", fault="root"),
        Case.of("breaking_arithmetic", fault="root_loss"),
    ],
    live_silent_on=[
        Case.of("breaking_arithmetic"),
        Case.of("breaking_arithmetic", fault="guarded_root_loss"),
        Case.of("breaking_arithmetic", fault="hidden_loss"),
        Case.of("breaking_arithmetic", fault="log_loss"),
    ],
)
def square_root_at_zero(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """A root, norm or standard deviation taken exactly at zero, or below it.

    What it finds:
        The first operation, in backward order, that gets a finite gradient and passes on NaN or
        infinity, where it is a root (``sqrt``, ``x ** 0.5``, ``norm``, ``std``, ``cdist``) of zero,
        or an arc cosine at its end; or, forward, the root of a negative number.

    Why it matters:
        The loss looks healthy; the step after it every weight that this gradient reaches is NaN.
        Clipping does not help: it multiplies NaN.

    How it is measured:
        One backward pass in the model's own number format, with every node heard; exact. The
        operands are those of the call that made the node. In a run the step's calls are made again
        on copies; of a loss in plain code the graph's operations are read.

    Silent when:
        Every root is taken of a positive number; a rectifier behind it stops the infinite slope;
        another operation was the first.

    References:
        pytorch/pytorch#2421 and #2534 (NaN gradient of sqrt and norm at zero).
    """
    del limits  # unused: a number is finite or not
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad)
