"""REC223: an LSTM that forgets before its sequence ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.guessing import stays_at_a_guess


@dataclass(frozen=True)
class Limits:
    """When a forget gate is closed."""

    span: float = limit(
        -4.0,
        unit="decades",
        source="of the gradient's size from the last time step to the first, as in "
        "gradient-lost-through-time",
    )
    unheard: float = limit(
        -17.0,
        unit="decades",
        source="the same before training: below 2^-24 = 1e-7 a time step's part is rounded away in "
        "the sum over time; ten decades more, as the last steps may be all that matters",
    )
    horizon: float = limit(
        1.0,
        unit="time steps",
        source="until 1/e of the gradient is left, below which it is said before training, as in "
        "gradient-lost-through-time: torch's default of half a gate has 1.4",
    )
    opening: float = limit(
        0.8,
        unit="share",
        source="of the forget gate, mean: 0.5 is torch's default, 0.73 a bias of 1 (Jozefowicz et "
        "al. 2015). 0.8 keeps a tenth over ten steps",
    )
    reach: float = limit(
        0.25,
        unit="share",
        source="of the sequence that the gradient reaches until 1/e is left: our choice",
    )


@rule(
    code="REC223",
    limits=Limits,
    fires_on=[
        Case.of("long_memory", cell="lstm", forget=0.0),
        Case.of("long_memory", cell="lstm", forget=0.0, length=60),
    ],
    silent_on=[
        Case.of("long_memory", cell="lstm"),
        Case.of("long_memory", cell="lstm", forget=0.0, length=4, steps=160),
        Case.of("long_memory", cell="tanh", gain=0.3),
        Case.of("long_memory", cell="relu", gain=3.0),
    ],
)
def forget_gate_closed(history: History, limits: Limits) -> Iterator[Finding]:
    """LSTM whose forget gate is half closed, over sequences far longer than what it then keeps.

    What it finds:
        LSTMs whose forget gate is open by 0.8 or less, whose gradient reaches a fraction of the
        sequence, in a run that has not learned.

    Why it matters:
        The cell's gradient is multiplied by the forget gate at each time step. At torch's default
        bias the gate is half open: 2^-T, a thousandth in ten steps. An LSTM then forgets as fast
        as a plain recurrent network.

    How it is measured:
        The mean opening of the forget gate and the size of dL/dh_t by time step, on the run's own
        batches. A bias of log(T - 1) makes a gate keep its cell over T steps. Before training, in
        a check's few steps, it is said only where less than 1e-17 of the gradient arrives, or 1/e
        of it not even one step back.

    Silent when:
        The loss falls, below that of a guess too; sequences are short; the loss reads every time
        step; the gate is open and something else loses the gradient.

    References:
        Gers, Schmidhuber, Cummins 2000; Jozefowicz, Zaremba, Sutskever 2015 (a bias of 1);
        Tallec and Ollivier 2018 (chrono initialisation, log(T - 1)); pytorch/pytorch#20102, #750.
    """
    table = history["recurrence"]
    if not len(table):
        return
    rehearsal = history.run.rehearsal
    stuck = stays_at_a_guess(history) or (not rehearsal and windows.learned(history) is False)
    if not rehearsal and not stuck:
        return
    # Unrolling is dear, so there may be one row only; gates and spans hardly change meanwhile.
    if rehearsal:  # what steps on one batch make of it is no matter
        span, gate, reach = (table.first(name) for name in ("log10_span", "forget_gate", "horizon"))
    else:
        span = windows.rank(windows.recent(table, "log10_span"), 0.75)
        gate, reach = (
            windows.rank(windows.recent(table, name), 0.5) for name in ("forget_gate", "horizon")
        )
    span = np.where(np.isneginf(span), -99.0, span)
    guilty = [
        at
        for at in np.flatnonzero(span <= limits.span)
        if (stuck or span[at] <= limits.unheard or reach[at] < limits.horizon)
        and gate[at] <= limits.opening
        and _is_short(table.columns[at].facts, reach[at], limits)
    ]
    if not guilty:
        return
    worst = min(guilty, key=lambda at: float(span[at]))
    column = table.columns[worst]
    length = _length(table.columns[worst].facts)
    opening, steps = float(gate[worst]), float(reach[worst])
    bias = math.log(max(opening, 1e-6) / max(1.0 - opening, 1e-6))
    of = f" of {length}" if length else ""
    needed = f"log({length} - 1) = {math.log(max(length - 1, 2)):.2g}" if length else "log(T - 1)"
    yield Finding(
        code="REC223",
        name="forget-gate-closed",
        severity=Severity.WARNING if rehearsal else Severity.ERROR,
        modules=tuple(dict.fromkeys(table.columns[at].module for at in guilty)),
        source=column.source,
        summary=(
            f"the forget gate of {column.module or column.name} is {opening:.0%} open (a bias of"
            f" about {bias:.1f}), so its gradient reaches {windows.plain(steps)}{of} time steps"
            f" back and loses {-float(span[worst]):.0f} decades over all of them: begin with a"
            f" forget bias of {needed}"
        ),
        evidence=(
            Evidence(
                quantity="opening of the forget gate",
                observed=opening,
                limit=limits.opening,
                unit="share",
                module=column.module,
                step=history.step,
            ),
            Evidence(
                quantity="decades over the sequence",
                observed=float(span[worst]),
                limit=limits.span,
                unit="decades",
                module=column.module,
                step=history.step,
            ),
        ),
        weight=min(-float(span[worst]), 12.0) + 1.0,
        explains=(
            "gradient-lost-through-time",
            "vanishing-gradient",
            "stalled-layers",
            "loss-plateau",
            "collapsed-signal",
        ),
        exculpation="a loss that falls, an open gate, or a short sequence",
    )


def _length(facts: object) -> int:
    """Time steps of a sequence, 0 where not known."""
    value = facts.get("length") if hasattr(facts, "get") else None
    return value if isinstance(value, int) and value > 0 else 0


def _is_short(facts: object, reach: float, limits: Limits) -> bool:
    length = _length(facts)
    return not length or bool(reach <= limits.reach * length)
