"""The weight gain a layer ought to have, by the name of the activation it feeds."""

from __future__ import annotations

from functools import cache

from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.critical import DepthAwareGain, depth_aware_gain
from gradmend.theory.meanfield import output_mean

__all__ = ["gain_range", "incoming_mean", "reference_gain"]


@cache
def reference_gain(function: str, depth: int) -> DepthAwareGain | None:
    """:func:`~gradmend.theory.critical.depth_aware_gain` by name; ``None`` if phi is unknown.

    Args:
        function: Name of the activation.
        depth: Layers in a row, at least 1.
    """
    return depth_aware_gain(activation(function), max(1, depth)) if function in KNOWN else None


@cache
def incoming_mean(function: str, depth: int) -> float:
    """E[phi(z)] at the critical point of a net this deep; 0 if its bias need not be centred.

    Args:
        function: Name of the activation a layer reads.
        depth: Layers in a row, at least 1.
    """
    gain = reference_gain(function, depth)
    if gain is None or not gain.centred:
        return 0.0
    return output_mean(activation(function), gain.q)


@cache
def gain_range(function: str) -> tuple[float, float] | None:
    """Smallest and largest critical sigma_w over all depths; what lies between is defensible.

    The critical gain of a curved activation depends on where on its curve it works: tanh needs
    1.03 in a thousand layers, where signals stay small, and may use 1.9 in three. Judging a
    layer against one depth's value would convict healthy ones.

    Args:
        function: Name of the activation.

    Returns:
        (lowest, highest) sigma_w; ``None`` if phi is unknown.
    """
    gains = [reference_gain(function, depth) for depth in (3, 10, 30, 100, 300, 1000)]
    known = [gain.sigma_w for gain in gains if gain is not None]
    return (min(known), max(known)) if known else None
