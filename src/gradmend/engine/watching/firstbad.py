"""The first value that is not finite: which module and operation made it, and in which step.

When it is met, before the weights take it in, the calls of the step's root modules are made once
more on copies (:meth:`HeldCall.first_bad`) with their batch, random state and weights. What lies
outside modules cannot be run again; then the graph between outputs and loss is read
(:mod:`gradmend.probe.autopsy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.engine.watching.calls import HeldCall
from gradmend.engine.watching.record import Record
from gradmend.probe.autopsy import backward_fault, forward_fault
from gradmend.probe.lines import line_in, users_frame
from gradmend.probe.operands import kind_of
from gradmend.probe.source import calling_line
from gradmend.probe.wiring import loss_graph
from gradmend.records.badvalue import BadValue
from gradmend.records.codec import to_plain
from gradmend.records.history import Column, Event

MOST_REPLAYS = 3
"""Replays of a run: a training that meets NaN again and again is not slowed down by it."""
_BENIGN = frozenset({"view", "reshape", "transpose", "squeeze", "unsqueeze", "to_copy", "alias"})


class FirstBad:
    """Notices the first non-finite loss or gradient, and finds where it came from.

    Args:
        record: Where the event goes.
        module_of: Names the module of the parameter of an ``id``.
        path_of: Names a module by its root and its path inside.
    """

    def __init__(
        self,
        record: Record,
        module_of: Callable[[int], str | None] = lambda identity: None,
        path_of: Callable[[nn.Module, str], str] = lambda root, inside: inside,
    ) -> None:
        self.record = record
        self.fresh = False
        """Whether this step has met a non-finite value that is not looked into yet."""
        self.last_good = -1
        self.first: Event | None = None
        self._module_of, self._path_of = module_of, path_of
        self._replays = 0
        self._bad_now = False
        self._was_bad = False
        self._loss: float | None = None
        self._line: str | None = None
        self._tail = ""
        self._seen: BadValue | None = None
        self._root: Any = None
        self._columns: list[Column] = []

    @property
    def is_bad(self) -> bool:
        """Whether the last step had a value that is not finite."""
        return self._was_bad

    def begins(self, losses: tuple[Tensor, ...]) -> None:
        """A backward pass begins. Its graph is kept until the step is over, without its tensors:
        the pass lets go of those.
        """  # noqa: D205
        self._root = losses[0].grad_fn if losses else None

    def loss(self, value: float, loss: Tensor, calls: Sequence[HeldCall]) -> None:
        """A loss that is not finite was handed to backward; its graph is still whole."""
        self._bad_now = True
        self.fresh = not self._was_bad
        self._loss = value
        if not self.fresh or self._replays >= MOST_REPLAYS:
            return
        frame = users_frame()
        self._line = calling_line()
        graph = loss_graph(loss)
        named = [row["op"] for row in graph.tail if row["op"] not in _BENIGN] if graph else []
        self._tail = " <- ".join(named[:6])
        found = forward_fault(loss.grad_fn, _ends(calls), self._module_of)
        self._seen = found and replace(found, source=line_in(frame, found.operation))

    def gradient(self, columns: list[Column]) -> None:
        """Gradients of these parameters are not finite."""
        self._bad_now = True
        self.fresh = not self._was_bad
        self._columns = columns

    def passed(self, step: int) -> None:
        """A step is over."""
        if not self._bad_now:
            self.last_good = step
        self._was_bad, self._bad_now, self.fresh = self._bad_now, False, False
        self._loss, self._line, self._tail, self._seen, self._root = None, None, "", None, None
        self._columns = []

    def find(
        self, step: int, calls: list[HeldCall], data: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Run the step's calls again and write down where the first bad value came from.

        Args:
            step: The iteration.
            calls: Of its root modules.
            data: Its inputs and targets that hold bad values themselves.
        """
        self.fresh, self._was_bad = False, True
        direction = "backward" if self._loss is None else "loss"
        facts: dict[str, Any] = {"last_good": self.last_good, "replayed": False}
        if self._loss is not None:
            facts["loss"] = str(self._loss)
            facts["line"] = self._line
        if data:
            facts["data"] = [dict(each) for each in data]
        facts["batch"] = next((call.shape for call in calls if call.shape), None)
        bad = self._guilty(calls, facts) if self._replays < MOST_REPLAYS else None
        self._replays += 1
        where, text = "", ""
        if bad is not None:
            direction = "loss" if bad.direction == "forward" and not bad.inside else bad.direction
            where = next(iter(bad.modules), "")
            name = f"the weights {bad.operation}" if direction == "weights" else bad.operation
            facts |= {"operation": name, "source": bad.source, "bad": to_plain(bad)}
        else:
            where, text = self._from_the_graph(facts, direction)
        facts["direction"] = direction
        event = Event(step=step, kind="non-finite", where=where, text=text, facts=facts)
        self.first = self.first or event
        self.record.event(event)

    def _guilty(self, calls: list[HeldCall], facts: dict[str, Any]) -> BadValue | None:
        """From the weights, the replayed calls, or the graph of the loss."""
        sick = _sick_weights(calls)
        if sick is not None:
            return sick
        for call in calls:
            why = call.why_not()
            if why is None:
                try:
                    found = call.first_bad()
                    facts["replayed"] = True
                except Exception as error:  # the user's forward, run outside its own loop
                    found = None
                    why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            else:
                found = None
            if why is not None:
                facts.setdefault("why", why)
            # What our own stand-in for the loss did is nobody's fault.
            if found is not None and found.inside and (root := call.root()) is not None:
                return replace(
                    found,
                    module=self._path_of(root, found.module) if found.module else "",
                    near=self._path_of(root, found.near) if found.near else "",
                )
        if self._loss is not None:
            return self._seen
        found = backward_fault(self._root, _ends(calls), self._module_of)
        return found and replace(found, source=line_in(users_frame(), found.operation))

    def _from_the_graph(self, facts: dict[str, Any], direction: str) -> tuple[str, str]:
        if self._loss is not None:
            facts["operation"] = self._tail
            return "", "the model's own outputs are finite: it is in the loss"
        facts["parameters"] = [column.name for column in self._columns[-8:]]
        if direction == "backward" and self._columns:
            # Backward runs from the last to the first: the last bad one is the first to go bad.
            last = max(self._columns, key=lambda column: column.order)
            return last.module, "first bad gradient in backward order"
        return "", ""


def _ends(calls: Sequence[HeldCall]) -> frozenset[int]:
    return frozenset().union(*(call.ends for call in calls))


def _sick_weights(calls: list[HeldCall]) -> BadValue | None:
    """The first parameter that holds NaN or infinity before the step."""
    for call in calls:
        root = call.root()
        for name, parameter in root.named_parameters() if root is not None else ():
            with torch.no_grad():
                kind = kind_of(parameter.detach())
            if kind:
                module = name.rpartition(".")[0]
                return BadValue(direction="weights", operation=name, module=module, value=kind)
    return None
