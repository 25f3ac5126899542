"""Where the branches of a residual network end: the last parameters that set a branch's size."""

from __future__ import annotations

from dataclasses import dataclass

from gradmend.records.trace import Operation, Trace
from gradmend.theory.wrappable import WHOLE

_FAR = 400
"""Operations that are followed back from a sum to where its branch began: a block has dozens."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one branch."""

    total: int
    """Id of the sum that it is added in."""
    parameters: tuple[str, ...]
    """Weight and bias (of a layer or of a norm) that the branch is proportional to."""
    module: str
    """What holds them."""
    plain: bool
    """Whether that is a module whose answer can be multiplied."""
    exact: bool
    """Whether the branch is exactly proportional: no bent activation stands behind."""


def branch_endings(trace: Trace) -> tuple[Ending, ...]:
    """Of all sums on the stream whose skip and branch can be told apart."""
    found: dict[str, Ending] = {}
    trainable = {p.name for p in trace.parameters if p.trainable}
    for op in trace.operations:
        if not is_stream_sum(op):
            continue
        branch = _branch(trace, op)
        ending = None if branch is None else _ending(trace, op, branch)
        if ending is not None and ending.parameters[0] in trainable:
            found.setdefault(ending.parameters[0], ending)
    return tuple(found.values())


def is_stream_sum(op: Operation) -> bool:
    """Whether an operation adds two tensors and all of the gradient passes it."""
    return op.name in ("add", "add_", "sub") and len(op.upstream) == 2 and op.share > WHOLE


def _branch(trace: Trace, total: Operation) -> Operation | None:
    """The one of two summands that was computed from the other."""
    one, other = (trace.operations[at] for at in total.upstream)
    if _reaches(trace, one, other.id):
        return one
    return other if _reaches(trace, other, one.id) else None


def _reaches(trace: Trace, op: Operation, goal: int) -> bool:
    todo, seen = [op.id], {op.id}
    while todo and len(seen) < _FAR:
        at = todo.pop()
        if at == goal:
            return True
        # Operations are in forward order: what was before the goal cannot come of it.
        onward = {up for up in trace.operations[at].upstream if up >= goal} - seen
        seen |= onward
        todo.extend(onward)
    return False


def _ending(trace: Trace, total: Operation, op: Operation) -> Ending | None:
    exact = True
    for _ in range(8):
        if op.weights is not None:
            facts = op.weights
            names = (facts.parameter, *((facts.bias,) if facts.bias else ()))
            plain = facts.module_is_plain or _is_attention(trace, op.module, facts.parameter)
            return Ending(total.id, names, op.module, plain, exact)
        if op.cause == "normalisation":
            module = trace.module_at.get(op.module)
            if module is None or not module.parameters:
                return None
            return Ending(total.id, module.parameters, op.module, module.calls == 1, exact)
        if op.activation is not None:
            exact = exact and op.activation.function in ("relu", "leaky_relu")
        if len(op.upstream) != 1:
            return None
        op = trace.operations[op.upstream[0]]
    return None


def _is_attention(trace: Trace, path: str, parameter: str) -> bool:
    """Whether a branch is what torch's own attention answers first, by its last projection.

    Inside of torch's own transformer layers it is not: in inference those read its weights.
    """
    module, holder = trace.module_at.get(path), trace.module_at.get(path.rpartition(".")[0])
    return (
        module is not None
        and (holder is None or "norm_first" not in holder.settings)
        and module.kind == "MultiheadAttention"
        and module.standard
        and module.calls == module.uses == 1
        and parameter == f"{path}.out_proj.weight"
    )
