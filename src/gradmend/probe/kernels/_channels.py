"""Statistics per channel: whether units are dead or saturated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from gradmend.probe.kernels._flat import unseen
from gradmend.probe.kernels._rows import Floats

CHANNELS = ("count", "between", "max_abs", "non_finite")
"""Columns: finite entries, those of them strictly between the bounds, the largest magnitude."""


@unseen()
def channels(x: Any, dim: int, low: float, high: float) -> Floats | None:
    """Count the entries of each channel that lie strictly between two bounds.

    A ReLU is dead where no entry of its channel is between 0 and infinity, a tanh saturated where
    none is between -0.97 and 0.97. Plain torch operations, for steps that may cost something;
    waits for the device.

    Args:
        x: Output of a layer; real and floating, dense.
        dim: Its dimension of channels; all others are reduced.
        low: Lower bound, itself not between.
        high: Upper bound, itself not between.

    Returns:
        Columns ``CHANNELS``, shape [channels, 4]; None for what cannot be read like that.
    """
    x = getattr(x, "_local_tensor", x)
    if x.layout != torch.strided or not x.is_floating_point() or x.is_meta:
        return None
    if not -x.dim() <= dim < x.dim():
        return None
    x = (x.float() if x.element_size() == 1 else x).movedim(dim, 0)
    x = x.unsqueeze(-1).flatten(1)
    if not x.numel():
        return np.zeros((len(x), len(CHANNELS)))
    size = x.abs()
    finite = size < math.inf
    count = finite.sum(1)
    columns = (
        count,
        ((x > low) & (x < high) & finite).sum(1),
        torch.where(finite, size, 0).amax(1),
        x.shape[1] - count,
    )
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    rows: Floats = torch.stack([c.to(exact) for c in columns], 1).cpu().double().numpy()
    return rows
