"""REC201: a recurrent state that is cut off at every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import lasting_events


@dataclass(frozen=True)
class Limits:
    """When backpropagation through time is cut off."""

    calls: float = limit(
        2.0,
        unit="calls",
        source="a state carried over from the batch before has no history at the first call: one "
        "such call is usual, two in one pass are not",
    )


@rule(
    code="REC201",
    limits=Limits,
    fires_on=[
        Case.of("cell_loop", detach="every"),
        Case.of("cell_loop", detach="every", carry=True),
    ],
    silent_on=[
        Case.of("cell_loop"),
        Case.of("cell_loop", carry=True),
        Case.of("cell_loop", detach="half"),
    ],
)
def truncated_backpropagation(history: History, limits: Limits) -> Iterator[Finding]:
    """Recurrent cell whose state is detached at every time step.

    What it finds:
        A recurrent cell called in a loop, with a state without history at each call but perhaps
        the first.

    Why it matters:
        No gradient goes back in time: the cell learns from the present input alone, whatever the
        length of the sequence. It looks like a gradient that vanishes through time.

    How it is measured:
        Whether the state handed to the cell needs a gradient, at each call of a training pass.

    Silent when:
        Some states have a history (truncation over several steps); only the first call's has
        none (a state carried over from the batch before).

    References:
        Williams and Peng 1990 (truncated backpropagation through time).
    """
    cut = lasting_events(history, "cells", lambda event: _is_cut(event, limits.calls))
    for where, event in cut.items():
        if event is None:
            continue
        calls, detached = _counts(event)
        yield Finding(
            code="REC201",
            name="truncated-backpropagation",
            severity=Severity.WARNING,
            modules=(where,),
            summary=(
                f"{where} is called {calls} times in a row, and {detached} of the states it gets"
                " are detached: nothing is learned through time; detach between batches only"
            ),
            evidence=(
                Evidence(
                    quantity="calls with a detached state",
                    observed=float(detached),
                    limit=limits.calls,
                    unit="calls",
                    module=where,
                    step=event.step,
                ),
            ),
            weight=100.0,
            explains=("gradient-lost-through-time", "loss-plateau"),
            exculpation="states that carry a gradient from one call to the next",
        )


def _counts(event: Event) -> tuple[int, int]:
    return int(event.facts.get("calls") or 0), int(event.facts.get("detached") or 0)


def _is_cut(event: Event, limit: float) -> bool:
    calls, detached = _counts(event)
    return calls >= 2 and detached >= max(calls - 1, limit)
