"""What gradmend itself did to a training: edits when they were made, controls when they act.

A control keeps what it remembers in its optimizer (:mod:`gradmend.controls.control`), so that
reading a few numbers there after each step is all that is needed, and nothing of it is changed.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim import Optimizer

from gradmend.controls.control import KEY
from gradmend.records.history import Event
from gradmend.records.prescription import Prescription

QUIET = 100
"""Steps without acting after which a control that acts again is told of once more (our choice)."""
MOST_TOLD = 32
"""Events of one control; a scale that goes up and down for days needs no more to be seen."""
MOST_EDITS, MOST_TARGETS = 16, 3
"""That an event names."""

_COUNTED = {"clipped": "scales the gradient", "skipped": "leaves out a step that is not finite"}
"""What a control counts, and what it does then."""


@dataclass(slots=True)
class _Seen:
    """One control of one optimizer, as it was after the last step."""

    memory: Mapping[str, Any]
    heard: int = -1
    """Step after which that was."""
    acted: dict[str, int] = field(default_factory=dict)
    """Step at which each counter last grew."""
    over: bool = False
    """A warm-up that has reached the full rate."""


class Interventions:
    """Tells a run's record of edits and of controls that act.

    Args:
        tell: Gets the events.
        step: The step that is going on.
        follows: Whether a model is one of those watched.
    """

    def __init__(
        self,
        tell: Callable[[Event], None],
        step: Callable[[], int],
        follows: Callable[[nn.Module], bool] = lambda model: True,
    ) -> None:
        self._tell, self._step, self._follows = tell, step, follows
        self._seen: WeakKeyDictionary[Optimizer, dict[str, _Seen]] = WeakKeyDictionary()
        self._told: Counter[str] = Counter()

    def open(self) -> None:
        """Hear of what :func:`gradmend.apply` does in this process."""
        _open.add(self)

    def close(self) -> None:
        """Hear no more."""
        _open.discard(self)

    def applied(
        self, prescription: Prescription, model: str, optimizer: str, notes: Sequence[str] = ()
    ) -> None:
        """A model has got a prescription's edits."""
        edits = prescription.edits
        count = f"{len(edits)} edit" + ("" if len(edits) == 1 else "s")
        what = ", ".join(prescription.remedies) or count
        to = f"{model} and its {optimizer}" if optimizer else model
        facts = {
            "model": model,
            "remedies": list(prescription.remedies),
            "count": len(edits),
            "edits": [
                {
                    "kind": edit.kind,
                    "targets": list(edit.targets[:MOST_TARGETS]),
                    "of": len(edit.targets),
                }
                for edit in edits[:MOST_EDITS]
            ],
            "notes": list(notes),
        }
        self._event("applied", f"{what} applied to {to}", facts)

    def stepped(self, optimizer: Optimizer, name: str) -> None:
        """An optimizer has taken a step: which of its controls has begun to act?

        Args:
            optimizer: Which.
            name: What it is called where it is one of several; else empty.
        """
        kept = optimizer.param_groups[0].get(KEY) if optimizer.param_groups else None
        if not kept:
            return
        seen = self._seen.setdefault(optimizer, {})
        for control, memory in kept.items():
            before, step = seen.get(control), self._step()
            if before is None:
                before = seen[control] = _Seen(_beginning(memory), heard=step - 1)
            unheard = step - before.heard > 1
            when = f" (between steps {before.heard + 1:,} and {step:,})" if unheard else ""
            for what in self._news(control, before, memory):
                whose = f"{control} of {name}" if name else control
                self._event(f"{name} {control}", f"{whose} {what}{when}", {"control": control})
            before.memory, before.heard = memory, step

    def _news(self, control: str, seen: _Seen, now: Mapping[str, Any]) -> Iterator[str]:
        step, before = self._step(), seen.memory
        for counter, does in _COUNTED.items():
            if now.get(counter, 0) <= before.get(counter, 0):
                continue
            last = seen.acted.get(counter)
            seen.acted[counter] = step
            if last is None:
                yield f"{does} for the first time"
            elif step - last > QUIET:
                yield f"{does} again, after {step - last:,} steps"
        if control == "warm-up" and not seen.over and now.get("steps") == before.get("steps"):
            seen.over = True
            yield f"is over after {now.get('steps', 0):,} steps: the full rate from here on"
        if "scale" in before and now.get("scale") != before["scale"]:
            yield f"goes from {before['scale']:g} to {now.get('scale', 0):g}"

    def _event(self, whose: str, text: str, facts: Mapping[str, Any]) -> None:
        self._told[whose] += 1
        if self._told[whose] > MOST_TOLD:
            return
        if self._told[whose] == MOST_TOLD:
            text += "; what it does from here on is not told"
        self._tell(Event(step=self._step(), kind="intervention", text=text, facts=facts))


_open: weakref.WeakSet[Interventions] = weakref.WeakSet()


def tell_applied(prescription: Prescription, model: nn.Module, optimizer: Optimizer | None) -> None:
    """Tell whoever watches a model that it was edited."""
    for each in list(_open):
        if each._follows(model):
            whose = type(optimizer).__name__ if optimizer is not None else ""
            each.applied(prescription, type(model).__name__, whose)


def _beginning(memory: Mapping[str, Any]) -> dict[str, Any]:
    """What a control remembered before the first step that was heard.

    Where it has counted more than one step, from a checkpoint or from a time when nobody watched,
    what it did then is not of this run.
    """
    if memory.get("steps", 0) + memory.get("skipped", 0) > 1:
        return dict(memory) | {"steps": memory.get("steps", 0) - 1}
    return {key: memory[key] for key in ("scale",) if key in memory}
