"""Modules that one forward pass calls again and again: the gradient from call to call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.history import Floats
from gradmend.records.trace import Operation, Trace

FEWEST_CALLS = 8
"""Calls in a row below which nothing is said about time."""
MONOTONE = 0.9
"""Share of neighbouring calls between which the gradient must change in one direction: calls that
do not feed each other (twins, heads) have no direction."""

ZERO = -400.0
"""Decades that stand for a gradient of exactly zero, so that slopes stay finite."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """The gradient at each call of a module, in forward order."""

    module: str
    source: str | None
    log10_grad: Floats
    """log10 |dL/d(output)| by call."""

    @property
    def span(self) -> float:
        """Decades at the first call less those at the last."""
        return float(self.log10_grad[0] - self.log10_grad[-1])

    @property
    def per_call(self) -> float:
        """Decades from one call back to the one before."""
        return self.span / (len(self.log10_grad) - 1)

    @property
    def horizon(self) -> float:
        """Calls back until 1/e is left; infinite where nothing is lost."""
        return -math.log10(math.e) / self.per_call if self.per_call < 0 else math.inf


def repeated_modules(trace: Trace, monotone: float = MONOTONE) -> Iterator[Repeated]:
    """Modules with weights, called often, whose gradient runs in one direction through the calls.

    A fused recurrent layer (``nn.LSTM``) is one call; :mod:`gradmend.probe.through_time` keeps
    the books of those.

    Args:
        trace: One look.
        monotone: Share of neighbouring calls between which it must change in one direction.
    """
    last: dict[str, dict[int, Operation]] = {}
    for op in trace.operations:
        if op.weights is not None or op.cause == "recurrence":
            last.setdefault(op.module, {})[op.call] = op
    for module, calls in last.items():
        if len(calls) < FEWEST_CALLS:
            continue
        ops = [calls[call] for call in sorted(calls)]
        if not _feeds(trace, ops[-2], ops[-1]):
            continue
        sizes = np.array([math.nan if op.log10_grad is None else op.log10_grad for op in ops])
        sizes = sizes[~np.isnan(sizes)]
        if len(sizes) < FEWEST_CALLS:
            continue
        sizes = np.where(np.isneginf(sizes), ZERO, sizes)
        steps = np.diff(sizes)
        if not steps.size or max(np.mean(steps > 0), np.mean(steps < 0)) < monotone:
            continue
        yield Repeated(module=module, source=ops[0].source, log10_grad=sizes)


def _feeds(trace: Trace, earlier: Operation, later: Operation, most: int = 400) -> bool:
    """Whether a call reads what the call before made: a layer that reads the input does not."""
    todo, seen = [later.id], {later.id}
    while todo and len(seen) < most:
        for at in trace.operations[todo.pop()].upstream:
            if at == earlier.id:
                return True
            if at > earlier.id and at not in seen:
                seen.add(at)
                todo.append(at)
    return False
