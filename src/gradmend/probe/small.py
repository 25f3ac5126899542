"""Small tensors as NumPy arrays: of two thousand numbers, most of torch's time is the call.

A network of ten thousand layers is ten thousand times a few statistics of a small tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALL = 1 << 14
"""Entries up to which a statistic is faster in NumPy: there, both spend their time on the numbers
and no longer on the call (our choice, between 2,000 and 65,000 entries both take about as long)."""
Array = NDArray[np.floating[Any]]
_KNOWN = frozenset({torch.float64, torch.float32})


def small_array(x: Tensor) -> Array | None:
    """The same memory as an array; ``None`` where the tensor is large, elsewhere or unusual."""
    if not x.is_cpu or x.dtype not in _KNOWN or not 0 < x.numel() <= SMALL:
        return None
    try:
        found: Array = x.detach().numpy()
    except (RuntimeError, TypeError):  # sparse, wrapped by a transform, or no real memory
        return None
    return found


def square_sum(values: Array) -> float:
    """Sum of squares, accumulated in float64."""
    flat = values.ravel()
    if flat.dtype != np.float64:
        flat = flat.astype(np.float64)
    return float(np.vdot(flat, flat))  # of all products the one that never warns


def mean_square(values: Array) -> float:
    """Mean of squares, accumulated in float64."""
    return square_sum(values) / values.size
