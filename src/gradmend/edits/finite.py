"""Which samples of a batch can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def without_bad_samples(batch: Any) -> Any:
    """A batch, of any nesting, without the samples that hold NaN or infinity.

    Samples are counted along the first dimension of the largest number of tensors. An additive
    mask of zeros and minus infinity is no fault. ``None`` where no sample is left.
    """
    tensors = list(_tensors(batch))
    sizes = [t.shape[0] for t in tensors if t.dim()]
    if not sizes:
        return batch
    samples = max(sizes, key=lambda size: (sizes.count(size), size))
    good = torch.ones(samples, dtype=torch.bool)
    for t in tensors:
        if t.dim() and t.shape[0] == samples and t.is_floating_point() and not _is_mask(t):
            good &= torch.isfinite(t.detach()).reshape(samples, -1).all(dim=1).cpu()
    if not bool(good.any()):
        return None
    if bool(good.all()):
        return batch

    def kept(t: Tensor) -> Tensor:
        return t[good.to(t.device)] if t.dim() and t.shape[0] == samples else t

    return _mapped(batch, kept)


def _is_mask(t: Tensor) -> bool:
    """Zeros and infinities alone: an additive attention mask."""
    return bool(((t == 0) | torch.isinf(t)).all()) and not bool((t == torch.inf).any())


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _tensors(value)


def _mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return type(batch)({key: _mapped(value, change) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_mapped(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_mapped(value, change) for value in batch)
    return batch
