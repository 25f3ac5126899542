"""The first value that is not finite: which module and operation made it, and in which step.

When it is met, before the weights take it in, the calls of the step's root modules are made once
more on copies (:meth:`HeldCall.look_again`) with their batch, random state and weights. What lies
outside modules cannot be run again; then the operations between outputs and loss are named, from
the graph.
"""

from __future__ import annotations

from typing import Any

from gradmend.engine.watching.calls import HeldCall
from gradmend.engine.watching.record import Record
from gradmend.probe.wiring import LossGraph
from gradmend.records.history import Column, Event
from gradmend.records.trace import Trace

MOST_REPLAYS = 3
"""Replays of a run: a training that meets NaN again and again is not slowed down by it."""
_BENIGN = frozenset({"view", "reshape", "transpose", "squeeze", "unsqueeze", "to_copy", "alias"})


class FirstBad:
    """Notices the first non-finite loss or gradient, and finds where it came from."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.fresh = False
        """Whether this step has met a non-finite value that is not looked into yet."""
        self.last_good = -1
        self.first: Event | None = None
        self._replays = 0
        self._bad_now = False
        self._was_bad = False
        self._loss: tuple[float, LossGraph | None, str | None] | None = None
        self._columns: list[Column] = []

    @property
    def is_bad(self) -> bool:
        """Whether the last step had a value that is not finite."""
        return self._was_bad

    def loss(self, value: float, graph: LossGraph | None, line: str | None) -> None:
        """A loss that is not finite was handed to backward."""
        self._bad_now = True
        self.fresh = not self._was_bad
        self._loss = (value, graph, line)

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
        self._loss, self._columns = None, []

    def find(self, step: int, calls: list[HeldCall]) -> None:
        """Run the step's calls again and write down where the first bad value came from."""
        self.fresh, self._was_bad = False, True
        direction = "backward" if self._loss is None else "loss"
        facts: dict[str, Any] = {"last_good": self.last_good, "replayed": False}
        if self._loss is not None:
            facts["loss"] = str(self._loss[0])
            facts["line"] = self._loss[2]
        where, text = "", ""
        for call in calls if self._replays < MOST_REPLAYS else []:
            found = self._replay(call, step, facts)
            if found is None:
                continue
            direction, where, facts["operation"], facts["source"] = found
            if where or facts["operation"]:
                break
        self._replays += 1
        facts["batch"] = next((call.shape for call in calls if call.shape), None)
        if not facts.get("operation"):
            where, text = self._from_the_graph(facts, direction)
        facts["direction"] = direction
        event = Event(step=step, kind="non-finite", where=where, text=text, facts=facts)
        self.first = self.first or event
        self.record.event(event)

    def _replay(
        self, call: HeldCall, step: int, facts: dict[str, Any]
    ) -> tuple[str, str, str, str | None] | None:
        why = call.why_not()
        if why is None:
            try:
                trace = call.look_again(precision="native", step=step)
                facts["replayed"] = True
                return _guilty(trace)
            except Exception as error:  # the user's forward, run outside its own loop
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        facts.setdefault("why", why)
        return None

    def _from_the_graph(self, facts: dict[str, Any], direction: str) -> tuple[str, str]:
        if self._loss is not None:
            graph = self._loss[1]
            tail = [row["op"] for row in graph.tail] if graph else []
            named = [op for op in tail if op not in _BENIGN][:6]
            facts["operation"] = " <- ".join(named)
            return "", "the model's own outputs are finite: it is in the loss"
        facts["parameters"] = [column.name for column in self._columns[-8:]]
        if direction == "backward" and self._columns:
            # Backward runs from the last to the first: the last bad one is the first to go bad.
            last = max(self._columns, key=lambda column: column.order)
            return last.module, "first bad gradient in backward order"
        return "", ""


def _guilty(trace: Trace) -> tuple[str, str, str, str | None] | None:
    """(direction, module, operation, source) of the first bad value of a replay."""
    sick = [p for p in trace.parameters if p.stats.non_finite]
    if sick:
        return "weights", sick[0].module, f"the weights {sick[0].name}", None
    if trace.non_finite is not None and trace.non_finite != "loss":
        operation, _, module = trace.non_finite.partition(" in ")
        source = next((o.source for o in trace.operations if o.module == module), None)
        return "forward", module, operation, source
    ledger = trace.ledger
    if ledger is not None and ledger.blocked_by and any("not finite" in n for n in ledger.notes):
        module = ledger.blocked_by
        source = next((o.source for o in trace.operations if o.module == module), None)
        return "backward", module, ledger.blocked_operation or "", source
    return None
