"""Statistics of one output, on a bounded part of it where it is big."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

ENTRIES = 1 << 18
"""Entries of an output up to which all are measured."""


@dataclass(slots=True, eq=False)
class Measure:
    """One call's output, measured. Energies are in units of ``unit`` squared."""

    size: int
    """Entries of the whole output."""
    count: int
    """Entries measured; the extremes and the non-finite ones are of all."""
    energy: float
    shared: float
    """Energy of the mean over dimension 0; NaN where that holds a single entry or is missing."""
    unit: float
    largest: float
    nonzero: float
    non_finite: int
    flat: float = math.nan
    """Share of flat entries, of an activation."""
    dead: Tensor | None = None
    """Units without a slope, bool [units], of an activation."""
    norms: list[Tensor] = field(default_factory=list)
    """|dL/d output| of each backward pass, shape []; filled by the hook, which holds this list
    and nothing else."""


def plain(x: Tensor) -> Tensor | None:
    """The tensor itself if it holds numbers that can be read here and now, its shard, or None."""
    if type(x) not in (Tensor, torch.nn.Parameter):
        local = getattr(x, "_local_tensor", None)  # DTensor
        return plain(local) if isinstance(local, Tensor) else None
    if not x.is_floating_point() or x.layout != torch.strided or not x.numel():
        return None
    if x.is_nested or x.device.type == "meta":
        return None
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return None
    return x.detach()


def thin(x: Tensor, channel_dim: int, most: int = ENTRIES) -> Tensor:
    """A deterministic part of a tensor that keeps all its units.

    Rows are left out of the dimensions that hold neither samples nor units first (the outermost
    first, so that what is read stays contiguous), then samples; every k-th is kept, beginning in
    the middle of the first k. Units are thinned last, if they alone are too many.

    Args:
        x: Any shape, samples along dimension 0.
        channel_dim: Dimension of the units.
        most: Entries to keep, at most.
    """
    if x.numel() <= most:
        return x
    unit = channel_dim % x.dim()
    order = [d for d in range(1, x.dim()) if d != unit] + [d for d in (0,) if d != unit] + [unit]
    for d in order:
        k = min(math.ceil(x.numel() / most), x.shape[d])
        if k > 1:
            index = [slice(None)] * x.dim()
            index[d] = slice((k - 1) // 2, None, k)
            x = x[tuple(index)]
        if x.numel() <= most:
            break
    return x


def measure(x: Tensor, channel_dim: int) -> Measure:
    """Statistics of an output.

    Args:
        x: A plain detached tensor, samples along dimension 0.
        channel_dim: Dimension of its units.
    """
    part = thin(x, channel_dim)
    low, high = torch.aminmax(x)
    wide = part.to(_wide(part))
    unit = 1.0
    if x.dtype == torch.float64:  # squares of these may leave the range
        top = max(_numbers(low.abs(), high.abs()))
        if 0 < top < math.inf:
            unit = top
            wide = wide / unit
    rows = wide.reshape(len(wide), -1) if wide.dim() > 1 else wide.reshape(-1, 1)
    flat = rows.view(-1)
    total = rows.sum(dim=0)
    found = _numbers(low, high, flat.dot(flat), total.dot(total), torch.count_nonzero(part))
    largest = max(abs(found[0]), abs(found[1]))
    if math.isnan(found[0]) or math.isnan(found[1]):
        largest = math.nan
    bad = 0 if math.isfinite(largest) else int((~torch.isfinite(x)).sum())
    return Measure(
        size=x.numel(),
        count=part.numel(),
        energy=found[2] if not bad else math.nan,
        shared=found[3] / len(rows) if len(rows) > 1 and not bad else math.nan,
        unit=unit,
        largest=largest if not bad else math.nan,
        nonzero=found[4],
        non_finite=bad,
    )


def _numbers(*values: Tensor) -> list[float]:
    if values[0].device.type == "cpu":
        return [value.item() for value in values]
    found: list[float] = torch.stack([v.to(_wide(v)) for v in values]).tolist()
    return found


def norm_of(grad: Tensor) -> Tensor:
    """|gradient|, shape [], float64 where the device has it."""
    grad = grad.detach()
    norm: Tensor
    if grad.dtype == torch.float64:
        top = grad.abs().amax()
        top = torch.where((top > 0) & torch.isfinite(top), top, 1.0)
        norm = torch.linalg.vector_norm(grad / top) * top
    else:
        norm = torch.linalg.vector_norm(grad, dtype=_wide(grad))
    return norm


def merged(measures: Sequence[Measure]) -> dict[str, float]:
    """The quantities of the ``output`` table over several calls, but for dead units.

    Energies and counts of the calls are added, so a call counts by its entries. Where an entry
    is not finite, its call counts as unknown: root mean square and largest value are NaN.
    """
    count = sum(m.count for m in measures)
    unit = max(m.unit for m in measures)
    energy = math.fsum(m.energy * (m.unit / unit) ** 2 for m in measures)
    spread = math.nan
    several = [m for m in measures if not math.isnan(m.shared)]
    if several:
        total = math.fsum(m.energy * (m.unit / unit) ** 2 for m in several)
        shared = math.fsum(m.shared * (m.unit / unit) ** 2 for m in several)
        spread = min(1.0, max(0.0, 1 - shared / total)) if total > 0 else math.nan
    flats = [(m.flat, m.count) for m in measures if not math.isnan(m.flat)]
    heard = [(float(norm), m.size) for m in measures for norm in m.norms]
    top = max((norm for norm, _ in heard), default=math.nan)
    grad = math.nan
    if heard:
        safe = top if 0 < top < math.inf else 1.0
        square = math.fsum((norm / safe) ** 2 for norm, _ in heard) / sum(n for _, n in heard)
        grad = log10(math.sqrt(square)) + math.log10(safe)
    bad = sum(m.non_finite for m in measures)
    return {
        "log10_rms": log10(math.sqrt(energy / count)) + math.log10(unit),
        "log10_max": math.nan if bad else log10(max(m.largest for m in measures)),
        "spread_share": spread,
        "zero_share": 1 - math.fsum(m.nonzero for m in measures) / count,
        "non_finite": float(bad),
        "flat_share": sum(f * n for f, n in flats) / sum(n for _, n in flats)
        if flats
        else math.nan,
        "log10_grad": grad,
    }


def log10(value: float) -> float:
    """log10 of a size: ``-inf`` for zero, NaN for NaN."""
    if value > 0:
        return math.log10(value)
    return -math.inf if value == 0 else math.nan


def _wide(x: Tensor) -> torch.dtype:
    # Squares of ordinary small gradients lie below float32's range, also on an accelerator.
    return torch.float32 if x.device.type == "mps" else torch.float64
