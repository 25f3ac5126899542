"""The weight gain a layer ought to have, by the name of the activation it feeds."""

from __future__ import annotations

from functools import cache

from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.critical import DepthAwareGain, depth_aware_gain

__all__ = ["reference_gain"]


@cache
def reference_gain(function: str, depth: int) -> DepthAwareGain | None:
    """:func:`~gradmend.theory.critical.depth_aware_gain` by name; ``None`` if phi is unknown.

    Args:
        function: Name of the activation.
        depth: Layers in a row, at least 1.
    """
    return depth_aware_gain(activation(function), max(1, depth)) if function in KNOWN else None
