"""Weight gains against what they should be, and whether what is too large shows behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.trace import ActivationFacts, Operation, Trace
from gradmend.theory.reference_gain import gain_range


def gains(trace: Trace, bare: float) -> Iterator[tuple[Operation, ActivationFacts | None, float]]:
    """Each linear map, the activation it feeds, and its gain over the largest sensible one."""
    for weights, act in trace.pairs():
        assert weights.weights is not None and act.activation is not None
        critical = gain_range(act.activation.function)
        if critical is not None and weights.share > 0:
            yield weights, act.activation, weights.weights.sigma_w / critical[1]
    paired = {weights.id for weights, _ in trace.pairs()}
    for op in trace.weights:  # what feeds no activation: a layer of logits, a projection
        on_the_trunk = op.id not in paired and op.share > 0.99
        if on_the_trunk and op.weights is not None and not _read_by_a_norm(trace, op):
            yield op, None, op.weights.sigma_w / bare


def _read_by_a_norm(trace: Trace, weights: Operation) -> bool:
    """Whether all that reads a layer normalises it, or whether an activation theory lacks does."""
    readers = [trace.operations[at] for at in trace.readers.get(weights.id, ())]
    return any(op.activation is not None or op.cause == "normalisation" for op in readers)


def taken_back(trace: Trace, weights: Operation) -> bool:
    """Whether a normalisation that all of the gradient passes stands behind a layer."""
    return any(
        op.cause == "normalisation" and op.share > 0.98 for op in trace.operations[weights.id :]
    )


def loudest(trace: Trace) -> float:
    """Root mean square of the largest output of a linear map on the trunk."""
    return max(
        (math.sqrt(op.signal.mean_square) for op in trace.weights if op.signal and op.share > 0.99),
        default=0.0,
    )
