"""How much of an activation's output is the same for every sample, by nature."""

from __future__ import annotations

from functools import cache

from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.meanfield import output_mean, output_variance

__all__ = ["intrinsic_offset"]


@cache
def intrinsic_offset(function: str, q: float = 1.0) -> float:
    """E[phi(z)]^2 / E[phi(z)^2] at z ~ N(0, q): the share of energy that carries no signal.

    Sigmoid 0.86, softplus 0.73, ReLU 1/pi = 0.32, tanh 0 at q = 1. An activation that theory
    does not know has none to speak of: 0.

    Args:
        function: Name of the activation.
        q: Mean square of the pre-activation.

    Returns:
        A share in [0, 1].

    Example:
        >>> round(intrinsic_offset("relu"), 6)
        0.31831
    """
    if function not in KNOWN:
        return 0.0
    phi = activation(function)
    mean = output_mean(phi, q)
    energy = mean**2 + output_variance(phi, q)
    return mean**2 / energy if energy > 0.0 else 0.0
