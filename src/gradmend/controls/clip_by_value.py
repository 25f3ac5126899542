"""Every entry of the gradient, kept between two limits."""

from __future__ import annotations

import torch
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.control import Control
from gradmend.controls.gradients import gradients_of


class ClipByValue(Control):
    """g <- min(max(g, lower), upper), entry by entry; the limits need not be symmetric.

    Infinity becomes the limit of its sign, and NaN stays NaN: it is no large number. Nothing is
    read on the host. Entries that a sparse gradient does not hold are zeros and stay so.

    Args:
        lower: Least value, at most 0.
        upper: Largest value, at least 0.
    """

    name = "clip-by-value"

    def __init__(self, lower: float, upper: float) -> None:
        self.lower, self.upper = lower, upper

    @override
    def before(self, optimizer: Optimizer) -> None:
        with torch.no_grad():
            for tensor in gradients_of(optimizer):
                real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
                real.clamp_(self.lower, self.upper)
