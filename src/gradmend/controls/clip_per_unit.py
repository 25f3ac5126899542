"""Each unit's gradient, kept below a share of the unit's own weights."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.control import Control
from gradmend.controls.gradients import Hidden, gradients_of, parameters_with_gradient, values_of


class ClipPerUnit(Control):
    """AGC: g_u <- g_u min(1, ratio max(|w_u|, eps) / |g_u|) for each unit u (Brock et al. 2021).

    A unit is a row of a weight [out, ...]; a vector and a scalar are one unit. Nothing but
    whether all is finite is read on the host; a step that is not is left out and counted.

    Args:
        ratio: Largest gradient over weight of a unit.
        eps: Least weight norm that counts, for units that begin at zero.
        spared: Ids of parameters that are left alone: the last layer's.
    """

    name = "clip-per-unit"

    def __init__(self, ratio: float, eps: float, spared: Collection[int] = ()) -> None:
        self.ratio, self.eps, self.spared = ratio, eps, frozenset(spared)
        self._hidden = Hidden()

    @override
    def before(self, optimizer: Optimizer) -> None:
        tensors = gradients_of(optimizer)
        if not tensors:
            return
        seen = self.memory(optimizer)
        if not _all_finite(tensors):
            self.remember(optimizer, skipped=seen.get("skipped", 0) + 1)
            self._hidden.hide(optimizer)
            return
        self.remember(optimizer, steps=seen.get("steps", 0) + 1)
        with torch.no_grad():
            for parameter in parameters_with_gradient(optimizer):
                if id(parameter) not in self.spared:
                    self._clip(parameter)

    @override
    def after(self, optimizer: Optimizer) -> None:
        self._hidden.show()

    def _clip(self, parameter: Tensor) -> None:
        grad = parameter.grad
        assert grad is not None
        values, weights = values_of(parameter), parameter.detach()
        if not values.numel():
            return
        if grad.layout is torch.sparse_coo:
            if grad.sparse_dim() != 1:
                return  # entries without units
            weights = weights[parameter.grad._indices()[0]]  # type: ignore[union-attr]
        elif grad.layout is not torch.strided:
            return
        limit = self.ratio * unit_norms(weights).clamp_min(self.eps)
        norms = unit_norms(values)
        # Written so that a norm of zero, or one beyond the format, makes no NaN.
        factor = torch.where(norms > limit, limit / norms, torch.ones_like(norms))
        values.mul_(factor.to(values.dtype))


def unit_norms(tensor: Tensor) -> Tensor:
    """Norm of each unit, shaped so that it multiplies the tensor; float32 at least."""
    real = tensor.abs() if tensor.is_complex() else tensor
    wide = torch.promote_types(real.dtype, torch.float32)
    dims = tuple(range(1, real.dim())) if real.dim() > 1 else None
    # Divided by the largest entry first: squares of 1e20 would overflow.
    most = real.abs().amax(dim=dims or tuple(range(real.dim())), keepdim=True).to(wide)
    safe = torch.where(most > 0, most, torch.ones_like(most))
    ratio: Tensor = torch.linalg.vector_norm(real.to(wide) / safe, dim=dims, keepdim=True)
    return ratio * safe


def _all_finite(tensors: list[Tensor]) -> bool:
    """Whether every entry is a number; one wait for each device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            # The largest entry, never a sum: that of finite numbers may be infinite.
            by_device.setdefault(tensor.device, []).append(tensor.detach().abs().amax().double())
    return all(
        math.isfinite(largest)
        for found in by_device.values()
        for largest in torch.stack(found).tolist()
    )
