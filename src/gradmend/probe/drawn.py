"""Whether weights are still what they were drawn as: told by their edges, that no step leaves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 64
"""Entries below which the edges of a draw are not known."""
EDGE = 20.0
"""Mean gaps between neighbouring entries by which the largest may stay below the bound: chance
leaves more with odds of exp(-20)."""
DEVIATIONS = 5.0
"""Standard errors by which the root mean square may differ from a uniform draw's."""
ROUNDED = 4.0
"""Roundings of the format by which the largest entry may differ from the bound."""


def is_as_drawn(weight: Tensor) -> bool | None:
    """Whether a matrix is as ``nn.Linear`` and ``nn.Conv`` draw it: U(-b, b), b = fan_in^-1/2.

    A trained matrix has left the bound somewhere, unless its steps were tiny; one drawn otherwise,
    or read from a file, does not fill it so exactly. ``None`` where too few entries are there, or
    none that could be read.
    """
    count = weight.numel()
    if weight.dim() < 2 or count < FEWEST or not weight.is_floating_point() or weight.is_meta:
        return None
    fan_in = math.prod(weight.shape[1:])
    bound = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        sizes = weight.detach().double().abs()
        largest, square = float(sizes.max()), float(sizes.square().mean())
    rounding = ROUNDED * torch.finfo(weight.dtype).eps
    if not 1.0 - EDGE / count - rounding <= largest / bound <= 1.0 + rounding:
        return False
    # The mean square of a uniform draw is b^2 / 3; its standard error, b^2 sqrt(4 / (45 n)).
    error = bound**2 * math.sqrt(4.0 / (45.0 * count))
    return abs(square - bound**2 / 3.0) <= DEVIATIONS * error
