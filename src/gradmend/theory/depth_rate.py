"""The learning rate that a plain network's depth allows, and prescriptions that bring it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.theory.critical import plain_net_adam_rate

LOW_ENOUGH = 0.8
"""Factor to the rate that is not worth an edit (our choice)."""
DEFAULT_RATE = 1e-3
"""Of Adam (Kingma and Ba 2015, algorithm 1)."""
SHALLOW = 10
"""Linear maps in a row below which depth does not bind the rate: in mirrored pairs 0.003 did as
well as 0.001 in 10 layers (the runs below)."""
MEASURED_BATCH = 64
"""Samples of a batch in the runs that :func:`plain_net_adam_rate` is drawn through."""
LARGEST_GAIN = 3.0
"""Factor to that rate at most, for a large batch: with 512 samples, plain tanh networks of 1,000
layers trained well at 2e-4 and no longer at 3e-4, where the line gives 3e-5."""
HOPELESS = 0.3
"""Factor below which the start alone cannot train: at more than three times the best rate of 300
plain layers (3e-4) accuracy fell from 0.87 to 0.09, of 1,000 (3e-5) at ten times from 0.73 to 0.31
(ReLU in mirrored pairs, Adam, width 32, digits)."""


def rate_factor(trace: Trace) -> float | None:
    """What the learning rate is to be multiplied by for a plain network of this depth.

    Args:
        trace: The look.

    Returns:
        The factor; ``None`` where the rate is not known.
    """
    depth, rate = max(1, trace.chain_depth), trace.run.learning_rate
    if not rate:
        return None
    if _adaptive(trace):
        row = plain_net_adam_rate(depth) * batch_factor(trace.run.batch_size)
        return min(DEFAULT_RATE, row) / rate
    return 10.0 / depth


def rate_edits(trace: Trace, factor: float) -> tuple[Edit, ...]:
    """Lower the rate of a plain network's layers in a row; its ends get an ordinary one.

    The changes of the layers in a row multiply, so each may take a step of one over their number.
    Those that read the data and those that put out the answer are one each: under the rate of the
    row they would hardly move at all. Adam's get its own default at most (Kingma and Ba 2015), by
    the size of the batch; other optimizers' the rate that they had.

    Args:
        trace: The look.
        factor: To the rate of the row, by :func:`rate_factor`.
    """
    whole = Edit(kind="scale_learning_rate", args={"factor": factor})
    names = ends(trace)
    if not names or not trace.run.learning_rate:
        return (whole,)
    back = 1.0 / factor
    if _adaptive(trace):
        back *= DEFAULT_RATE * batch_factor(trace.run.batch_size) / trace.run.learning_rate
    if back * LOW_ENOUGH <= 1.0:
        return (whole,)
    return whole, Edit(kind="scale_layer_rates", targets=names, args={"factor": back})


def ends(trace: Trace) -> tuple[str, ...]:
    """Parameters of the linear maps that read the data, and of those that put out the answer.

    Args:
        trace: The look.

    Returns:
        Their names; none where nothing lies between.
    """
    maps = {op.id for op in trace.weights}
    behind: set[int] = set()
    for op in trace.operations:
        if any(source in maps or source in behind for source in op.upstream):
            behind.add(op.id)
    ahead: set[int] = set()
    for op in reversed(trace.operations):
        if op.id in maps or op.id in ahead:
            ahead.update(op.upstream)
    outer = [op for op in trace.weights if (op.id in behind) != (op.id in ahead)]
    facts = [op.weights for op in outer if op.weights is not None]
    row = [op.weights for op in trace.weights if op.id in behind and op.id in ahead]
    shared = {name for each in row if each is not None for name in (each.parameter, each.bias)}
    names = [n for each in facts for n in (each.parameter, each.bias) if n and n not in shared]
    return tuple(dict.fromkeys(names)) if row else ()


def _adaptive(trace: Trace) -> bool:
    """Whether the optimizer divides by the gradient's size."""
    name = (trace.run.optimizer or "").lower().removeprefix("n")
    return name.startswith(("adam", "rmsprop"))


def batch_factor(samples: int) -> float:
    """The root of how much larger a batch is, for optimizers that divide by the gradient's size.

    The square-root scaling rule (Malladi, Lyu, Panigrahi and Arora 2022, "On the SDEs and scaling
    rules for adaptive gradient algorithms"): the noise of a step stays what it was. Smaller
    batches keep the rate, larger ones get :data:`LARGEST_GAIN` of it at most.

    Args:
        samples: Of a batch.
    """
    return min(LARGEST_GAIN, math.sqrt(max(1.0, samples / MEASURED_BATCH)))


def with_rate(start: Prescription | Refusal, trace: Trace) -> Iterator[Prescription | Refusal]:
    """A way to draw a deep plain network, with the rate that it can be trained at.

    Neither helps without the other in a very deep network, so that a trial of each alone would
    drop both. Norms bear higher rates, and are left theirs. Where the rate is no more than a few
    times too high both ways are offered, the smaller change first.

    Args:
        start: The prescription that draws the weights; a refusal is handed on.
        trace: The look.
    """
    if isinstance(start, Refusal):
        yield start
        return
    factor = rate_factor(trace)
    normed = any(op.cause == "normalisation" for op in trace.operations)
    plain = trace.chain_depth >= SHALLOW and not normed
    if factor is None or factor >= LOW_ENOUGH or not plain:
        yield start
        return
    rate = trace.run.learning_rate or 0.0
    both = replace(
        start,
        edits=(*start.edits, *rate_edits(trace, factor)),
        changes=tuple(sorted({*start.changes, Change.OPTIMIZER})),
        reason=f"{start.reason}; learning rate {rate:g} -> {rate * factor:.3g}",
    )
    yield from (both, start) if factor < HOPELESS else (start, both)
