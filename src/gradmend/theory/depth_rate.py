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
    name = (trace.run.optimizer or "").lower().removeprefix("n")
    if name.startswith(("adam", "rmsprop")):
        return min(1e-3, plain_net_adam_rate(depth) * batch_factor(trace.run.batch_size)) / rate
    return 10.0 / depth


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
        edits=(*start.edits, Edit(kind="scale_learning_rate", args={"factor": factor})),
        changes=tuple(sorted({*start.changes, Change.OPTIMIZER})),
        reason=f"{start.reason}; learning rate {rate:g} -> {rate * factor:.3g}",
    )
    yield from (both, start) if factor < HOPELESS else (start, both)
