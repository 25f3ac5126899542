"""How to draw one layer: the gain, the bias and the offset that suit what it feeds and reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradmend.records.trace import Operation, Trace
from gradmend.theory.activations import activation
from gradmend.theory.initialisation import he_gain
from gradmend.theory.meanfield import output_mean, output_variance
from gradmend.theory.reference_gain import incoming_mean, reference_gain

_FLAT = 0.5
"""Share of flat entries from which a measured slope says where a layer works, not what its
activation is (the limit of saturated-activation)."""

DEEP = 30
"""Layers in a row from which the signal of odd activations is brought to size at the output."""
LOUDEST = 2.0
"""Gain of an output layer at most: 1 / sqrt(q) is 3 at 100 layers, 6 at 1,000, 11 at 10,000.

A gain of 3.4 instead of torch's own 0.58 let 100 tanh layers of width 32 train at 3e-4 and 1e-3
alike (0.88 and 0.84 of digits in 300 steps; with torch's 0.87 and 0.28). A louder output makes the
loss fall sooner and generalises worse: at 1,000 layers (240 steps of 512 samples, each gain at a
rate that suits it) gains of 2, 3, 6 and 12 came to 0.89, 0.89, 0.87 and 0.84 of unseen digits; at
10,000 (60 to 72 steps) gains of 3, 4.5 and 6 to 0.77, 0.78 and 0.78. In ``fix`` (sigmoid, tanh,
1,000 layers, two minutes) gains of 12, 5 and 2 came to 0.87, 0.88 and 0.90."""


@dataclass(frozen=True, slots=True)
class Target:
    """How to draw one layer."""

    gain: float
    """sigma_w."""
    bias_std: float = 0.0
    centre: float = 0.0
    """Mean of what it reads, which its bias is to remove."""


def target_of(trace: Trace, op: Operation, act: Operation | None, depth: int) -> Target | None:
    """How to draw a layer at the critical gain of what it feeds; ``None`` where nobody knows.

    Args:
        trace: The look.
        op: The layer.
        act: The activation that it feeds; none for an output or a projection.
        depth: Layers in a row.
    """
    assert op.weights is not None
    centre = _centre(trace, op, depth)
    if act is None or act.activation is None:
        return Target(1.0, centre=centre)
    facts = act.activation
    if facts.function in ("leaky_relu", "prelu") and facts.negative_slope is not None:
        return Target(he_gain(facts.negative_slope), centre=centre)
    gain = reference_gain(facts.function, depth)
    if gain is None:  # nobody's function: its slope as it was measured
        slope = facts.slope_rms
        known = math.isfinite(slope) and 0.05 <= slope <= 20.0 and facts.flat_share < _FLAT
        return Target(1.0 / slope, centre=centre) if known else None
    sigma_w, sigma_b = gain.sigma_w, gain.sigma_b
    if _drifts(facts.function, depth):
        if not gain.centred:  # the centred map attracts where the plain one repels
            phi = activation(facts.function)
            sigma_b = math.sqrt(max(0.0, gain.q - sigma_w**2 * output_variance(phi, gain.q)))
        read = input_square(trace, op)
        if read is not None:  # what it reads has another size than what the layers behind it do
            sigma_w = math.sqrt(max(gain.q - sigma_b**2, 0.1 * gain.q) / read)
    return Target(sigma_w, sigma_b, centre)


def head_gain(function: str, depth: int) -> float | None:
    """Gain at which the output layer of a deep net of odd activations brings its signal to size.

    Their critical point lies at a small q, so that nothing saturates; logits would be as small.

    Args:
        function: Name of the activation that the output layer reads.
        depth: Layers in a row.

    Returns:
        1 / sqrt(q), at most :data:`LOUDEST`; ``None`` where there is no need.
    """
    gain = reference_gain(function, depth)
    if depth < DEEP or gain is None or gain.q <= 0.0 or not activation(function).odd:
        return None
    return min(LOUDEST, max(1.0, 1.0 / math.sqrt(gain.q)))


def head_of(trace: Trace, op: Operation, act: Operation | None, depth: int) -> Target | None:
    """How to draw a layer if it is the output layer of a deep net of odd activations.

    Args:
        trace: The look.
        op: The layer.
        act: The activation that it feeds.
        depth: Layers in a row.
    """
    if act is not None or op.id != trace.weights[-1].id or len(op.upstream) != 1:
        return None
    if any(other.cause == "normalisation" for other in trace.operations):
        return None  # a norm has brought it to size
    read = trace.operations[op.upstream[0]].activation
    gain = head_gain(read.function, depth) if read is not None else None
    return Target(gain) if gain is not None else None


def _drifts(function: str, depth: int) -> bool:
    """Whether q hardly returns to its fixed point, or leaves it: GELU, SiLU, Mish, softplus."""
    gain = reference_gain(function, depth)
    if gain is None or activation(function).positively_homogeneous or activation(function).odd:
        return False
    return gain.q_slope > 0.99


def _centre(trace: Trace, op: Operation, depth: int) -> float:
    """Mean of what a layer reads, to be removed by its bias."""
    if len(op.upstream) != 1:
        return 0.0
    read = trace.operations[op.upstream[0]].activation
    if read is None:
        return 0.0
    mean = incoming_mean(read.function, depth)
    if mean == 0.0 and _drifts(read.function, depth):
        gain = reference_gain(read.function, depth)
        assert gain is not None
        mean = output_mean(activation(read.function), gain.q)
    return mean


def input_square(trace: Trace, op: Operation) -> float | None:
    """Mean square of the batch, for a layer that reads it at a usual scale."""
    if op.upstream:
        return None
    sizes = [item.stats.rms for item in trace.inputs if item.floating]
    # An input far out of scale is to be standardised, and may be by another remedy beside this.
    return sizes[0] ** 2 if len(sizes) == 1 and 1 / 3 <= sizes[0] <= 3.0 else 1.0
