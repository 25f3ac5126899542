"""Which samples of a batch can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def finite_samples(batch: Any) -> Any | None:
    """A batch without the samples that hold NaN or infinity.

    Samples lie along the first dimension of the tensors that share the first one's length.
    Additive attention masks of 0 and -inf are no fault.

    Args:
        batch: Nested tuples, lists and mappings of tensors.

    Returns:
        The very same object where nothing is wrong; ``None`` where no sample is left.
    """
    tensors = list(_tensors(batch))
    size = next((t.shape[0] for t in tensors if t.dim()), 0)
    good: Tensor | None = None
    for tensor in tensors:
        if not tensor.is_floating_point() or _is_mask(tensor):
            continue
        finite = torch.isfinite(tensor)
        if bool(finite.all()):
            continue
        if tensor.dim() == 0 or tensor.shape[0] != size:
            return None  # no sample is free of it
        rows = finite.reshape(size, -1).all(dim=1)
        good = rows if good is None else good & rows.to(good.device)
    if good is None:
        return batch
    if not bool(good.any()):
        return None
    keep = good

    def cut(tensor: Tensor) -> Tensor:
        return tensor[keep.to(tensor.device)] if tensor.dim() and len(tensor) == size else tensor

    return _mapped(batch, cut)


def _is_mask(tensor: Tensor) -> bool:
    return bool(((tensor == 0) | (tensor == -torch.inf)).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, change) for item in value)
    return value
