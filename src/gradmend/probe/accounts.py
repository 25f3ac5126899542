"""The books of a step: raw gradient, what the optimizer got, and what became of the weights.

Pure functions from the kernels' statistics to the quantities of the tables ``gradient`` and
``update`` (:data:`gradmend.records.history.TABLES`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from gradmend.probe import kernels

Floats = NDArray[np.float64]

NONE, ZERO, FINITE, SICK = 0, 1, 2, 3
"""States of a gradient: ``None``, exactly zero, finite, with NaN or infinity in it."""

_LOW = (torch.float16, torch.bfloat16)
_COUNT, _NON_FINITE = kernels.STATS.index("count"), kernels.STATS.index("non_finite")
_MAX = kernels.STATS.index("max_abs")
_DECOUPLED = frozenset({"AdamW", "SGDW", "Lion", "Adafactor", "Muon"})


def gradient_row(
    stats: Floats, gradients: Sequence[Tensor | None], factor: float = 1.0
) -> dict[str, Floats]:
    """Quantities of the table ``gradient``, each of shape [tensors].

    Args:
        stats: Of :func:`gradmend.probe.kernels.sweep`, shape [tensors, 7].
        gradients: The gradients themselves, for who is ``None``.
        factor: What a fused optimizer will still multiply them with.
    """
    shift = math.log10(factor)
    absent = np.array([g is None for g in gradients], dtype=bool)
    sick = stats[:, _NON_FINITE] > 0
    state = np.where(sick, SICK, np.where(stats[:, _MAX] > 0, FINITE, ZERO)).astype(float)
    state[absent] = NONE
    row = {
        "log10_rms": kernels.log10_rms(stats) + shift,
        "log10_max": kernels.log10_max(stats) + shift,
        "log10_min": kernels.log10_min(stats) + shift,
        "mean_share": kernels.mean_share(stats),
        "zero_share": kernels.zero_share(stats),
        "non_finite": stats[:, _NON_FINITE].copy(),
    }
    for values in row.values():
        values[absent] = np.nan
    row["state"] = state
    return row


def underflow_share(gradients: Sequence[Tensor | None]) -> Floats:
    """Share of the non-zero entries below the dtype's smallest normal number, shape [tensors].

    NaN for float32 and wider: there nothing underflows before it has long vanished.
    """
    shares = np.full(len(gradients), np.nan)
    low = [at for at, g in enumerate(gradients) if g is not None and g.dtype in _LOW]
    if not low:
        return shares
    for at, counts in zip(low, kernels.exponents([gradients[i] for i in low]), strict=True):
        gradient = gradients[at]
        assert gradient is not None
        shares[at] = counts.share_below(round(math.log2(torch.finfo(gradient.dtype).tiny)))
    return shares


def log10_norm(stats: Floats, sizes: Sequence[int], factor: float = 1.0) -> float:
    """log10 of the norm over all tensors, estimated where only samples were looked at."""
    seen = stats[:, _COUNT]
    weight = np.divide(np.asarray(sizes, dtype=float), seen, out=np.ones_like(seen), where=seen > 0)
    weighted = stats.copy()
    weighted[:, kernels.STATS.index("relative_squares")] *= weight
    return kernels.log10_norm(weighted) + math.log10(factor)


def update_row(
    moved: Floats,
    optimizer: Optimizer,
    parameters: Sequence[Tensor],
    gradient_rms: Floats,
) -> dict[str, Floats]:
    """Quantities of the table ``update``, each of shape [tensors].

    Args:
        moved: Of :func:`gradmend.probe.kernels.compare` around the step, shape [tensors, 7].
        optimizer: The one that stepped; its groups tell rate and weight decay.
        parameters: In the order of the rows.
        gradient_rms: Root mean square of each gradient as the optimizer got it.
    """
    columns = dict(zip(kernels.MOVES, moved.T, strict=True))
    with np.errstate(all="ignore"):
        before = np.sqrt(columns["before_squares"] / columns["finite"])
        change = np.sqrt(columns["change_squares"] / columns["finite"])
        row = {
            "log10_weight": np.log10(before),
            "log10_ratio": np.log10(change) - np.log10(before),
            "unchanged_share": columns["unchanged"] / columns["count"],
            "lost_share": columns["lost"] / columns["count"],
        }
        rate, decay = _settings(optimizer, parameters)
        if _is_decoupled(optimizer):
            row["decay_share"] = rate * decay * before / change
        else:  # added to the gradient, so it counts beside that
            pull = decay * before
            row["decay_share"] = pull / np.hypot(pull, gradient_rms)
    row["lost_share"] = np.where(rate == 0, 0.0, row["lost_share"])
    row["decay_share"] = np.where(decay == 0, 0.0, row["decay_share"])
    return row


def changed_share(moved: Floats) -> Floats:
    """Share of the compared entries that are not bitwise the same, shape [tensors]."""
    columns = dict(zip(kernels.MOVES, moved.T, strict=True))
    with np.errstate(all="ignore"):
        return np.asarray(1.0 - columns["unchanged"] / columns["count"])


def changed_ratio(moved: Floats) -> Floats:
    """log10 rms(change) / rms(before) of the compared entries, shape [tensors]."""
    columns = dict(zip(kernels.MOVES, moved.T, strict=True))
    with np.errstate(all="ignore"):
        return np.asarray(
            0.5 * (np.log10(columns["change_squares"]) - np.log10(columns["before_squares"]))
        )


def overall(moved: Floats, sizes: Floats) -> tuple[float, float]:
    """log10 |change| over all weights, and the share of them that is bitwise the same."""
    columns = dict(zip(kernels.MOVES, moved.T, strict=True))
    with np.errstate(all="ignore"):
        squares = np.nansum(columns["change_squares"] / columns["finite"] * sizes)
        unchanged = np.nansum(columns["unchanged"] / columns["count"] * sizes)
        compared = sizes[columns["count"] > 0].sum()
        share = unchanged / compared if compared else math.nan
        return float(0.5 * np.log10(squares)), float(share)


def _settings(optimizer: Optimizer, parameters: Sequence[Tensor]) -> tuple[Floats, Floats]:
    """Learning rate and weight decay of each parameter."""
    known = {
        id(p): (float(group.get("lr", math.nan)), float(group.get("weight_decay", 0.0) or 0.0))
        for group in optimizer.param_groups
        for p in group["params"]
    }
    pairs = np.array([known.get(id(p), (math.nan, 0.0)) for p in parameters]).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _is_decoupled(optimizer: Optimizer) -> bool:
    """Whether weight decay is applied to the weights, not added to the gradient."""
    defaults = optimizer.defaults
    return bool(defaults.get("decoupled_weight_decay", type(optimizer).__name__ in _DECOUPLED))
