"""REC221: a recurrence that forgets its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.guessing import stays_at_a_guess
from gradmend.theory.repeated import repeated_modules


@dataclass(frozen=True)
class Limits:
    """When the first time steps are out of reach."""

    span: float = limit(
        -4.0,
        unit="decades",
        source="of the gradient's size from the last time step to the first: chosen above the 5.1 "
        "decades that still train in microsoft/CNTK#476, since the weights are shared over time",
    )
    horizon: float = limit(
        1.0,
        unit="time steps",
        source="until 1/e of the gradient is left, below which the recurrence is switched off "
        "before training: torch's defaults have 1.8 (RNN: spectral radius 0.58) and 1.4 (LSTM: a "
        "gate half open), and train where the end of a sequence matters",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    table = history["recurrence"]
    rehearsal = history.run.rehearsal
    stuck = stays_at_a_guess(history) or (not rehearsal and windows.learned(history) is False)
    if not len(table) or not (rehearsal or stuck):
        return
    span = windows.lasting(table, "log10_span", 0.75, fewest=windows.FEW)
    span = np.where(np.isneginf(span), -99.0, span)
    lost = span <= limits.span
    if not stuck:  # whether the beginning matters cannot be known yet: only what nobody wants
        lost &= windows.lasting(table, "horizon", 0.75) < limits.horizon
    guilty = np.flatnonzero(lost)
    if not len(guilty):
        return
    worst = int(guilty[np.argmin(span[guilty])])
    column = table.columns[worst]
    horizon = windows.lasting(table, "horizon", fewest=windows.FEW)[worst]
    forget = windows.lasting(table, "forget_gate", fewest=windows.FEW)[worst]
    radius = windows.lasting(table, "spectral_radius", fewest=windows.FEW)[worst]
    why = ""
    if np.isfinite(forget):
        why = f"; its forget gate is {forget:.0%} open"
    elif np.isfinite(radius):
        why = f"; the spectral radius of its recurrent weights is {radius:.2g}"
    reach = f" and reaches {horizon:.0f} steps back" if np.isfinite(horizon) else ""
    yield Finding(
        code="REC221",
        name="gradient-lost-through-time",
        severity=Severity.ERROR if stuck else Severity.WARNING,
        modules=tuple(dict.fromkeys(table.columns[i].module for i in guilty)),
        source=column.source,
        summary=(
            f"the gradient of {column.module or column.name} loses {-float(span[worst]):.1f}"
            f" decades from the last time step to the first{reach}{why}"
        ),
        evidence=(
            Evidence(
                quantity="decades over the sequence",
                observed=float(span[worst]),
                limit=limits.span,
                unit="decades",
                module=column.module,
                step=history.step,
            ),
        ),
        weight=min(-float(span[worst]), 12.0),
        explains=("loss-plateau", "vanishing-gradient", "stalled-layers"),
        exculpation="fewer decades, or a loss that falls",
    )


@rule(
    code="REC221",
    limits=Limits,
    fires_on=[Case.of("unrolled", gain=0.2)],
    silent_on=[
        Case.of("unrolled"),
        Case.of("unrolled", gain=0.6),
        Case.of("unrolled", gain=3.0, activation="relu"),
        Case.of("recurrent"),
        Case.of("shared"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("long_memory", cell="tanh", gain=0.3),
        Case.of("long_memory", cell="lstm", forget=0.0),
    ],
    live_silent_on=[
        Case.of("long_memory", cell="lstm"),
        Case.of("long_memory", cell="tanh", gain=1.0),
        Case.of("long_memory", cell="relu", gain=3.0),
    ],
)
def gradient_lost_through_time(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Recurrent layers whose gradient does not reach the first time steps.

    What it finds:
        Recurrent layers in which dL/dh is four decades smaller at the first time step than at the
        last, in a run that has not learned.

    Why it matters:
        What was said at the beginning of the sequence cannot be learned to matter at its end: only
        the last steps, as many as the horizon, teach the layer anything.

    How it is measured:
        The size of dL/dh_t by time step, and the slope of its logarithm; the horizon is the number
        of steps back until 1/e is left. In one look also at modules that a loop calls again and
        again (cells and layers of a recurrence written by hand). Before training a recurrence is
        convicted only when it is switched off: a horizon below one step.

    Silent when:
        The loss falls, below that of a guess too: the sequence's end may be all that matters;
        losses at every time step reach all of them.

    References:
        Hochreiter 1991; Bengio, Simard, Frasconi 1994; Jozefowicz et al. 2015 (forget bias of 1).
    """
    for found in repeated_modules(trace):
        if trace.run.step or not found.span <= limits.span or not found.horizon < limits.horizon:
            continue
        yield Finding(
            code="REC221",
            name="gradient-lost-through-time",
            severity=Severity.WARNING,
            modules=(found.module,),
            source=found.source,
            summary=(
                f"the gradient of {found.module or 'the model'} loses {-found.per_call:.2g} decades"
                f" at each of its {len(found.log10_grad)} calls back, {-found.span:.0f} in all: it"
                " remembers less than one step"
            ),
            evidence=(
                Evidence(
                    quantity="time steps until 1/e of the gradient is left",
                    observed=found.horizon,
                    limit=limits.horizon,
                    unit="time steps",
                    module=found.module,
                ),
            ),
            weight=min(-found.span, 12.0),
            explains=(
                "loss-plateau",
                "vanishing-gradient",
                "stalled-layers",
                "init-gain-too-small",
            ),
            exculpation="a horizon of one step and more",
        )
