"""Attention with and without the root of its width."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from gradmend.zoo.healthy_trainings import Batch, classify, draws, make_optimizer
from gradmend.zoo.training import Training, training


class _Wide(nn.Module):
    def __init__(self, width: int, scaled: bool, fused: bool, normalised: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 4)
        self.scaled, self.fused, self.normalised = scaled, fused, normalised

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x))
        q, k, v = self.query(h), self.key(h), self.value(h)
        if self.normalised:
            q, k = F.normalize(q, dim=-1) * 4.0, F.normalize(k, dim=-1)
        if self.fused:
            seen = F.scaled_dot_product_attention(q, k, v, scale=None if self.scaled else 1.0)
        else:
            logits = q @ k.transpose(-2, -1)
            if self.scaled and not self.normalised:
                logits = logits / math.sqrt(q.shape[-1])
            seen = torch.softmax(logits, dim=-1) @ v
        y: Tensor = self.head((h + seen).mean(1))
        return y


@training
def wide_attention(
    *, width: int = 256, scaled: bool = True, fused: bool = False, normalised: bool = False
) -> Training:
    """One head of attention, on normalised inputs.

    Args:
        width: Of the head.
        scaled: Whether its logits are divided by sqrt(width).
        fused: By torch's own function.
        normalised: Queries and keys have unit length, and a temperature instead.
    """
    model = _Wide(width, scaled, fused, normalised)
    optimizer = make_optimizer("Adam", model, 1e-3)
    source = draws()

    def draw() -> Batch:
        x = torch.randn(16, 12, 16, generator=source)
        return x, x.mean(1)[:, :4].argmax(-1)

    return Training(model, optimizer, classify(model, optimizer, draw), 40)
