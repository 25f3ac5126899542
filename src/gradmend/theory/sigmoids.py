"""Which sigmoids can be trained in other coordinates and folded back afterwards."""

from __future__ import annotations

from collections import Counter

from gradmend.records.trace import Operation, Trace


def times_called(trace: Trace) -> Counter[str]:
    """How often each activation's and layer's module is called; once for all, for deep nets."""
    return Counter(op.module for op in (*trace.activations, *trace.weights))


def neighbours(
    trace: Trace, op: Operation, uses: Counter[str]
) -> tuple[Operation | None, list[Operation]]:
    """The plain linear layers in front of and behind a sigmoid, if it is alone between them."""
    if op.activation is None or not op.activation.replaceable or len(op.upstream) != 1:
        return None, []
    feed = trace.operations[op.upstream[0]]
    behind = foldable_readers(trace, op, uses)
    alone = uses[op.module] == 1
    only_reader = trace.readers.get(feed.id, ()) == (op.id,)
    ok = alone and _is_plain(feed, uses) and only_reader and bool(behind)
    return (feed, behind) if ok else (None, [])


def foldable_readers(trace: Trace, op: Operation, uses: Counter[str]) -> list[Operation]:
    """The plain linear layers that alone read a sigmoid's output; none if anything else does."""
    readers = [trace.operations[number] for number in trace.readers.get(op.id, ())]
    fit = all(_is_plain(layer, uses) and layer.upstream == (op.id,) for layer in readers)
    return readers if fit else []


def _is_plain(op: Operation, uses: Counter[str]) -> bool:
    facts = op.weights
    if facts is None or facts.kind != "linear" or not facts.module_is_plain:
        return False
    return facts.trainable and facts.bias is not None and uses[op.module] == 1
