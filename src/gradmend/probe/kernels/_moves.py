"""What a step did to tensors: a sample before it, compared with the same places after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradmend.probe.kernels import _torch
from gradmend.probe.kernels._backend import compiled
from gradmend.probe.kernels._flat import Order, flat, unseen
from gradmend.probe.kernels._pending import Pending, fetch
from gradmend.probe.kernels._rows import LOST, MOVES, PLACE, Floats, Integers, blocks, looked
from gradmend.probe.kernels._table import (
    ENTRIES,
    FORMAT,
    OFFSET,
    PERIOD,
    START,
    WIDTHS,
    Located,
    locate,
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Copies of some entries of tensors, and where they were."""

    table: Integers
    """As in `_table`; addresses are out of date."""
    sample: NDArray[np.uint8]
    """What the table speaks of; shape [bytes]."""
    copies: dict[int, Tensor]
    """Of all other tensors: index to flat copy, on its device."""
    sizes: dict[int, int]
    """Entries of those tensors."""
    orders: dict[int, Order]
    compiled: bool


@unseen()
def sample(tensors: Sequence[Any], most: int | None, *, turn: int = 0) -> Sampled:
    """Copy some entries of every tensor: evenly spread blocks of 256.

    Args:
        tensors: Any tensors, or None.
        most: Copy no more entries of each than this (but one block); None is all.
        turn: Which of the blocks: turns in a row meet all of them, one and the same turn always
            the same.

    Returns:
        The copies, for ``compare``.
    """
    located = locate(tensors, compiled=compiled())
    table, copies, sizes = located.table, {}, {}
    for index, values in located.others.items():
        table[index, ENTRIES] = sizes[index] = values.numel()
    table[:, PERIOD], table[:, OFFSET] = blocks(table[:, ENTRIES], PLACE, most, turn)
    for index, values in located.others.items():
        copies[index] = _places(values, table[index])
        table[index, ENTRIES] = 0
    width = WIDTHS[table[:, FORMAT]]
    count = looked(table[:, ENTRIES], PLACE, table[:, PERIOD], table[:, OFFSET])
    ends = np.cumsum(-(-count * width // 8) * 8)  # each begins at a multiple of 8 bytes
    table[1:, START] = ends[:-1]
    buffer = np.empty(ends[-1] if len(ends) else 0, dtype=np.uint8)
    if len(buffer):
        from gradmend.probe.kernels import _numba_moves

        _numba_moves.gather(table, PLACE, buffer)
    return Sampled(table, buffer, copies, sizes, located.orders, compiled())


def compare(
    before: Sampled, tensors: Sequence[Any], gradients: Sequence[Any] | None = None
) -> Floats:
    """Compare tensors with their sample; see ``launch_compare``, for whose result it waits."""
    return launch_compare(before, tensors, gradients).result()


@unseen()
def launch_compare(
    before: Sampled, tensors: Sequence[Any], gradients: Sequence[Any] | None = None
) -> Pending:
    """Compare tensors with their sample, place by place.

    Sums of squares are plain ones in float64: weights beyond 1e154, and changes below 1e-154 of
    float64 weights, leave their range.

    Args:
        before: What ``sample`` gave for the same tensors.
        tensors: They, after the step; wherever in memory, but of the same shapes and types, else
            nothing of them is compared.
        gradients: Theirs, or None; each dense and of its tensor's shape, else it counts as None.

    Returns:
        Rows with the columns ``MOVES``, shape [tensors, 7].

    Raises:
        ValueError: The sample is of another number of tensors.
    """
    if len(tensors) != len(before.table):
        raise ValueError(f"sampled {len(before.table)} tensors and got {len(tensors)} to compare")
    located = locate(tensors, compiled=before.compiled, orders=before.orders)
    table, known = located.table, before.table
    same = (table[:, ENTRIES] == known[:, ENTRIES]) & (table[:, FORMAT] == known[:, FORMAT])
    table[:, PERIOD:] = known[:, PERIOD:]
    table[~same, ENTRIES] = 0
    rows = np.zeros((len(tensors), len(MOVES)))
    rows[:, LOST] = np.nan
    others = {
        index: values
        for index, values in located.others.items()
        if values.numel() == before.sizes.get(index)
        and values.dtype == before.copies[index].dtype
        and values.device == before.copies[index].device
    }
    given = None
    if gradients is not None:
        given = locate(gradients, compiled=before.compiled, orders=before.orders)
    if table[:, ENTRIES].any():
        _compare_here(before, table, given, rows)
    pending = Pending(rows, _add)
    if others:
        _compare_others(before, others, gradients, pending)
    return pending


def _compare_here(before: Sampled, table: Integers, given: Located | None, rows: Floats) -> None:
    """Write the rows of the tensors in a table."""
    from gradmend.probe.kernels import _numba_moves

    flags = np.zeros(len(before.sample), dtype=np.uint8)
    there = table[:, ENTRIES] > 0
    if given is not None:
        moving = given.table
        matching = there & (moving[:, ENTRIES] == table[:, ENTRIES])
        moving[:, PERIOD:] = table[:, PERIOD:]
        moving[~matching, ENTRIES] = 0
        _numba_moves.nonzero(moving, PLACE, flags)
    _numba_moves.compare(table, PLACE, before.sample, flags, rows)
    rows[there if given is None else there & ~matching, LOST] = np.nan
    rows[~there, LOST] = np.nan


def _compare_others(
    before: Sampled,
    others: dict[int, Tensor],
    gradients: Sequence[Any] | None,
    pending: Pending,
) -> None:
    """Compare the tensors that are not in the table, device by device."""
    devices: dict[torch.device, tuple[_torch.Pieces, _torch.Pieces, _torch.Pieces]] = {}
    for index, values in others.items():
        old, places = before.copies[index], before.table[index]
        new = _places(values, places)
        gradient = flat(gradients[index], before.orders.get(index, "index")) if gradients else None
        if gradient is not None and gradient[0].numel() == values.numel():
            moving = _torch.moves(_places(gradient[0], places)).to(values.device)
            pending.rows[index, LOST] = 0.0
        else:
            moving = torch.zeros_like(new, dtype=torch.bool)
        most = _torch.limit(values.device)
        found = devices.setdefault(values.device, ([], [], []))
        for pieces, part in zip(found, (old, new, moving), strict=True):
            pieces.extend((index, piece) for piece in torch.split(part, most))
    pending.parts.extend(fetch(*_torch.compare(*found)) for found in devices.values())


def _places(values: Tensor, row: Integers) -> Tensor:
    """Copy the chosen blocks of a flat tensor."""
    return torch.cat(_torch.chosen(values, PLACE, int(row[PERIOD]), int(row[OFFSET])))


def _add(rows: Floats, owners: Integers, added: Floats) -> Floats:
    rows = rows.copy()
    np.add.at(rows, owners, added)
    return rows
