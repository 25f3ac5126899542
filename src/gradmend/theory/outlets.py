"""The last operations of a model, and where an edit could take hold of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gradmend.records.trace import Operation, Trace
from gradmend.theory.loss_tail import JOINS, REARRANGES

SOFTMAX = ("softmax", "_softmax")


@dataclass(frozen=True, slots=True)
class Outlet:
    """An operation between a model's last layer and its loss."""

    op: Operation
    module: str | None = None
    """Path of the standard module that is nothing but this operation, and can be replaced."""
    behind: str | None = None
    """Path of the module whose output it makes, where it is called as a function: something can
    be put behind that. Empty for the model itself."""

    @property
    def in_loss(self) -> bool:
        """Whether it ran outside of the model."""
        return not self.op.inside


def outlet(trace: Trace, names: Collection[str]) -> Outlet | None:
    """The last operation of these names behind the last linear map, if there is one."""
    last = max((op.id for op in trace.weights), default=-1)
    found = [op for op in trace.operations if op.id > last and op.name in names]
    return _placed(trace, found[-1]) if found else None


def module_of(trace: Trace, op: Operation) -> str | None:
    """Path of the standard module that is nothing but an operation, used and called once."""
    facts = trace.module_at.get(op.module) if op.module else None
    if facts is None or not facts.standard or facts.uses != 1:
        return None
    alone = sum(1 for other in trace.operations if other.module == op.module) == 1
    spelt = facts.kind.lower() == op.name.replace("_", "")
    return op.module if alone and spelt else None


def behind(trace: Trace, op: Operation) -> str | None:
    """Path of the module whose output an operation makes; ``None`` where nothing can be put."""
    return _placed(trace, op).behind


def _placed(trace: Trace, op: Operation) -> Outlet:
    own = module_of(trace, op)
    if own is not None or not op.inside:
        return Outlet(op, module=own)
    last = _handed_on(trace, op)
    if last is None:
        return Outlet(op)
    prefix = f"{last.module}." if last.module else ""
    held = [o for o in trace.operations if o.inside and (o.module == last.module or
            o.module.startswith(prefix))]  # fmt: skip
    facts = trace.module_at.get(last.module)
    once = all(o.call == 0 for o in held if o.module == last.module)
    if held[-1] is not last or not once or facts is None or facts.uses != 1:
        return Outlet(op)
    return Outlet(op, behind=last.module)


def _handed_on(trace: Trace, op: Operation) -> Operation | None:
    """The last operation inside the model that hands on the operation's numbers and no others.

    The operation itself where nothing inside reads it; else what rearranges it, or joins it with
    others of its kind, as a decoder does with its steps. ``None`` where something else reads it.
    """
    last = op
    while True:
        readers = [trace.operations[at] for at in trace.readers.get(last.id, ())]
        inside = [reader for reader in readers if reader.inside]
        if not inside:
            return last
        if len(inside) > 1 or not _only_moves(trace, inside[0], op.name):
            return None
        last = inside[0]


def _only_moves(trace: Trace, op: Operation, name: str) -> bool:
    """Whether an operation does nothing but put together what operations of a name have made."""
    if op.name not in REARRANGES | JOINS:
        return False
    sources = [trace.operations[at] for at in op.upstream]
    return all(each.name == name or _only_moves(trace, each, name) for each in sources)


def output_place(trace: Trace) -> str:
    """Path of the module behind which something can be put that acts on the model's output.

    The module that made the last number, where that is a standard layer used once; else the model
    itself, whose path is empty.
    """
    inside = [op for op in trace.operations if op.inside]
    if not inside:
        return ""
    last = inside[-1]
    facts = trace.module_at.get(last.module)
    alone = sum(1 for op in trace.operations if op.module == last.module) == 1
    return last.module if facts and facts.standard and facts.uses == 1 and alone else ""


def classes_of(trace: Trace) -> int | None:
    """Classes of the one cross entropy of a look."""
    calls = [c for c in trace.losses if c.function in ("cross_entropy", "nll_loss")]
    shape = calls[0].prediction.shape if len(calls) == 1 and calls[0].prediction else ()
    return shape[1] if len(shape) > 1 else None


def trained(trace: Trace) -> bool:
    """Whether the model has been trained before: its function is worth keeping."""
    return trace.optimizer is not None and trace.optimizer.steps_taken
