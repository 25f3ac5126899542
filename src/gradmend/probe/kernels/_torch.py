"""The same kernels by torch operations: without numba, on devices, and for rare formats.

Tensors are cut into pieces, and pieces of equal size measured together as the rows of a matrix, so
that hundreds of tiny tensors cost some operations and not some each. Temporaries have the size of
one such matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from gradmend.probe.kernels._rows import MOVES, STATS, Integers

LEAST_EXPONENT, MOST_EXPONENT = -1074, 1023
"""Of float64, subnormal numbers included."""

# A matrix that stays in the second cache; on devices, one that keeps them busy.
ENTRIES_HERE, ENTRIES_ON_DEVICE = 1 << 16, 1 << 22

Pieces = list[tuple[int, Tensor]]
"""Owners, and flat tensors of no more than a matrix's entries."""


def chosen(values: Tensor, block: int, period: int, offset: int) -> list[Tensor]:
    """The chosen blocks of a flat tensor as flat views and copies (see `_rows.blocks`)."""
    if period == 1:
        return [values] if values.numel() else []
    size = values.numel()
    whole = len(range(offset * block, size - block + 1, period * block))
    parts = []
    if whole:
        strides = (period * block, 1)
        start = values.storage_offset() + offset * block
        parts.append(values.as_strided((whole, block), strides, start).reshape(-1))
    last = (offset + whole * period) * block
    if last < size:
        parts.append(values[last : last + block])
    return parts


def pieces(
    tensors: Mapping[int, Tensor], block: int, period: Integers, offset: Integers
) -> dict[torch.device, Pieces]:
    """What to look at, cut to size, by device."""
    result: dict[torch.device, Pieces] = {}
    for index, values in tensors.items():
        most = limit(values.device)
        found = result.setdefault(values.device, [])
        if period[index] == 1 and values.numel() <= most:
            found.append((index, values))
            continue
        for part in chosen(values, block, int(period[index]), int(offset[index])):
            found.extend((index, piece) for piece in torch.split(part, most))
    return result


def limit(device: torch.device) -> int:
    """Entries of a matrix."""
    return ENTRIES_HERE if device.type == "cpu" else ENTRIES_ON_DEVICE


def batches(found: Pieces) -> Iterator[list[int]]:
    """Positions of pieces of one format and size, as many at once as make a matrix."""
    alike: dict[tuple[torch.dtype, int], list[int]] = {}
    for position, (_, piece) in enumerate(found):
        alike.setdefault((piece.dtype, piece.numel()), []).append(position)
    for (_, size), positions in alike.items():
        rows = max(limit(found[positions[0]][1].device) // size, 1)
        for start in range(0, len(positions), rows):
            yield positions[start : start + rows]


def matrix(parts: list[Tensor]) -> Tensor:
    """Equal pieces as rows, narrow formats as float32: torch computes faster with it, or at all."""
    rows = parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)
    return rows.float() if rows.element_size() < 4 else rows


def wide(x: Tensor) -> torch.dtype:
    """The type to sum in: float64 wherever the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def sweep(found: Pieces) -> tuple[Integers, Tensor]:
    """Owners and rows of ``STATS``, the latter on the device; shape [pieces, 7]."""
    owners: list[int] = []
    rows: list[Tensor] = []
    for positions in batches(found):
        owners.extend(found[position][0] for position in positions)
        x = matrix([found[position][1] for position in positions])
        row = _sweep_ordinary(x) if x.is_cpu else None
        rows.append(_sweep(x) if row is None else row)
    return np.array(owners, dtype=np.int64), torch.cat(rows)


def _sweep_ordinary(x: Tensor) -> Tensor | None:
    """Rows of a finite matrix whose squares float64 can hold, without comparing every entry.

    It asks for values, so it is only for where nobody waits for them. Eight times as fast.
    """
    size = x.abs()
    most = size.amax(1).double()
    unit = torch.where(most == 0, 1, most)  # NaN stays, and fails the test
    if not (unit.max() < 1e140 and unit.min() > 1e-140):
        return None
    nonzero = size.sign().sum(1)
    zeros = x.shape[1] - nonzero
    if zeros.any():
        size = torch.where(size > 0, size, math.inf)
    count = torch.full_like(most, x.shape[1])
    x = x.double()
    squares = (torch.linalg.vector_norm(x, dim=1) / unit).square()
    columns = {
        "count": count,
        "total": x.sum(1),
        "relative_squares": squares,
        "max_abs": most,
        "min_abs_nonzero": size.amin(1).double(),
        "zeros": zeros.double(),
        "non_finite": torch.zeros_like(most),
    }
    return torch.stack([columns[name] for name in STATS], 1)


def _sweep(x: Tensor) -> Tensor:
    """Rows of a matrix; the order of columns is that of ``STATS``."""
    size = x.abs()
    finite = size < math.inf
    size = torch.where(finite, size, 0)
    x = torch.where(finite, x, 0).to(wide(x))
    most = size.amax(1).to(x.dtype)
    nonzero = size > 0
    least = torch.where(nonzero, size, math.inf).amin(1).to(x.dtype)
    count = finite.sum(1)
    squares = (x / torch.where(most > 0, most, 1).unsqueeze(1)).square().sum(1)
    columns = {
        "count": count,
        "total": x.sum(1),
        "relative_squares": squares,
        "max_abs": most,
        "min_abs_nonzero": least,
        "zeros": count - nonzero.sum(1),
        "non_finite": x.shape[1] - count,
    }
    return torch.stack([columns[name].to(x.dtype) for name in STATS], 1)


def exponents(found: Pieces, tensors: int) -> Integers:
    """Counts of exponents from that of the least float64 on, shape [tensors, 2098].

    Waits for the device.
    """
    bins = MOST_EXPONENT - LEAST_EXPONENT + 2  # the first is for all that is not counted
    counts = np.zeros((tensors, bins), dtype=np.int64)
    for positions in batches(found):
        x = matrix([found[position][1] for position in positions])
        size = x.abs().to(wide(x))
        place = torch.frexp(size).exponent - LEAST_EXPONENT
        place = torch.where((size > 0) & (size < math.inf), place, 0)
        # Few rows of counts at a time, as they are long.
        for start in range(0, len(positions), 64):
            part = place[start : start + 64]
            rows = torch.arange(len(part), device=x.device).unsqueeze(1) * bins
            counted = torch.bincount((part + rows).flatten(), minlength=len(part) * bins)
            owners = [found[position][0] for position in positions[start : start + 64]]
            np.add.at(counts, owners, counted.view(-1, bins).cpu().numpy())
    return counts[:, 1:]


def compare(before: Pieces, after: Pieces, moving: Pieces) -> tuple[Integers, Tensor]:
    """Owners and rows of ``MOVES``, the latter on the device; shape [pieces, 7].

    Args:
        before: The sample.
        after: The same places now, cut like it.
        moving: Whether the gradient there is finite and not zero, cut like it.
    """
    owners: list[int] = []
    rows: list[Tensor] = []
    for positions in batches(after):
        owners.extend(after[position][0] for position in positions)
        old, new, flags = (
            torch.stack([found[position][1] for position in positions])
            for found in (before, after, moving)
        )
        rows.append(_compare(old, new, flags))
    return np.array(owners, dtype=np.int64), torch.cat(rows)


def _compare(old: Tensor, new: Tensor, moving: Tensor) -> Tensor:
    """Rows of matrices; the order of columns is that of ``MOVES``."""
    same = bits(old) == bits(new)
    old, new = old.to(wide(old)), new.to(wide(new))
    good = new.isfinite()
    finite = good & old.isfinite()
    change = torch.where(finite, new - old, 0)
    columns = {
        "count": torch.full_like(old[:, 0], old.shape[1]),
        "finite": finite.sum(1),
        "before_squares": torch.where(finite, old, 0).square().sum(1),
        "change_squares": change.square().sum(1),
        "unchanged": same.sum(1),
        "lost": (same & moving).sum(1),
        "non_finite": new.shape[1] - good.sum(1),
    }
    return torch.stack([columns[name].to(old.dtype) for name in MOVES], 1)


def bits(x: Tensor) -> Tensor:
    """The bits of numbers, as integers."""
    return x.view(
        {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    )


def moves(x: Tensor) -> Tensor:
    """Whether entries are finite and not zero."""
    size = (x.float() if x.element_size() < 4 else x).abs()
    return (size > 0) & (size < math.inf)
