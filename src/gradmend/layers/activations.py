"""Activations that an edit may put in another's place."""

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


REPLACEMENTS: dict[str, type[nn.Module]] = {
    "CentredSigmoid": CentredSigmoid,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "Identity": nn.Identity,
    "LeakyReLU": nn.LeakyReLU,
    "LogSoftmax": nn.LogSoftmax,
    "PReLU": nn.PReLU,
    "ReLU": nn.ReLU,
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Softmax": nn.Softmax,
    "Softplus": nn.Softplus,
    "Tanh": nn.Tanh,
}
"""The activations an edit may put in another's place, by name."""
