"""Mean and deviation of what a model is fed, per feature, whatever a few wild entries say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MOST_FEATURES = 1024
"""Features whose figures are kept; a flattened image of more shares one scale by nature."""
MOST_ENTRIES = 200_000
"""Entries looked at; of a bigger tensor samples are left out evenly."""
FAR = 10.0
"""Deviations beyond which an entry is drawn in. Of a normal sample none lies so far out, so that
ordinary data keep their plain mean and deviation."""
QUARTILES = 1.349
"""Distance of a normal distribution's quartiles, in standard deviations."""
CHANNELS = 4
"""Dimensions of a batch of images, whose features are its channels: [N, C, H, W]."""


def usual_figures(x: Tensor) -> dict[str, Any]:
    """The fields ``usual_*`` and ``feature_*`` of :class:`gradmend.records.trace.Input`."""
    if not x.is_floating_point() or x.numel() == 0 or x.dim() == 0:
        return {}
    dim = 1 if x.dim() == CHANNELS else x.dim() - 1
    keep = max(1, MOST_ENTRIES // max(1, x[0].numel()))
    some = x.detach()[:: max(1, -(-x.shape[0] // keep))].double().cpu()
    rows = some.movedim(dim, -1).reshape(-1, some.shape[dim])
    whole = drawn_in(rows.reshape(-1, 1))
    if whole is None:
        return {}
    found: dict[str, Any] = {"usual_mean": float(whole[0]), "usual_std": float(whole[1])}
    if x.dim() > 1 and 1 < x.shape[dim] <= MOST_FEATURES and rows.shape[0] > 1:
        each = drawn_in(rows)
        if each is not None:
            found["feature_dim"] = dim
            found["feature_means"] = tuple(each[0].tolist())
            found["feature_stds"] = tuple(each[1].tolist())
    return found


def drawn_in(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of each column, its far entries drawn in.

    Args:
        rows: [samples, features]; entries that are not finite do not count.

    Returns:
        Both [features]; zeros where a column has no finite entry. ``None`` where none has.
    """
    finite = torch.isfinite(rows)
    if not bool(finite.any()):
        return None
    blank = rows.masked_fill(~finite, torch.nan)
    ends = torch.nanquantile(blank, torch.tensor([0.25, 0.5, 0.75], dtype=rows.dtype), dim=0)
    reach = FAR * (ends[2] - ends[0]) / QUARTILES
    # Half of all entries equal (zeros of sparse data): there is no width to judge others by.
    reach = torch.where(reach > 0, reach, torch.inf)
    held = blank.clamp(ends[1] - reach, ends[1] + reach)
    count = finite.sum(dim=0).clamp(min=1)
    mean = held.nansum(dim=0) / count
    square = (held - mean).square().nansum(dim=0) / count
    return mean.nan_to_num(), square.sqrt().nan_to_num()
