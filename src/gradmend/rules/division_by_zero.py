"""NUM204: a division by zero: no spread, no length, nothing to divide by."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues

NAME = "division-by-zero"
_MADE = {
    "std": "a standard deviation of zero: the feature is the same in every sample",
    "var": "a variance of zero: the feature is the same in every sample",
    "norm": "the norm of a vector that is all zero",
    "max": "a largest value of zero",
    "sum": "a sum of zero",
}
"""What a divisor of zero was, by the operation that made it."""


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, event, present)


def _finding(bad: BadValue, event: Event | None = None, present: bool = True) -> Finding:
    divisor = bad.operand(0 if bad.operation in ("rsqrt", "pow") else 1)
    if bad.operation in ("std", "var", "std_mean", "var_mean"):
        what = f"{badvalues.place(bad)} is taken of a single value, which has no spread: 0 / 0"
        todo = "use correction=0, or a batch of more than one"
    else:
        made = next((text for name, text in _MADE.items() if name in divisor.lineage), "zero")
        many = f" ({divisor.zeros} of {divisor.entries} entries)" if divisor.zeros else ""
        what = f"{badvalues.place(bad)} divides by {made}{many}"
        todo = "add a small number to the divisor, or leave such samples and features out"
    return badvalues.found(
        bad,
        code="NUM204",
        name=NAME,
        summary=f"{what}: {todo}",
        quantity="entries of the divisor that are zero",
        observed=float(divisor.zeros),
        limit=0.0,
        unit="entries",
        exculpation="a divisor that is never zero",
        event=event,
        present=present,
    )


@rule(
    code="NUM204",
    fires_on=[
        Case.of("arithmetic", operation="unit_norm"),
        Case.of("arithmetic", operation="spread"),
    ],
    silent_on=[
        Case.of("arithmetic", operation="guarded_norm"),
        Case.of("arithmetic", operation="root"),
        Case.of("arithmetic", loss="empty"),
        Case.of("arithmetic", operation="exponential"),
        Case.of("arithmetic"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("breaking_arithmetic", fault="spread_loss"),
        Case.of("breaking_arithmetic", fault="unit_norm"),
    ],
    live_silent_on=[
        Case.of("breaking_arithmetic"),
        Case.of("breaking_arithmetic", fault="empty_loss"),
        Case.of("breaking_arithmetic", fault="log_loss"),
    ],
)
def division_by_zero(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """A division by a spread, a norm or a sum that is exactly zero.

    What it finds:
        The operation from which NaN or infinity spread to the loss, where it divides by zero:
        standardising a constant feature, normalising a vector of zeros, the standard deviation of
        a single sample; or the same in the gradient alone.

    Why it matters:
        0 / 0 is NaN: the loss is then no number, and the next step makes every weight NaN. It
        often takes one odd batch after hours of training.

    How it is measured:
        The bad value is followed back from the loss, in the model's own number format, to the
        first operation whose operands were finite; its divisor's zeros are counted, and the
        operation that made the divisor is named.

    Silent when:
        No divisor is zero; the divisor is a count of selected elements, where empty-reduction
        judges, or an exponential that underflowed, where exponential-overflow does.

    References:
        torch.nn.functional.normalize and layer_norm, which add eps to their divisor for this.
    """
    del limits  # unused: a number is finite or not
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad)
