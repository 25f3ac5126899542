"""Tensors to sufficient statistics."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gradmend.probe.small import Array, small_array, square_sum
from gradmend.probe.usual import usual_figures
from gradmend.records.stats import Stats
from gradmend.records.trace import Input


def wide(x: Tensor) -> torch.dtype:
    """The type to accumulate statistics in: float64 on a CPU, float32 where that is slow."""
    return torch.float64 if x.device.type == "cpu" else torch.float32


def stats_of(x: Tensor) -> Stats:
    """Sufficient statistics of a tensor of any shape and type."""
    small = small_array(x)
    if small is not None and math.isfinite(largest := max(float(small.max()), -float(small.min()))):
        return _stats_in(small, largest)
    values = (torch.view_as_real(x) if x.is_complex() else x).reshape(-1)
    if values.device.type != "cpu" or values.numel() <= CHUNK:
        return _stats_of(values.to(wide(x)))
    found = Stats()
    for part in torch.split(values, CHUNK):
        found = found.merge_parts(_stats_of(part.to(wide(x))))
    return found


CHUNK = 1 << 16
"""Entries taken at a time on a CPU: what stays in a core's cache, and asks for no fresh memory."""


def _stats_in(values: Array, largest: float) -> Stats:
    """Of a small array that is finite."""
    values = values.ravel().astype(np.float64, copy=False)
    size = np.abs(values)
    smallest, zeros = float(size.min()), 0
    if smallest == 0:
        nonzero = size[size > 0]
        zeros = size.size - nonzero.size
        smallest = float(nonzero.min()) if nonzero.size else math.inf
    with np.errstate(all="ignore"):
        total = float(np.add.reduce(values))
    return Stats(
        count=values.size,
        total=total,
        sum_of_squares=square_sum(values),
        max_abs=largest,
        min_abs_nonzero=smallest,
        zeros=zeros,
    )


def _stats_of(values: Tensor) -> Stats:
    size = values.abs()
    if not values.numel() or not math.isfinite(largest := float(size.max())):
        finite = torch.isfinite(values)
        kept = values[finite]
        if not kept.numel():
            return Stats(non_finite=values.numel())
        return replace(_stats_of(kept), non_finite=values.numel() - kept.numel())
    smallest, zeros = float(size.min()), 0
    if smallest == 0:
        nonzero = size[size > 0]
        zeros = size.numel() - nonzero.numel()
        smallest = float(nonzero.min()) if nonzero.numel() else math.inf
    return Stats(
        count=values.numel(),
        total=float(values.sum()),
        sum_of_squares=float(values.square().sum()),
        max_abs=largest,
        min_abs_nonzero=smallest,
        zeros=zeros,
    )


def input_record(name: str, x: Tensor, reader: str | None) -> Input:
    """What a model was fed: overall statistics, and the spread of scales among features.

    Features are the last dimension of a [B, D] input; images and sequences, whose features
    share one scale by nature, have none.
    """
    largest = smallest = None
    if x.is_floating_point() and x.dim() == 2 and x.shape[0] > 1:
        deviations = x.double().std(dim=0, correction=0)
        varying = deviations[deviations > 0]
        if varying.numel():
            largest, smallest = float(varying.max()), float(varying.min())
    return Input(
        name=name,
        shape=tuple(x.shape),
        dtype=str(x.dtype).removeprefix("torch."),
        floating=x.is_floating_point(),
        stats=stats_of(x),
        feature_rms_max=largest,
        feature_rms_min=smallest,
        reader=reader,
        **usual_figures(x),
    )
