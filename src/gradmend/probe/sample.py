"""Statistics of one output, on a bounded part of it where it is big."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradmend.probe import kernels
from gradmend.probe.kernels import backend
from gradmend.probe.kernels._table import FORMATS
from gradmend.probe.slopes import Flags, Slope, judge, revive
from gradmend.records.exponents import Exponents

ENTRIES = 1 << 15
"""Entries of an output up to which all are measured."""

_FORMATS = {kind: FORMATS[kind] for kind in (torch.float32, torch.bfloat16, torch.float16)}
"""Those that the compiled kernel reads, as it calls them."""

_USUAL = (Tensor, torch.nn.Parameter)
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor

_NOBODY: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
_ANYTHING = (-math.inf, math.inf, -math.inf, math.inf)


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
    dead: Flags | None = None
    """Units without a slope, of an activation."""
    norms: list[float | Tensor] = field(default_factory=list)
    """|dL/d output| of each backward pass, shape []; the hook fills it and holds nothing else."""
    exponents: Exponents | None = None
    """Of the part measured, where a histogram was asked for."""


def plain(x: Tensor) -> Tensor | None:
    """The tensor itself if it holds numbers that can be read here and now, its shard, or None."""
    if type(x) not in _USUAL:
        local = getattr(x, "_local_tensor", None)  # DTensor
        return plain(local) if isinstance(local, Tensor) else None
    if not x.is_floating_point() or x.layout is not torch.strided or not x.numel():
        return None
    if x.is_nested or x.is_meta or _is_wrapped(x):
        return None
    return x


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


def measure(x: Tensor, channel_dim: int, slope: Slope | None = None) -> Measure:
    """Statistics of an output; to be called where nothing is recorded.

    Args:
        x: A plain tensor, samples along dimension 0.
        channel_dim: Dimension of its units.
        slope: Of the activation that returned it, where the slope can be told from that.
    """
    part = thin(x, channel_dim)
    form = _FORMATS.get(x.dtype)
    compiled = _compiled() if form is not None and x.is_cpu and not x.is_neg() else None
    if compiled is None:
        found = _by_torch(part)
    else:
        found = _by_kernel(compiled.measure, part, form, x.shape, channel_dim, slope)
    if part is not x:
        _look_at_all(found, x)
        if slope is not None and found.dead is not None:
            revive(found.dead, x, slope, channel_dim)
    if found.non_finite:
        found.energy = found.shared = found.largest = math.nan
    if slope is not None and found.dead is None:
        found.flat, found.dead = judge(x, part, slope, channel_dim)
    return found


def histogram(x: Tensor, channel_dim: int) -> Exponents:
    """Powers of two of an output's entries; as for ``measure``, and of the same part."""
    part = thin(x, channel_dim)
    counts = kernels.exponents_of(part).counts
    return Exponents(counts=counts, stride=max(1, round(x.numel() / part.numel())))


def norm_of(grad: Tensor) -> float | Tensor:
    """|gradient|: a number where the compiled kernels can read it, else of shape [].

    To be called where nothing is recorded.
    """
    norm: Tensor
    if grad.dtype == torch.float64:
        top = grad.abs().amax()
        top = torch.where((top > 0) & torch.isfinite(top), top, 1.0)
        norm = torch.linalg.vector_norm(grad / top) * top
    elif _lies_flat(grad) and (compiled := _compiled()) is not None:
        return float(compiled.norm(grad.data_ptr(), grad.numel(), _FORMATS[grad.dtype]))
    else:
        norm = torch.linalg.vector_norm(grad, dtype=_wide(grad))
    return norm


@functools.cache
def _kernels() -> Any:
    from gradmend.probe.kernels import _numba_outputs

    return _numba_outputs


def _compiled() -> Any:
    """The compiled kernels, or None where torch's operations are used."""
    return _kernels() if backend() == "numba" else None


def _lies_flat(x: Tensor) -> bool:
    """Whether the compiled kernels can read all of a tensor where it lies."""
    return (
        plain(x) is x and x.dtype in _FORMATS and x.is_cpu and x.is_contiguous() and not x.is_neg()
    )


def _by_kernel(
    kernel: Callable[..., tuple[Any, ...]],
    part: Tensor,
    form: int | None,
    whole: torch.Size,
    channel_dim: int,
    slope: Slope | None,
) -> Measure:
    part = part.contiguous()
    shape, entries = part.shape, part.numel()
    samples = shape[0] if shape else 1
    bounds = None if slope is None else slope.bounds
    alive, inner = _NOBODY, 1
    if bounds is not None:
        alive = np.zeros(shape[channel_dim], dtype=np.bool_)
        inner = math.prod(shape[channel_dim % len(shape) + 1 :])
    energy, shared, largest, nonzero, bad, flat = kernel(
        part.data_ptr(), entries, form, samples, inner, bounds or _ANYTHING, alive
    )
    found = Measure(
        entries,
        entries,
        energy,
        shared if samples > 1 else math.nan,
        1.0,
        largest,
        nonzero,
        bad,
    )
    if bounds is not None:
        found.flat = flat / entries
        found.dead = ~alive if alive.size == whole[channel_dim] else _NOBODY
    return found


def _by_torch(part: Tensor) -> Measure:
    low, high = torch.aminmax(part)
    wide = part.to(_wide(part))
    unit = 1.0
    if part.dtype == torch.float64:  # squares of these may leave the range
        top = max(_numbers(low.abs(), high.abs()))
        if 0 < top < math.inf:
            unit = top
            wide = wide / unit
    rows = wide.reshape(len(wide), -1) if wide.dim() > 1 else wide.reshape(-1, 1)
    flat = rows.reshape(-1)
    total = rows.sum(dim=0)
    found = _numbers(low, high, flat.dot(flat), total.dot(total), torch.count_nonzero(part))
    largest = _magnitude(found[0], found[1])
    return Measure(
        size=part.numel(),
        count=part.numel(),
        energy=found[2],
        shared=found[3] / len(rows) if len(rows) > 1 else math.nan,
        unit=unit,
        largest=largest,
        nonzero=found[4],
        non_finite=0 if math.isfinite(largest) else int((~torch.isfinite(part)).sum()),
    )


def _look_at_all(found: Measure, x: Tensor) -> None:
    """Correct what is said of all entries, where only a part was measured."""
    found.size = x.numel()
    found.largest = _magnitude(*_numbers(*torch.aminmax(x)))
    found.non_finite = 0 if math.isfinite(found.largest) else int((~torch.isfinite(x)).sum())


def _magnitude(low: float, high: float) -> float:
    return math.nan if math.isnan(low) or math.isnan(high) else max(abs(low), abs(high))


def _numbers(*values: Tensor) -> list[float]:
    """Scalars as numbers, in one trip from the device."""
    found: list[float] = torch.stack([v.to(_wide(v)) for v in values]).tolist()
    return found


def merged(measures: Sequence[Measure]) -> dict[str, float]:
    """The quantities of the ``output`` table over several calls, but for dead units.

    Energies and counts of the calls are added, so a call counts by its entries. Where an entry
    is not finite, its call counts as unknown: root mean square and largest value are NaN.
    """
    m = measures[0] if len(measures) == 1 else _together(measures)
    spread = math.nan
    # A call of a single sample has no spread, and no part in it.
    several = [part for part in measures if not math.isnan(part.shared)]
    total = math.fsum(part.energy * (part.unit / m.unit) ** 2 for part in several)
    if total > 0:
        shared = math.fsum(part.shared * (part.unit / m.unit) ** 2 for part in several)
        spread = min(1.0, max(0.0, 1 - shared / total))
    return {
        "log10_rms": log10(math.sqrt(m.energy / m.count)) + math.log10(m.unit),
        "log10_max": log10(m.largest),
        "spread_share": spread,
        "zero_share": 1 - m.nonzero / m.count,
        "non_finite": float(m.non_finite),
        "flat_share": m.flat,
        "log10_grad": _log10_grad(measures),
    }


def _together(measures: Sequence[Measure]) -> Measure:
    """Several calls as one; not their gradients, units and shared energies."""
    unit = max(m.unit for m in measures)
    bad = sum(m.non_finite for m in measures)
    flats = [(m.flat, m.count) for m in measures if not math.isnan(m.flat)]
    return Measure(
        size=sum(m.size for m in measures),
        count=sum(m.count for m in measures),
        energy=math.fsum(m.energy * (m.unit / unit) ** 2 for m in measures),
        shared=math.nan,
        unit=unit,
        largest=math.nan if bad else max(m.largest for m in measures),
        nonzero=math.fsum(m.nonzero for m in measures),
        non_finite=bad,
        flat=sum(f * n for f, n in flats) / sum(n for _, n in flats) if flats else math.nan,
    )


def _log10_grad(measures: Sequence[Measure]) -> float:
    """log10 of the root mean square gradient by an entry, over all calls and backward passes."""
    heard = [(float(norm), m.size) for m in measures for norm in m.norms]
    if not heard:
        return math.nan
    top = max(norm for norm, _ in heard)
    safe = top if 0 < top < math.inf else 1.0
    square = math.fsum((norm / safe) ** 2 for norm, _ in heard) / sum(n for _, n in heard)
    return log10(math.sqrt(square)) + math.log10(safe)


def log10(value: float) -> float:
    """log10 of a size: ``-inf`` for zero, NaN for NaN."""
    if value > 0:
        return math.log10(value)
    return -math.inf if value == 0 else math.nan


def _wide(x: Tensor) -> torch.dtype:
    # Squares of ordinary small gradients lie below float32's range, also on an accelerator.
    return torch.float32 if x.device.type == "mps" else torch.float64
