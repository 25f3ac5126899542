"""Residual branches as the graph shows them: what is added to a stream that all gradient passes."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

from gradmend.records.trace import Operation, Trace

TRUNK = 0.99
"""Share of the gradient from which an operation lies on the stream (as residual-growth has it)."""


@dataclass(frozen=True, slots=True)
class SummedBranch:
    """One residual branch."""

    sum: Operation
    """Where it joins the stream."""
    weights: tuple[Operation, ...]
    """Its linear maps, in forward order."""
    norm: str = ""
    """The module of the norm that it ends in, behind its last linear map; empty where in none."""


def residual_branches(trace: Trace) -> list[SummedBranch]:
    """Branches that join on the trunk, in forward order; of two ways the one with more maps."""
    found = []
    for op in trace.operations:
        if op.name not in ("add", "add_") or len(op.upstream) != 2 or op.share <= TRUNK:
            continue
        left, right = _ways(trace, op.upstream[0], op.upstream[1])
        longer = max((left, right), key=lambda way: (len(_maps(trace, way)), max(way, default=-1)))
        maps = _maps(trace, longer)
        if maps and len(maps) > min(len(_maps(trace, way)) for way in (left, right)):
            behind = [trace.operations[at] for at in sorted(longer) if at > maps[-1].id]
            norms = [o.module for o in behind if o.cause == "normalisation"]
            found.append(SummedBranch(op, tuple(maps), norms[-1] if norms else ""))
    return found


def sole_parameters(trace: Trace) -> set[str]:
    """Trainable weights that one operation reads."""
    uses = Counter(op.weights.parameter for op in trace.weights if op.weights is not None)
    return {
        op.weights.parameter
        for op in trace.weights
        if op.weights is not None and op.weights.trainable and uses[op.weights.parameter] == 1
    }


def _ways(trace: Trace, a: int, b: int) -> tuple[set[int], set[int]]:
    """What lies on either way back, up to where the two come from one operation."""
    seen = {a: 1, b: 2} if a != b else {a: 3}
    heap = [-a, -b]
    ways: tuple[set[int], set[int]] = (set(), set())
    while heap:
        at = -heapq.heappop(heap)
        while heap and -heap[0] == at:
            heapq.heappop(heap)
        if seen[at] == 3:
            break
        ways[seen[at] - 1].add(at)
        for source in trace.operations[at].upstream:
            seen[source] = seen.get(source, 0) | seen[at]
            heapq.heappush(heap, -source)
    return ways


def _maps(trace: Trace, way: set[int]) -> list[Operation]:
    return [trace.operations[at] for at in sorted(way) if trace.operations[at].weights is not None]
