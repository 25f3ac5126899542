"""Where numbers lie: the table of addresses that the compiled kernels walk through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradmend.probe.kernels._flat import Order, flat
from gradmend.probe.kernels._rows import Integers

FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = range(4)
FORMATS = {
    torch.float32: FLOAT32,
    torch.bfloat16: BFLOAT16,
    torch.float16: FLOAT16,
    torch.float64: FLOAT64,
}
WIDTHS = np.array([4, 2, 2, 8])
"""Bytes by format."""

ADDRESS, ENTRIES, FORMAT, PERIOD, OFFSET, START = range(6)
"""Columns of a table. ``PERIOD`` and ``OFFSET`` as in `_rows.blocks`; ``START`` is the byte where
a tensor's sample begins."""

USUAL = frozenset((torch.Tensor, torch.nn.Parameter))


@dataclass(frozen=True, slots=True)
class Located:
    """Tensors, sorted by who can read them. Made anew for every use: gradients move."""

    table: Integers
    """Of the tensors in this machine's memory in a format that the compiled kernels know; of
    shape [tensors, 6], with no entries in the rows of the others."""
    others: dict[int, Tensor]
    """Index to flat tensor: on devices, or in rare formats."""
    orders: dict[int, Order]
    """Index to the order of walking, of those whose memory is not in the order of indices."""
    held: list[Tensor]
    """What the table points to and nobody else may hold."""


def locate(
    tensors: Sequence[Any], *, compiled: bool, orders: dict[int, Order] | None = None
) -> Located:
    """Find the memory of tensors; to be called within ``unseen``.

    Args:
        tensors: Any tensors, or None.
        compiled: Whether compiled kernels will read them; else all go to ``others``.
        orders: Walk through these in the given order, and through all others in that of indices;
            None is the order of each one's memory.

    Returns:
        Where they are. What has no numbers that can be read (see `_flat.flat`) is nowhere.
    """
    places: list[int] = []
    add = places.extend
    strange: list[int] = []
    for index, tensor in enumerate(tensors):
        if tensor is None:
            add((0, 0, 0))
            continue
        # The usual case first, in as few calls as possible: there are hundreds of tensors.
        try:
            if (
                compiled
                and type(tensor) in USUAL
                and tensor.is_cpu
                and tensor.is_contiguous()
                and not tensor.is_neg()
                and not (orders and index in orders)
            ):
                add((tensor.data_ptr(), tensor.numel(), FORMATS[tensor.dtype]))
                continue
        except (KeyError, RuntimeError, NotImplementedError):
            pass  # another format, or no memory of its own: looked at below
        add((0, 0, 0))
        strange.append(index)
    table = np.zeros((len(tensors), 6), dtype=np.int64)
    table[:, :3] = np.array(places, dtype=np.int64).reshape(-1, 3)
    table[:, PERIOD] = 1
    located = Located(table, {}, {}, [])
    for index in strange:
        _settle(located, index, tensors[index], compiled, orders)
    return located


def _settle(
    located: Located, index: int, tensor: Any, compiled: bool, orders: dict[int, Order] | None
) -> None:
    """Find one tensor that is not the usual case."""
    found = flat(tensor, "memory" if orders is None else orders.get(index, "index"))
    if found is None or not found[0].numel():
        return
    values, order = found
    if order != "index":
        located.orders[index] = order
    if compiled and values.is_cpu and values.dtype in FORMATS:
        located.table[index, :3] = values.data_ptr(), values.numel(), FORMATS[values.dtype]
        located.held.append(values)
    else:
        located.others[index] = values
