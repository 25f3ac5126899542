"""The gradients of an optimizer's parameters, their norms, and steps that are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def parameters_with_gradient(optimizer: Optimizer) -> list[Tensor]:
    """In the order of the groups; those whose gradient is ``None`` are no part of the step."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def values_of(parameter: Tensor) -> Tensor:
    """The stored numbers of a parameter's gradient, to be read and written in place.

    A sparse gradient is coalesced first: the same row may be in it several times, and only their
    sum has a norm.
    """
    grad = parameter.grad
    assert grad is not None
    if grad.layout is torch.sparse_coo:
        if not grad.is_coalesced():
            grad = parameter.grad = grad.coalesce()
        return grad._values()
    if grad.layout is not torch.strided:  # compressed rows or columns hold each entry once
        return grad.values()
    return grad


def gradients_of(optimizer: Optimizer) -> list[Tensor]:
    """All gradients, without a loss scale.

    A fused optimizer takes its gradients with the scaler's factor still in them and divides by it
    in its kernel. That is done here instead, and the kernel is told so.
    """
    found = [values_of(parameter) for parameter in parameters_with_gradient(optimizer)]
    scale = getattr(optimizer, "grad_scale", None)
    if isinstance(scale, Tensor):
        with torch.no_grad():
            for tensor in found:
                tensor.mul_(scale.to(tensor.device).double().reciprocal().to(tensor.dtype))
        optimizer.grad_scale = None  # type: ignore[attr-defined]
    return found


def norms_of(tensors: Sequence[Tensor]) -> list[float]:
    """The Euclidean norm of each, with one wait for each device.

    In float32, or float64 where that overflows: squares of 1e20 are infinite in float32 although
    the gradient is not.
    """
    found = _norms(tensors, torch.float32)
    if not all(map(math.isfinite, found)):
        found = _norms(tensors, torch.float64)
    return found


def _norms(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[float]:
    """Norms in a format, but never in a coarser one than the tensors' own."""
    found = [0.0] * len(tensors)
    places: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for at, tensor in enumerate(tensors):
        if tensor.numel():
            places.setdefault((tensor.device, tensor.dtype), []).append(at)
    measured: dict[torch.device, list[tuple[list[int], Tensor]]] = {}
    for (device, _), which in places.items():
        some = [_real(tensors[at].detach()) for at in which]
        wide = torch.promote_types(some[0].dtype, dtype)
        norms = torch.stack(torch._foreach_norm(some, 2, dtype=wide)).double()
        measured.setdefault(device, []).append((which, norms))
    for rows in measured.values():
        values = torch.cat([norms for _, norms in rows]).tolist()
        for at, value in zip([at for which, _ in rows for at in which], values, strict=True):
            found[at] = value
    return found


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def total_of(norms: Sequence[float]) -> float:
    """The norm of all tensors together; exact where squares would overflow."""
    if any(math.isnan(norm) for norm in norms):  # hypot calls infinity and NaN infinite
        return math.nan
    return math.hypot(*norms)


def scale(tensors: Sequence[Tensor], factors: Sequence[float]) -> None:
    """Multiply each tensor in place by its own factor; a factor of one leaves it alone."""
    places: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[float]]] = {}
    for tensor, factor in zip(tensors, factors, strict=True):
        if factor != 1.0 and tensor.numel():
            some, each = places.setdefault((tensor.device, tensor.dtype), ([], []))
            some.append(tensor)
            each.append(factor)
    with torch.no_grad():
        for some, each in places.values():
            torch._foreach_mul_(some, each)


class Hidden:
    """Gradients set aside for the length of a step, which the optimizer then leaves out.

    A parameter without a gradient is passed over by every optimizer of torch: no momentum, no
    weight decay, no counted step. Afterwards the gradients are back as they were, so that whoever
    logs them sees the infinity or NaN that they hold.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Any]] = []

    def hide(self, optimizer: Optimizer) -> None:
        """Let the coming step find nothing to do."""
        for parameter in parameters_with_gradient(optimizer):
            self._kept.append((parameter, parameter.grad))
            parameter.grad = None

    def show(self) -> None:
        """Give the gradients back."""
        while self._kept:
            parameter, grad = self._kept.pop()
            if parameter.grad is None:
                parameter.grad = grad
