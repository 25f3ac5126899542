"""Where an activation is as good as linear, whatever comes."""

from __future__ import annotations

from functools import cache

import numpy as np

from gradmend.theory.activations import KNOWN, activation

_FAR = 40.0
"""Where a function that is going to be straight is so (softplus differs from x by 4e-18)."""
_STRAIGHT = 0.01
"""Share by which the slope of a straight side may differ from its end's (our choice)."""
_STEEP = 0.1
"""Least slope of a side that is worth working on (our choice)."""


@cache
def straight_from(function: str) -> float | None:
    """Where the straight upper side of an activation begins; ``None`` where it has none.

    ReLU, leaky ReLU, ELU and SELU are straight from 0 on, GELU from 2.8, hardswish from 3,
    softplus from 4.6, SiLU from 6.5. Bounded functions have no such side, and odd ones are
    straight around zero already.

    Args:
        function: Name of the activation.
    """
    if function not in KNOWN or activation(function).odd:
        return None
    phi = activation(function)
    x = np.linspace(0.0, _FAR, 4001)
    slopes = phi.derivative(x)
    end = float(slopes[-1])
    if not end > _STEEP:
        return None
    bent = np.flatnonzero(np.abs(slopes / end - 1.0) > _STRAIGHT)
    begins = 0.0 if not len(bent) else float(x[bent[-1]])
    return begins if begins < _FAR / 2 else None
