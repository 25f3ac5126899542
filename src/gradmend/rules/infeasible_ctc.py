"""LOS215: a CTC target longer than the input can say."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues

NAME = "infeasible-ctc"


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, event, present)


def _finding(bad: BadValue, event: Event | None = None, present: bool = True) -> Finding:
    given, wanted, repeats = bad.target_lengths or (0, 0, 0)
    needs = (
        f" ({given} time steps for {wanted} labels with {repeats} repeats, which need"
        f" {wanted + repeats})"
        if wanted
        else ""
    )
    return badvalues.found(
        bad,
        code="LOS215",
        name=NAME,
        summary=(
            f"{badvalues.place(bad)} is infinite: a target is longer than its input can be aligned"
            f" with{needs}: less subsampling in the model, zero_infinity=True, or leave such"
            " samples out"
        ),
        quantity="time steps that a target lacks",
        observed=float(wanted + repeats - given),
        limit=0.0,
        unit="time steps",
        exculpation="inputs at least as long as target and repeats",
        event=event,
        present=present,
    )


@rule(
    code="LOS215",
    fires_on=[Case.of("arithmetic", loss="ctc_short")],
    silent_on=[
        Case.of("arithmetic", loss="ctc"),
        Case.of("arithmetic", loss="by_hand"),
        Case.of("arithmetic"),
    ],
    live=_live,
    live_fires_on=[Case.of("speech", wanted=20)],
    live_silent_on=[
        Case.of("speech"),
        Case.of("speech", wanted=20, zero_infinity=True),
        Case.of("breaking_arithmetic", fault="log_loss"),
    ],
)
def infeasible_ctc(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """A CTC loss whose target cannot be aligned: it is longer than the input.

    What it finds:
        An infinite CTC loss with a sample whose input length is below its target length plus the
        labels that repeat their predecessor (a blank has to come between them).

    Why it matters:
        No path through the time steps writes that target, so its probability is zero and the loss
        infinite; the gradient is NaN, and the next step makes every weight NaN.

    How it is measured:
        The lengths and targets of the call that gave the infinity; exact.

    Silent when:
        Every target fits, or ``zero_infinity=True``.

    References:
        Graves et al. 2006; wenet-e2e/wenet#2299; ypwhs/captcha_break#29.
    """
    del limits  # unused: a number is finite or not
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad)
