"""Large tensors used again at each step: fresh memory costs more than the arithmetic in it.

A page of memory that the system hands out for the first time is cleared: 5 us for the activations
of one layer of 64 x 32 numbers, as much as their matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


def users_of(tensor: Tensor) -> int:
    """How many tensors look into the storage of this one; -1 where torch does not tell."""
    if _count is None:
        return -1
    storage: Any = tensor.untyped_storage()
    return _count(storage._cdata) - 1  # less the handle just made


@dataclass(slots=True)
class Pool:
    """Lends tensors, and lends them again when nothing looks into them any more."""

    _owned: list[Tensor] = field(default_factory=list)

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of that shape with anything in it, of the type of ``like``."""
        for tensor in self._owned:
            if tensor.shape == shape and tensor.dtype == like.dtype and users_of(tensor) == 1:
                return tensor.view(shape)
        tensor = torch.empty(shape, dtype=like.dtype, device=like.device)
        if _count is not None:
            self._owned.append(tensor)
        return tensor.view(shape)
