"""One pass over many tensors: sums, extremes, counts, exponents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gradmend.probe.kernels import _torch
from gradmend.probe.kernels._backend import compiled
from gradmend.probe.kernels._flat import unseen
from gradmend.probe.kernels._pending import Pending, fetch
from gradmend.probe.kernels._rows import BLOCK, Floats, Integers, blocks, combine, nothing
from gradmend.probe.kernels._table import (
    ENTRIES,
    FLOAT64,
    FORMAT,
    FORMATS,
    OFFSET,
    PERIOD,
    Located,
    locate,
)
from gradmend.records.exponents import Exponents

# Exponent of the least subnormal number, by format in the order of `_table.FORMATS`.
LEAST = np.array([-149, -133, -24, -1074])


@unseen()
def launch(tensors: Sequence[Any], *, most: int | None = None, turn: int = 0) -> Pending:
    """Measure all tensors without waiting for any device.

    What is in this machine's memory is measured when this returns; on a device the work is
    queued, and what is changed there afterwards by the same stream is not seen. (The device path
    was tested with this machine's memory in the place of a device's.)

    Args:
        tensors: Of any floating or complex type and layout (see `_flat.flat`), or None, of which
            nothing is counted.
        most: Look at about this many entries of each at most, in evenly spread blocks of 1024 (of
            ``most``, if that is less); None is all.
        turn: Moves the blocks, so that enough turns in a row look at every entry. Count calls,
            not steps, if not every step is measured.

    Returns:
        Rows with the columns ``STATS``, shape [tensors, 7].
    """
    located = locate(tensors, compiled=compiled())
    block = BLOCK if most is None else max(min(BLOCK, most), 1)
    others = _choose(located, block, most, turn)
    pending = Pending(nothing(len(tensors)), _add)
    if located.table[:, ENTRIES].any():
        from gradmend.probe.kernels import _numba

        _numba.sweep(located.table, block, pending.rows)
    pending.parts.extend(fetch(*_torch.sweep(found)) for found in others if found)
    return pending


def sweep(tensors: Sequence[Any], *, most: int | None = None, turn: int = 0) -> Floats:
    """Measure all tensors; see ``launch``, for whose result it waits."""
    return launch(tensors, most=most, turn=turn).result()


@unseen()
def exponents(tensors: Sequence[Any], *, stride: int = 1, turn: int = 0) -> list[Exponents]:
    """Count the numbers of each tensor by exponent, exactly, subnormal numbers too.

    Waits for devices.

    Args:
        tensors: As for ``launch``.
        stride: Look at every how many blocks of 1024 entries; at one, where a tensor has fewer.
            What became of it is the stride of the result.
        turn: Moves the blocks.
    """
    located = locate(tensors, compiled=compiled())
    strides = np.ones(len(tensors), dtype=np.int64)
    others = _choose(located, BLOCK, None, turn, stride, strides)
    table = located.table
    wide = bool((table[:, FORMAT] == FLOAT64).any())
    counts = np.zeros((len(tensors), _fields(wide)), dtype=np.int64)
    if table[:, ENTRIES].any():
        from gradmend.probe.kernels import _numba

        _numba.exponents(table, BLOCK, counts)
    result = _records(counts, LEAST[table[:, FORMAT]], strides)
    for found in others:
        if found:
            owners = sorted({owner for owner, _ in found})
            local = {owner: row for row, owner in enumerate(owners)}
            pieces = [(local[owner], piece) for owner, piece in found]
            counts = _torch.exponents(pieces, len(owners))
            least = np.full(len(owners), _torch.LEAST_EXPONENT)
            for owner, record in zip(owners, _records(counts, least, strides[owners]), strict=True):
                result[owner] = record
    return result


def exponents_of(x: Tensor) -> Exponents:
    """Count the numbers of one plain tensor; to be called where nothing is recorded.

    The same as ``exponents`` of it alone, at a tenth of the Python: inside a forward pass there is
    a tensor at a time.
    """
    form = FORMATS.get(x.dtype)
    if form is None or not x.is_cpu or x.is_neg() or not compiled():
        return exponents([x])[0]
    from gradmend.probe.kernels import _numba

    x = x.contiguous()
    table = np.array([[x.data_ptr(), x.numel(), form, 1, 0, 0]], dtype=np.int64)
    counts = np.zeros((1, _fields(form == FLOAT64)), dtype=np.int64)
    _numba.exponents(table, BLOCK, counts)
    (found,) = counts
    (bins,) = found.nonzero()
    least = int(LEAST[form])
    return Exponents(counts=dict(zip((bins + least).tolist(), found[bins].tolist(), strict=True)))


def _fields(wide: bool) -> int:
    """Powers of two of float64, or of all narrower formats."""
    return 2098 if wide else 278


def _choose(
    located: Located,
    block: int,
    most: int | None,
    turn: int,
    stride: int = 1,
    strides: Integers | None = None,
) -> list[_torch.Pieces]:
    """Write the chosen blocks into the table; return those of the other tensors."""
    table = located.table
    entries = table[:, ENTRIES].copy()
    for index, values in located.others.items():
        entries[index] = values.numel()
    if strides is not None:
        strides[:] = np.clip(-(-entries // block), 1, max(stride, 1))
        table[:, PERIOD], table[:, OFFSET] = strides, turn % strides
    elif most is not None:
        table[:, PERIOD], table[:, OFFSET] = blocks(entries, block, most, turn)
    if not located.others:
        return []
    found = _torch.pieces(located.others, block, table[:, PERIOD], table[:, OFFSET])
    return list(found.values())


def _records(counts: Integers, least: Integers, strides: Integers) -> list[Exponents]:
    """Rows of counts as records."""
    where, bins = np.nonzero(counts)
    ends = np.cumsum(np.bincount(where, minlength=len(counts))).tolist()
    exponents, numbers = (bins + least[where]).tolist(), counts[where, bins].tolist()
    begin, result = 0, []
    for end, stride in zip(ends, strides.tolist(), strict=True):
        pairs = zip(exponents[begin:end], numbers[begin:end], strict=True)
        result.append(Exponents(counts=dict(pairs), stride=stride))
        begin = end
    return result


def _add(rows: Floats, owners: Integers, added: Floats) -> Floats:
    every = np.arange(len(rows))
    return combine(np.concatenate([rows, added]), np.concatenate([every, owners]), len(rows))
