"""What happened in a run, as marks on a figure's steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gradmend.records.history import Event, Floats, Steps
from gradmend.renderers import numbers
from gradmend.renderers.page.figure import Mark
from gradmend.store.keeping import both_ends

MOST = 200
"""Marks of a figure; more are a carpet."""
MOST_TEXT = 200
SPIKES = frozenset({"loss-spike", "update-norm-spike"})
"""Findings that are a moment and no state."""
_KINDS = {
    "crash": "crash",
    "stopped": "stopped",
    "non-finite": "non-finite",
    "intervention": "intervention",
    "finding-begins": "finding",
    "finding-clears": "cleared",
    "look": "look",
}
"""Kinds of events that are marked, the gravest first."""
KINDS_OF_HEAT = tuple(kind for kind in _KINDS if kind != "look")
KINDS = tuple(_KINDS)
_WEIGHT = ("crash", "stopped", "non-finite", "intervention", "spike", "finding", "skipped",
           "cleared", "look")  # fmt: skip


def of_events(events: Iterable[Event], *, looks: bool = True) -> list[Mark]:
    """Marks of what was told, in the order of steps.

    Args:
        events: Of a run.
        looks: Whether full looks are marked too.
    """
    wanted = [event for event in events if event.kind in _KINDS and (looks or event.kind != "look")]
    marks = [
        Mark(
            x=float(event.step),
            kind="spike" if _spike(event) else _KINDS[event.kind],
            text=_words(event),
            layer=event.where or None,
        )
        for event in both_ends(wanted)
    ]
    return fewest(marks)


def of_skipped(steps: Steps, shares: Floats) -> list[Mark]:
    """Steps that the scaler left out: one mark for each run of neighbouring points.

    Args:
        steps: Shape [points].
        shares: Share of the steps of each point that was left out; NaN where unknown.
    """
    out = np.nan_to_num(shares) > 0
    edges = np.flatnonzero(np.diff(out.astype(int), prepend=0, append=0))
    marks = []
    for begin, end in edges.reshape(-1, 2):
        first, last = int(steps[begin]), int(steps[end - 1])
        words = f"step {first:,} skipped" if first == last else f"steps {first:,} to {last:,}"
        if first != last:
            share = float(np.mean(shares[begin:end]))
            words += ": skipped" if share == 1 else f": {numbers.percent(share)} skipped"
        marks.append(Mark(x=float(first), kind="skipped", text=words))
    return marks


def fewest(marks: Sequence[Mark], most: int = MOST) -> list[Mark]:
    """At most so many, the gravest kinds first; of a kind too many, the first and last ones."""
    kept: list[Mark] = []
    for kind in _WEIGHT:
        mine = [mark for mark in marks if mark.kind == kind]
        room = most - len(kept)
        if len(mine) > room:
            half = room // 2
            mine = mine[: room - half] + mine[len(mine) - half :]
        kept += mine
    return sorted(kept, key=lambda mark: mark.x)


def _spike(event: Event) -> bool:
    return event.kind == "finding-begins" and event.facts.get("name") in SPIKES


def _words(event: Event) -> str:
    facts = event.facts
    name = str(facts.get("name") or facts.get("code") or "a finding")
    if event.kind == "finding-begins":
        words = f"{name}: {event.text}" if event.text else name
    elif event.kind == "finding-clears":
        words = f"{name} has cleared"
    elif event.kind == "non-finite":
        told = " ".join(str(facts.get(key) or "") for key in ("direction", "operation"))
        words = f"a value that is not finite: {told.strip() or event.text}".rstrip(": ")
    elif event.kind == "look":
        listed = facts.get("findings")
        count = len(listed) if isinstance(listed, list) else 0
        words = f"a full look: {numbers.count(count, 'finding') if count else 'nothing found'}"
    elif event.kind == "intervention":
        words = event.text or "an intervention"
    else:
        words = f"{event.kind}: {event.text}" if event.text else event.kind
    return words if len(words) <= MOST_TEXT else words[: MOST_TEXT - 3] + "..."
