"""NUM202: torch.where hides a value, and its gradient is NaN all the same."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues

NAME = "hidden-branch-nan"


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, event, present)


def _finding(bad: BadValue, event: Event | None = None, present: bool = True) -> Finding:
    picker = bad.behind or "where"
    return badvalues.found(
        bad,
        code="NUM202",
        name=NAME,
        summary=(
            f"the loss is finite and its gradient is not: {badvalues.place(bad)} stands in the"
            f" branch that {picker} leaves out, and its infinite slope times the branch's gradient"
            f" of zero is NaN: make its argument safe before the operation, not after"
            f" (a second {picker} inside)"
        ),
        quantity="entries of the gradient that are not finite",
        observed=float(bad.bad),
        limit=0.0,
        unit="entries",
        exculpation="an argument that is safe in both branches",
        event=event,
        present=present,
    )


@rule(
    code="NUM202",
    fires_on=[Case.of("arithmetic", operation="hidden_root")],
    silent_on=[
        Case.of("arithmetic", operation="double_where"),
        Case.of("arithmetic", operation="root"),
        Case.of("arithmetic", operation="logarithm"),
        Case.of("arithmetic", operation="causal_mask"),
        Case.of("arithmetic"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("breaking_arithmetic", fault="hidden_root"),
        Case.of("breaking_arithmetic", fault="hidden_loss"),
    ],
    live_silent_on=[
        Case.of("breaking_arithmetic"),
        Case.of("breaking_arithmetic", fault="double_where"),
        Case.of("breaking_arithmetic", fault="root_loss"),
    ],
)
def hidden_branch_nan(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """An operation in the branch that ``torch.where`` leaves out, whose gradient is NaN.

    What it finds:
        A finite loss whose gradient is NaN because an operation got a gradient of exactly zero
        (``where``, ``masked_fill`` or an index left its result out) and multiplied it with an
        infinite slope.

    Why it matters:
        ``where`` chooses between two results and computes both, forward and backward: the
        zero it sends into the other branch does not stop an infinity there.

    How it is measured:
        The first node, in backward order, that turns finite numbers into others; whether what came
        in was zero at those entries; and the nearest operation that picks, between it and the loss.
        Exact, no threshold.

    Silent when:
        The argument is made safe first (the double ``where``); the bad entries got a gradient that
        is not zero, where square-root-at-zero and its like judge.

    References:
        pytorch/pytorch#68425, #16317 and #187297; the JAX FAQ, "gradients contain NaN where using
        where".
    """
    del limits  # unused: a number is finite or not
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad)
