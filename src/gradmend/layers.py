"""The few modules an edit may insert."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CentredSigmoid(nn.Module):
    """s(x) = 2 sigma(2 x) - 1: the sigmoid in coordinates centred on its point of symmetry.

    The same layer as ``nn.Sigmoid`` up to a fixed affine map before and after it, which the
    neighbouring linear layers can absorb exactly (:func:`gradmend.edits.export_plain`): a net
    trained in these coordinates *is* a plain sigmoid net. Its slope at zero is one and its mean
    output zero, so weight updates do not add up to a common bias over depth.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Centred sigmoid, elementwise; any shape."""
        return 2.0 * torch.sigmoid(2.0 * x) - 1.0


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


class Standardised(nn.Module):
    """Reads (x - mean) / std; the figures are buffers, so they are saved with the model.

    Args:
        inner: The module that read x itself.
        mean: Per feature, or one for all.
        std: Per feature, or one for all; zeros become one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, inner: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The inner module on standardised input."""
        result: Tensor = self.inner((x - self.mean) / self.std, *args, **kwargs)
        return result


REPLACEMENTS: dict[str, type[nn.Module]] = {
    "CentredSigmoid": CentredSigmoid,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "LeakyReLU": nn.LeakyReLU,
    "ReLU": nn.ReLU,
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
}
"""The activations an edit may put in another's place, by name."""
