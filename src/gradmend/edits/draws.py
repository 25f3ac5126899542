"""Drawing weights: the same bits whatever the user has set."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradmend.errors import CannotApply


def draw_weight(
    shape: tuple[int, ...], scheme: str, gain: float, generator: torch.Generator
) -> Tensor:
    """A weight with sqrt(fan_in E[w^2]) = gain.

    Args:
        shape: [out, in, *kernel].
        scheme: ``orthogonal`` (all singular values equal, Saxe et al. 2014) or ``normal``.
        gain: sigma_w.
        generator: Source of randomness.
    """
    out, fan_in = shape[0], math.prod(shape[1:])
    if scheme == "normal":
        return draw_normal(shape, generator) * (gain / math.sqrt(fan_in))
    if scheme != "orthogonal":
        raise CannotApply(f"there is no initialisation '{scheme}'", "", "orthogonal or normal")
    tall = draw_normal((max(out, fan_in), min(out, fan_in)), generator)
    q, r = torch.linalg.qr(tall)
    q = q * torch.sign(torch.diagonal(r))  # makes the distribution uniform (Mezzadri 2007)
    q = q if out >= fan_in else q.T
    # Columns are unit where out > in: scale up so that every output keeps its variance.
    drawn: Tensor = (q * (gain * math.sqrt(max(1.0, out / fan_in)))).reshape(shape).contiguous()
    return drawn


def draw_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers; the same bits whatever default type or device the user has set."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
