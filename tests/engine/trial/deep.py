"""Deep nets for tests, and the training that anybody would write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = 104
"""A few more than the least depth at which anything is lent."""


def deep(
    activation: Callable[[], nn.Module] = nn.Tanh,
    *,
    layers: int = LAYERS,
    width: int = 8,
    bias: bool = True,
    gain: float = 1.0,
    dtype: torch.dtype = torch.float64,
    nested: bool = False,
) -> nn.Sequential:
    """A plain net whose signal survives: orthogonal weights and small biases.

    A width of 8 keeps every layer's numbers at an address that kernels treat alike, so that outputs
    can be compared bit for bit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts: list[nn.Module] = [nn.Linear(3, width)]
        for _ in range(layers):
            linear = nn.Linear(width, width, bias=bias)
            nn.init.orthogonal_(linear.weight, gain)
            parts += [nn.Sequential(activation(), linear)] if nested else [activation(), linear]
        model = nn.Sequential(*parts, activation(), nn.Linear(width, 2))
    return model.to(dtype)


def batch(
    seed: int = 0, size: int = 7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, generator=generator, dtype=dtype)
    return x, torch.randn(size, 2, generator=generator, dtype=dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[float]:
    """Losses of a few steps."""
    losses = []
    for step in range(steps):
        x, y = batch(step)
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def far(one: Any, other: Any) -> float:
    """Distance of two lists of tensors, relative to the larger of each pair."""
    found = [0.0]
    for a, b in zip(one, other, strict=True):
        found.append(float((a - b).norm() / max(float(a.norm()), float(b.norm()), 1e-300)))
    return max(found)


def values(model: nn.Module) -> list[Tensor]:
    """Copies of all parameters."""
    return [p.detach().clone() for p in model.parameters()]


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of input and parameters, by torch's own graph or what stands in."""
    leaf = x.clone().requires_grad_()
    for p in model.parameters():
        p.grad = None
    output = model(leaf)
    (
        output * torch.arange(1.0, 1.0 + output.numel(), dtype=x.dtype).view_as(output)
    ).sum().backward()
    found = [leaf.grad, *(p.grad for p in model.parameters())]
    assert all(grad is not None for grad in found)
    return output.detach(), [grad for grad in found if grad is not None]
