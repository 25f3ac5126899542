"""Normalisation that an edit may put behind a layer, or into its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradmend.layers.wrappers import Wrapped

BATCH_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""By the number of dimensions that each sample's channel has, 0 and 1 alike."""

EPSILON = 1e-10
"""Added to the square sum of a unit's weights, which is 1/3 for torch's default: rows of zeros
stay finite, and weights drawn ten thousand times too small are still brought to the gain."""


def norm_layer(kind: str, features: int, *, dims: int = 0, groups: int = 1) -> nn.Module:
    """A norm for outputs of ``features`` channels with ``dims`` positions each.

    Args:
        kind: ``BatchNorm``, ``LayerNorm``, ``RMSNorm`` or ``GroupNorm``.
        features: Channels, or units.
        dims: 0 behind a linear layer, 1 to 3 behind a convolution.
        groups: Of a group norm.

    Raises:
        ValueError: If there is no such norm for such outputs.
    """
    if kind == "BatchNorm" and 0 <= dims <= 3:
        return BATCH_NORMS[max(0, dims - 1)](features)
    if kind == "GroupNorm":
        return nn.GroupNorm(groups, features)
    if kind in ("LayerNorm", "RMSNorm") and dims == 0:
        # Over the last dimension: behind a convolution that would be the width of the picture.
        return nn.LayerNorm(features) if kind == "LayerNorm" else nn.RMSNorm(features)
    raise ValueError(f"there is no {kind} over outputs with {dims} dimensions of positions")


class WeightStandardised(Wrapped):
    """A linear or convolutional layer that computes with its weight standardised unit by unit.

    w_hat = gain (w - mean(w)) / sqrt(fan_in var(w) + eps), mean and variance over each unit's own
    weights. The raw weight stays the layer's parameter. Each unit's weights sum to zero, so what
    all its inputs share (the mean of a ReLU or a sigmoid) does not pass; and their size is the
    gain's, whatever they were drawn with.

    Args:
        inner: An ``nn.Linear`` or ``nn.Conv*d``.
        gain: sigma_w to begin with; learned, one for each unit.
    """

    def __init__(self, inner: nn.Module, gain: float = 1.0) -> None:
        super().__init__(inner)
        if not isinstance(inner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise ValueError(f"the weight of a {type(inner).__name__} has no rows to standardise")
        self.gain = nn.Parameter(inner.weight.detach().new_full((len(inner.weight),), float(gain)))

    def standardised(self) -> Tensor:
        """The weight that is computed with, of the raw weight's shape."""
        raw = self.inner.weight
        rows = raw.flatten(1)  # type: ignore[operator]
        rows = rows - rows.mean(dim=1, keepdim=True)
        size = torch.rsqrt(rows.square().sum(dim=1, keepdim=True) + EPSILON)
        return (rows * size * self.gain[:, None]).reshape(raw.shape)  # type: ignore[arg-type]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's answer under the standardised weight."""
        del args, kwargs  # these layers read one tensor
        inner = self.inner
        if isinstance(inner, nn.Linear):
            return functional.linear(x, self.standardised(), inner.bias)
        convolve: Any = inner._conv_forward  # it knows padding modes, strides and groups
        result: Tensor = convolve(x, self.standardised(), inner.bias)
        return result
