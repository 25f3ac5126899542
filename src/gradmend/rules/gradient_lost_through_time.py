"""REC221: a recurrence that forgets its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When the first time steps are out of reach."""

    span: float = limit(
        -4.0,
        unit="decades",
        source="of the gradient's size from the last time step to the first: chosen above the 5.1 "
        "decades that still train in microsoft/CNTK#476, since the weights are shared over time",
    )


@rule(
    code="REC221",
    limits=Limits,
    fires_on=[
        Case.of("long_memory", cell="tanh", gain=0.3),
        Case.of("long_memory", cell="lstm", forget=0.0),
    ],
    silent_on=[
        Case.of("long_memory", cell="lstm"),
        Case.of("long_memory", cell="tanh", gain=1.0),
        Case.of("long_memory", cell="relu", gain=3.0),
    ],
)
def gradient_lost_through_time(history: History, limits: Limits) -> Iterator[Finding]:
    """Recurrent layers whose gradient does not reach the first time steps.

    What it finds:
        Recurrent layers in which dL/dh is four decades smaller at the first time step than at the
        last, in a run that has not learned.

    Why it matters:
        What was said at the beginning of the sequence cannot be learned to matter at its end: only
        the last steps, as many as the horizon, teach the layer anything.

    How it is measured:
        The size of dL/dh_t by time step, and the slope of its logarithm; the horizon is the number
        of steps back until 1/e is left.

    Silent when:
        The loss falls: the sequence's end may be all that matters; losses at every time step
        reach all of them.

    References:
        Hochreiter 1991; Bengio, Simard, Frasconi 1994; Jozefowicz et al. 2015 (forget bias of 1).
    """
    table = history["recurrence"]
    if not len(table) or windows.learned(history) is not False:
        return
    span = windows.lasting(table, "log10_span", 0.75)
    span = np.where(np.isneginf(span), -99.0, span)
    guilty = np.flatnonzero(span <= limits.span)
    if not len(guilty):
        return
    worst = int(guilty[np.argmin(span[guilty])])
    column = table.columns[worst]
    horizon = windows.lasting(table, "horizon")[worst]
    forget = windows.lasting(table, "forget_gate")[worst]
    radius = windows.lasting(table, "spectral_radius")[worst]
    why = ""
    if np.isfinite(forget):
        why = f"; its forget gate is {forget:.0%} open"
    elif np.isfinite(radius):
        why = f"; the spectral radius of its recurrent weights is {radius:.2g}"
    reach = f" and reaches {horizon:.0f} steps back" if np.isfinite(horizon) else ""
    yield Finding(
        code="REC221",
        name="gradient-lost-through-time",
        severity=Severity.ERROR,
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
