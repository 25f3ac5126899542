"""Tensors with the scale of each row kept as a logarithm, so that no number of steps underflows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradmend.probe.unrolled import State

NEVER = -math.inf
"""Logarithm of an exactly zero norm."""


@dataclass(slots=True)
class Logged:
    """A tensor [T, B, H] whose rows may lie outside the range of floats: values exp(logs)."""

    values: Tensor
    logs: Tensor
    """Natural logarithm of the scale, shape [T, B]; -inf where a row is zero."""


def logged(x: Tensor, logs: Tensor | None = None) -> Logged:
    """Split rows [..., H] into values of about one and the logarithm of their scale."""
    size = x.abs().amax(dim=-1)
    usable = (size > 0) & torch.isfinite(size)
    scale = torch.where(usable, size, 1.0)
    new = torch.where(size == 0, NEVER, scale.log())
    return Logged(x / scale[..., None], new if logs is None else new + logs)


def _shares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log of the larger scale, a's and b's factor on that scale)."""
    top = torch.maximum(a, b)
    base = torch.where(top == NEVER, 0.0, top)
    return top, (a - base).exp(), (b - base).exp()


def summed(a: Logged, b: Logged) -> Logged:
    """Sum of two, each row on the larger scale."""
    top, fa, fb = _shares(a.logs, b.logs)
    return Logged(a.values * fa[..., None] + b.values * fb[..., None], top)


def added(
    g: State, logs: Tensor, k: int, part: int, values: Tensor, scale: Tensor
) -> tuple[State, Tensor]:
    """Add one part's gradient [B, H] to the k-th that travels."""
    top, carried, new = _shares(logs[k], scale)
    parts = []
    for number, tensor in enumerate(g):
        tensor = tensor.clone()
        tensor[k] *= carried[:, None]
        if number == part:
            tensor[k] += values * new[:, None]
        parts.append(tensor)
    logs = logs.clone()
    logs[k] = top
    return tuple(parts), logs


def log_norm(parts: State) -> Tensor:
    """Natural logarithm of the norm of a state's gradient, shape [K, B]."""
    norm: Tensor = torch.linalg.vector_norm(torch.cat(parts, dim=-1), dim=-1)
    return norm.log()
