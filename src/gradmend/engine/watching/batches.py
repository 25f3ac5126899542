"""What a training is fed: inputs and targets of the step that is going on."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gradmend.engine.watching.calls import HeldCall
from gradmend.engine.watching.record import Record
from gradmend.probe.capture import tensors_in
from gradmend.probe.loss_again import Again, again
from gradmend.probe.loss_calls import arguments, is_bad_data, measured, whole_of
from gradmend.probe.observed_facts import input_facts
from gradmend.records.history import Event
from gradmend.records.loss_call import LossCall

MOST_LOSSES = 8
"""Loss calls that are looked at in one step."""
MOST_TOLD = 3
"""Times that a loss's batch is told; then only when its kind changes, or something jumps."""
MOST_JUMPS = 16
"""Batches that are told because something jumped."""
JUMP = 6.0
"""Standard deviations of a log10 from its own recent mean that call for a closer look."""


@dataclass(slots=True)
class HeardLoss:
    """One call of a loss function; what the model put out is not kept alive."""

    name: str
    prediction: weakref.ref[Tensor] | None
    target: Tensor
    settings: dict[str, Any]
    call: LossCall | None = None
    again: Again | None = None
    """Makes the call on another prediction."""

    @classmethod
    def of(cls, name: str, args: Any, kwargs: Any, *, measure: bool) -> HeardLoss | None:
        """Hear a call; ``None`` where it compares no output with data."""
        given = arguments(name, args, kwargs)
        if given is None:
            return None
        prediction, target, named = given
        settings = {key: value for key, value in named.items() if not isinstance(value, Tensor)}
        if named.get("weight") is not None:
            settings["weight"] = True
        target = whole_of(target)
        call = measured(name, prediction, target, settings) if measure else None
        known = None if prediction is None else weakref.ref(whole_of(prediction))
        return cls(name, known, target, settings, call, again(name, args, kwargs, prediction))

    def look(self) -> LossCall:
        """Its facts; of what the model put out, if that is still there."""
        if self.call is None:
            prediction = None if self.prediction is None else self.prediction()
            self.call = measured(self.name, prediction, self.target, self.settings)
        return self.call


class Batches:
    """Tells of targets now and then, and of a whole batch where something jumps."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._said: dict[str, tuple[int, Any]] = {}
        self._jumps = 0

    def losses(self, step: int, heard: list[HeardLoss], *, why: str = "") -> None:
        """Tell of a step's loss calls; all that are known where there is a reason."""
        counts: dict[str, int] = {}
        for each in heard:
            number = counts[each.name] = counts.get(each.name, -1) + 1
            call = each.look() if why else each.call
            if call is None:
                continue
            where = f"{each.name}.{number}" if number else each.name
            target = call.target
            kind = (target.dtype, target.constant, target.whole)
            times, before = self._said.get(where, (0, None))
            if why or times < MOST_TOLD or kind != before:
                if not why:
                    self._said[where] = (times + 1, kind)
                facts = call.to_facts() | ({"why": why} if why else {})
                self.record.event(Event(step=step, kind="loss-call", where=where, facts=facts))

    def jumped(self, step: int, calls: list[HeldCall], heard: list[HeardLoss]) -> None:
        """Tell of the batch of a step in which a loss or a gradient jumped."""
        self._jumps += 1
        if self._jumps > MOST_JUMPS:
            return
        for name, tensor in _fed(calls):
            facts = input_facts(name, tensor) | {"why": "jump"}
            self.record.event(Event(step=step, kind="input", where=name, facts=facts))
        self.losses(step, heard, why="jump")


def bad_data(calls: list[HeldCall], heard: list[HeardLoss]) -> list[dict[str, Any]]:
    """Inputs and targets of a step that hold NaN or infinity, each with ``what`` and ``bad``."""
    found = []
    for name, tensor in _fed(calls):
        bad = is_bad_data(tensor)
        if bad:
            found.append({"what": f"input {name}", "shape": list(tensor.shape), "bad": bad})
    for each in heard:
        bad = is_bad_data(each.target)
        if bad:
            what = f"target of {each.name}"
            found.append({"what": what, "shape": list(each.target.shape), "bad": bad})
    return found


def _fed(calls: list[HeldCall]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that root modules were called with, by the names that input events have."""
    for call in calls[-MOST_LOSSES:]:
        for name, value in (*enumerate(call.args), *call.kwargs.items()):
            for number, tensor in enumerate(tensors_in(value)):
                if not tensor.requires_grad and not call.is_fed(tensor, calls):
                    yield (f"{name}" if not number else f"{name}.{number}"), tensor


@dataclass(frozen=True, slots=True)
class Level:
    """Where a logarithm has been of late, to notice when it jumps."""

    mean: float = 0.0
    variance: float = 0.0
    count: int = 0

    def jumps(self, value: float) -> bool:
        """Whether a value lies far from the others."""
        return self.count > 20 and abs(value - self.mean) > JUMP * max(
            math.sqrt(self.variance), 0.05
        )

    def with_value(self, value: float) -> Level:
        """The level with one more."""
        rate = max(0.02, 1.0 / (self.count + 1))
        change = value - self.mean
        return replace(
            self,
            mean=self.mean + rate * change,
            variance=(1 - rate) * (self.variance + rate * change * change),
            count=self.count + 1,
        )
