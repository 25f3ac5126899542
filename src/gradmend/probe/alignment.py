"""Sequences of different lengths, side by side in one unrolling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Alignment:
    """Where each sequence's own steps lie: all of them end at the last step of the unrolling."""

    lengths: Tensor
    """Shape [B]."""
    steps: int

    def times(self, reverse: bool) -> Tensor:
        """Place in time of each step of the unrolling, shape [T, B]; clamped where not begun."""
        step = torch.arange(self.steps, device=self.lengths.device)[:, None]
        if reverse:
            return (self.steps - 1 - step).expand(-1, len(self.lengths))
        return (step - (self.steps - self.lengths)).clamp(min=0)

    def places(self, reverse: bool) -> Tensor:
        """Step of the unrolling of each place in time, shape [T, B]; the inverse of ``times``."""
        time = torch.arange(self.steps, device=self.lengths.device)[:, None]
        if reverse:
            return (self.steps - 1 - time).expand(-1, len(self.lengths))
        return (time + (self.steps - self.lengths)).clamp(max=self.steps - 1)

    def begun(self) -> Tensor:
        """Whether a sequence has begun at a step of the unrolling, shape [T, B]."""
        step = torch.arange(self.steps, device=self.lengths.device)[:, None]
        return step >= self.steps - self.lengths

    def inside(self) -> Tensor:
        """Whether a place in time belongs to the sequence, shape [T, B]."""
        time = torch.arange(self.steps, device=self.lengths.device)[:, None]
        return time < self.lengths
