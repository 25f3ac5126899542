"""What a tensor of activations holds: what its samples share and what tells them apart."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gradmend.probe.small import Array, small_array, square_sum
from gradmend.probe.statistics import wide
from gradmend.records.trace import Signal


def measure(x: Tensor, channel_dim: int = -1) -> Signal:
    """Forward statistics of a tensor: what its samples share and what tells them apart.

    Args:
        x: Values, any shape; one dimension holds the units, all others are samples.
        channel_dim: The dimension of the units (1 for images [B, C, H, W], -1 for [.., D]).
    """
    values, bad, fresh = x if x.dim() > 1 else x[None], 0, x.dtype != wide(x)
    small = small_array(values)
    found = None if small is None else _measured(small, channel_dim % values.dim())
    if found is not None:
        return found
    if x.element_size() == 1:
        values = values.to(wide(x))  # few operations know these types
    unit = channel_dim % values.dim()
    largest = values.abs().amax()
    if not bool(torch.isfinite(largest)):
        finite = torch.isfinite(values)
        bad = int(values.numel() - finite.sum())
        values, fresh = torch.where(finite, values, torch.zeros_like(values)), True
        largest = values.abs().amax()
    values = values.to(wide(x))
    samples = [d for d in range(values.dim()) if d != unit]
    per_unit = values.mean(samples, keepdim=True)
    offset = per_unit.square().mean()
    apart = values.sub_(per_unit) if fresh else values - per_unit
    spread = torch.linalg.vector_norm(apart).square() / apart.numel()
    told = torch.stack([offset, spread, per_unit.mean(), largest.to(wide(x))]).tolist()
    return Signal(
        mean_square=told[0] + told[1],
        offset_square=told[0],
        spread_square=told[1],
        mean=told[2],
        max_abs=told[3],
        units=apart.shape[unit],
        samples=apart.numel() // apart.shape[unit],
        non_finite=bad,
    )


def _measured(values: Array, unit: int) -> Signal | None:
    """The same of a small array; ``None`` where it is not finite."""
    with np.errstate(all="ignore"):
        largest = max(float(values.max()), -float(values.min()))
        if not math.isfinite(largest):
            return None
        units = values.shape[unit]
        samples = values.size // units
        others = tuple(d for d in range(values.ndim) if d != unit)
        # Seen from one sample: where all are the same, their spread is exactly zero.
        first = values[tuple(slice(None) if d == unit else slice(1) for d in range(values.ndim))]
        apart = np.subtract(values, first, dtype=np.float64)
        off = np.add.reduce(apart, axis=others, keepdims=True) / samples
        per_unit = first + off
        apart -= off
        spread = square_sum(apart) / values.size
        offset = square_sum(per_unit) / units
        mean = float(np.add.reduce(per_unit, axis=None)) / units
    return Signal(
        mean_square=offset + spread,
        offset_square=offset,
        spread_square=spread,
        mean=mean,
        max_abs=largest,
        units=units,
        samples=samples,
        non_finite=0,
    )
