"""A loss multiplied so that half-precision gradients do not round to zero."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.control import Control
from gradmend.controls.gradients import Hidden, gradients_of, norms_of, scale, total_of

GROWTH = 2000
"""Steps without overflow after which the scale is doubled, as in torch's gradient scaler."""


class LossScale(Control):
    """Multiplies the loss, and divides the gradient again before the optimizer sees it.

    The scale is halved at each step whose gradient is not finite, which is left out and counted,
    and doubled again after a while, up to where it began. A gradient is only divided if the loss
    was multiplied since the last step: whoever trains with the plain loss gets the plain gradient.

    Args:
        factor: Of the loss, at first.
        divide: Whether gradients are divided again. Not so for an optimizer to which the scale of
            a gradient is nothing (Adam), over half-precision parameters: the divided gradient
            would be too small for their format once more.
    """

    name = "loss-scale"
    first = True

    def __init__(self, factor: float, *, divide: bool = True) -> None:
        self.factor, self.divide = factor, divide
        self._hidden = Hidden()
        self._scaled_by: float | None = None

    def current(self, optimizer: Optimizer) -> float:
        """The scale of the next loss."""
        return float(self.memory(optimizer).get("scale", self.factor))

    def change(self, loss: Tensor, optimizer: Optimizer) -> Tensor:
        """The loss to descend on; one without a graph is only looked at and stays what it is."""
        if not loss.requires_grad:
            return loss
        self._scaled_by = self.current(optimizer)
        # In float32: half precision ends at 65504, which loss times scale may well exceed.
        return loss.float() * self._scaled_by

    @override
    def before(self, optimizer: Optimizer) -> None:
        by, self._scaled_by = self._scaled_by, None
        if by is None:
            return
        tensors = gradients_of(optimizer)
        if not tensors:
            return
        seen = self.memory(optimizer)
        if not math.isfinite(total_of(norms_of(tensors))):
            self.remember(optimizer, scale=by / 2.0, calm=0, skipped=seen.get("skipped", 0) + 1)
            self._hidden.hide(optimizer)
            return
        calm = int(seen.get("calm", 0)) + 1
        if calm >= GROWTH:
            calm, grown = 0, min(2.0 * by, self.factor)
        else:
            grown = by
        self.remember(optimizer, scale=grown, calm=calm)
        if self.divide:
            scale(tensors, [1.0 / by] * len(tensors))

    @override
    def after(self, optimizer: Optimizer) -> None:
        self._hidden.show()
