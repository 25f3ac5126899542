"""What a weight holds: its size, how its units differ, what of its bias only centres."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradmend.probe.small import Array, mean_square, small_array, square_sum
from gradmend.probe.statistics import wide

ALIKE = 64
"""Units compared at most, evenly chosen: symmetry is broken by the first pair that differs."""


def wide_of(x: Tensor) -> Tensor:
    """The values (sizes of complex ones) in the type that statistics are accumulated in."""
    x = x.detach()
    return (x.abs() if x.is_complex() else x).to(wide(x))


def mean_square_of(values: Tensor) -> float:
    """Mean of squares."""
    small = small_array(values)
    return float(values.square().mean()) if small is None else mean_square(small)


def spreads(weight: Tensor, unit: int, groups: int) -> tuple[float | None, float | None]:
    """How far units' weights differ from each other, and how differently inputs are read.

    Args:
        weight: [out, in, *kernel] or [in, out, *kernel].
        unit: The dimension of the outputs.
        groups: Of a convolution; with several, units do not read the same inputs.
    """
    if groups != 1:
        return None, None
    small = small_array(weight)
    if small is not None and max(small.shape[:2]) <= ALIKE:
        rms = mean_square(small) ** 0.5
        return _spread_in(small, unit, rms), _spread_in(small, 1 - unit, rms)
    return _spread(weight, unit), _spread(weight, 1 - unit)


def _spread_in(values: Array, dim: int, rms: float) -> float | None:
    """Rms deviation along a dimension over the rms, 0 where all is zero."""
    length = values.shape[dim]
    if length < 2:
        return None
    with np.errstate(all="ignore"):
        apart = values - np.add.reduce(values, axis=dim, keepdims=True) / length
        return mean_square(apart) ** 0.5 / rms if rms > 0 else 0.0


def _spread(values: Tensor, dim: int) -> float | None:
    length = values.shape[dim]
    if length < 2:
        return None
    some = values
    if length > ALIKE:
        index = torch.linspace(0, length - 1, ALIKE, device=values.device).long()
        some = values.index_select(dim, index)
    rms = float(some.square().mean().sqrt())
    deviation = float((some - some.mean(dim=dim, keepdim=True)).square().mean().sqrt())
    return deviation / rms if rms > 0 else 0.0


def centring(weight: Tensor, bias: Tensor | None, fan_out: int) -> tuple[float, float]:
    """Least-squares fit b = r - a W 1: (a, E[r^2]).

    Only for weights stored [out, in, ...]; other layouts are taken to have no such structure.
    """
    if bias is None:
        return 0.0, 0.0
    b = wide_of(bias)
    if weight.shape[0] != fan_out or b.numel() != fan_out:
        return 0.0, mean_square_of(b)
    small = small_array(weight), small_array(b)
    if small[0] is not None and small[1] is not None:
        return _centring_in(small[0], small[1])
    sums = weight.reshape(fan_out, -1).sum(dim=1)
    norm = float(sums.square().sum())
    a = -float((b * sums).sum()) / norm if norm > 0 else 0.0
    return a, float((b + a * sums).square().mean())


def _centring_in(weight: Array, bias: Array) -> tuple[float, float]:
    with np.errstate(all="ignore"):
        sums: Any = np.add.reduce(weight.reshape(bias.size, -1), axis=1)
        norm = square_sum(sums)
        a = -float(np.dot(bias.ravel(), sums)) / norm if norm > 0 else 0.0
        return a, mean_square(bias.ravel() + a * sums)
