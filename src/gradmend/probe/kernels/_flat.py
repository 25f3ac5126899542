"""Tensors of any layout to flat ones, without a copy wherever their memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

Order = tuple[int, ...] | Literal["index", "memory"]
"""In which order to walk through a tensor: that of its indices, that of its memory, or the one that
strides give. Two tensors of one shape are compared in the same."""


_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
for _name in ("CPU", "CUDA", "XPU", "MPS", "HPU", "PrivateUse1"):
    _key = getattr(torch._C.DispatchKey, f"Autocast{_name}", None)
    if _key is not None:
        _AUTOCAST = _AUTOCAST | torch._C.DispatchKeySet(_key)


@contextmanager
def unseen() -> Iterator[None]:
    """Within it nothing is recorded by autograd, nor met by modes of functions, operations, types.

    A user's modes count operations (selective checkpointing compares them with the first pass),
    send new tensors to a default device, or compute in another format, with which float8 fails.
    """
    with ExitStack() as stack:
        stack.enter_context(torch._C.DisableTorchFunction())
        stack.enter_context(torch._C._DisableTorchDispatch())
        stack.enter_context(torch._C._ExcludeDispatchKeyGuard(_AUTOCAST))
        stack.enter_context(torch.no_grad())
        yield


def is_plain(kind: type) -> bool:
    """Tell whether a class keeps its numbers in its own memory, as Tensor and Parameter do."""
    ours = torch.Tensor.__torch_dispatch__
    return getattr(kind, "__torch_dispatch__", None) in (ours, None)


def flat(tensor: Any, order: Order = "memory") -> tuple[Tensor, Order] | None:
    """The entries of a tensor as a flat one, real and floating.

    Complex numbers are pairs of real ones. Of a sparse tensor it is the values it stores, summed
    up (coalesced) or not; zeros it leaves out are no entries. Of a DTensor it is the local shard.

    Args:
        tensor: Any tensor, or None.
        order: In which order; "memory" is that of indices where entries share memory or leave
            gaps.

    Returns:
        The flat tensor, contiguous, a view unless layout and order forbid it, and the order used:
        strides, or "index" where they are those of a contiguous tensor. None for what has no
        floating-point numbers that can be read: None, integers, meta and fake tensors, wrappers
        of other libraries.
    """
    try:
        return _flat(tensor, order)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None  # not readable: wrapped by a functorch transform, quantised, uninitialised


def _flat(tensor: Any, order: Order) -> tuple[Tensor, Order] | None:
    tensor = getattr(tensor, "_local_tensor", tensor)
    if tensor is None or not is_plain(type(tensor)) or tensor.is_meta:
        return None
    if tensor.layout == torch.sparse_coo:
        tensor = tensor._values()
    elif tensor.layout != torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point() or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return None
    tensor = tensor.resolve_neg()
    if order == "memory" and _fills_memory(tensor):
        order = tensor.stride()
    if tensor.is_contiguous() and order in ("index", "memory", tensor.stride()):
        return tensor.view(-1), "index"
    if not isinstance(order, tuple):
        return tensor.contiguous().view(-1), "index"
    if tensor.stride() != order:
        walked = torch.empty_strided(tensor.shape, order, dtype=tensor.dtype, device=tensor.device)
        tensor = walked.copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,)), order


def _fills_memory(tensor: Tensor) -> bool:
    """Tell whether the entries fill a stretch of memory, each once."""
    filled = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != filled:
                return False
            filled *= size
    return True
