"""Residual blocks that an edit may make of modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReZero(nn.Module):
    """h + alpha f(h) with a learned scalar alpha that starts at zero (Bachlechner et al. 2021).

    Args:
        parts: The modules that make up f, in order.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.f = nn.Sequential(*parts)
        like = next(self.f.parameters(), torch.zeros(()))
        self.alpha = nn.Parameter(torch.zeros((), dtype=like.dtype, device=like.device))

    def forward(self, h: Tensor) -> Tensor:
        """Compute h + alpha f(h); f must keep the shape."""
        result: Tensor = h + self.alpha * self.f(h)
        return result
