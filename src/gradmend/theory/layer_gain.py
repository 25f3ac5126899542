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
        read = _input_square(trace, op)
        if read is not None:  # what it reads has another size than what the layers behind it do
            sigma_w = math.sqrt(max(gain.q - sigma_b**2, 0.1 * gain.q) / read)
    return Target(sigma_w, sigma_b, centre)


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


def _input_square(trace: Trace, op: Operation) -> float | None:
    """Mean square of the batch, for a layer that reads it at a usual scale."""
    if op.upstream:
        return None
    sizes = [item.stats.rms for item in trace.inputs if item.floating]
    # An input far out of scale is to be standardised, and may be by another remedy beside this.
    return sizes[0] ** 2 if len(sizes) == 1 and 1 / 3 <= sizes[0] <= 3.0 else 1.0
