"""NUM205: an exponential beyond the number format, above or below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import badvalues

NAME = "exponential-overflow"


@dataclass(frozen=True)
class Limits:
    """Where an exponential leaves its format."""

    highest: float = limit(
        88.7, unit="1", source="ln of float32's largest number, 3.4e38; float16's is at 11.09"
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, limits, event, present)


def _finding(
    bad: BadValue, limits: Limits, event: Event | None = None, present: bool = True
) -> Finding:
    vanished = bad.operation in ("div", "log", "log2", "log10")
    if vanished:
        what = (
            f"an exponential has underflowed to exactly zero (its argument is below -103 in"
            f" float32), and {badvalues.place(bad)} cannot take it as a divisor or argument"
        )
        observed = 0.0
    else:
        first = bad.operand(1 if bad.operation == "pow" else 0)
        observed = first.largest
        what = f"{badvalues.place(bad)} overflows: its argument reaches {observed:.4g}" + (
            f", and {bad.dtype or 'float32'} ends at exp({limits.highest:g})"
            if bad.dtype in ("float32", "") and bad.operation == "exp"
            else ""
        )
    return badvalues.found(
        bad,
        code="NUM205",
        name=NAME,
        summary=(
            f"{what}: clamp the argument (a log-variance to [-30, 20], say), or use softplus"
            " or logsumexp"
        ),
        quantity="largest argument of the exponential",
        observed=observed,
        limit=limits.highest,
        exculpation="arguments inside the format's range",
        event=event,
        present=present,
    )


@rule(
    code="NUM205",
    limits=Limits,
    fires_on=[Case.of("arithmetic", operation="exponential")],
    silent_on=[
        Case.of("arithmetic", operation="bounded_exponential"),
        Case.of("arithmetic", operation="logarithm"),
        Case.of("arithmetic", operation="unit_norm"),
        Case.of("arithmetic", half=True),
        Case.of("arithmetic"),
    ],
    live=_live,
    live_fires_on=[Case.of("breaking_arithmetic", fault="exponential")],
    live_silent_on=[
        Case.of("breaking_arithmetic"),
        Case.of("breaking_arithmetic", fault="bounded_exponential"),
        Case.of("breaking_arithmetic", fault="log_loss"),
    ],
)
def exponential_overflow(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """An exponential (of a log-variance, a log-scale, raw scores) that leaves the number format.

    What it finds:
        The operation from which NaN or infinity spread to the loss, where it is an exponential or a
        power whose result is infinite; or a division by, or logarithm of, an exponential that
        underflowed to zero.

    Why it matters:
        exp(89) is infinite in float32, exp(12) in float16, and a standard deviation exp(log_std)
        below -103 is exactly zero. Clipping the gradient cannot help: it is NaN already.

    How it is measured:
        The bad value is followed back from the loss, in the model's own number format, to the
        first operation whose operands were finite, and the largest operand is read.

    Silent when:
        Arguments stay in range; the run diverged by its learning rate before, which is then ranked
        first; float16 alone overflows, where half-precision-overflow judges.

    References:
        hardmaru/WorldModelsExperiments#9; leggedrobotics/rsl_rl#190 (exp(log_std) underflows);
        vanderschaarlab/synthcity#331.
    """
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad, limits)
