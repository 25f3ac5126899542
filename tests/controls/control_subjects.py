"""Optimizers with gradients set by hand, and the naive twin of each way of clipping."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradmend.controls import (
    ClipByNorm,
    ClipByPercentile,
    ClipByValue,
    ClipByZScore,
    ClipPerTensor,
    ClipPerUnit,
    Control,
    LiftSmallGradients,
)

SHAPES = ((3, 4), (3,), (2, 3, 2))


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def gradients(seed: int, size: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + seed)
    return [torch.randn(shape, generator=generator) * size for shape in SHAPES]


def give(parameters: list[nn.Parameter], grads: list[Tensor | None]) -> None:
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = None if grad is None else grad.clone().to(parameter.dtype)


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


Twin = Callable[[list[list[Tensor]], list[Tensor]], list[Tensor]]
"""Histories of raw gradients, this step's last, and the weights, to what the optimizer gets."""


def by_norm(history: list[list[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    del parameters  # unused
    now = history[-1]
    return [g * min(1.0, 2.0 / norm(now)) for g in now]


def by_value(history: list[list[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    del parameters  # unused
    return [
        torch.tensor([min(max(v, -0.5), 1.0) for v in g.flatten().tolist()]).reshape(g.shape)
        for g in history[-1]
    ]


def lifted(history: list[list[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    del parameters  # unused
    return [g * max(1.0, 3.0 / norm([g])) for g in history[-1]]


def by_percentile(history: list[list[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    del parameters  # unused
    norms = [norm(past) for past in history]
    limit = float(torch.quantile(torch.tensor(norms, dtype=torch.float64), 0.4))
    return [g * min(1.0, limit / norms[-1]) for g in history[-1]]


def by_z_score(history: list[list[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    del parameters  # unused
    norms = [norm(past) for past in history]
    if len(norms) <= 4:
        return history[-1]
    mean = sum(norms[:4]) / 4
    variance = sum((x - mean) ** 2 for x in norms[:4]) / 4
    let = norms[-1]
    for now in norms[4:]:
        z = (now - mean) / variance**0.5
        let = mean + 1.5 * variance**0.5 / (z / 1.5) if z > 1.5 else now
        mean = 0.9 * mean + 0.1 * let
        variance = 0.9 * variance + 0.1 * (let - mean) ** 2
    return [g * (let / norms[-1]) for g in history[-1]]


def per_tensor(history: list[list[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    del parameters  # unused
    gammas = [math.inf] * len(SHAPES)
    out = history[-1]
    for step, grads in enumerate(history):
        if step < 3:
            out = [g * min(1.0, 2.0 / norm(grads)) for g in grads]
            gammas = [min(gamma, norm([g])) for gamma, g in zip(gammas, out, strict=True)]
        else:
            out = [
                g * min(1.0, 1.05 * gamma / norm([g]))
                for gamma, g in zip(gammas, grads, strict=True)
            ]
            gammas = [0.9 * gamma + 0.1 * norm([g]) for gamma, g in zip(gammas, out, strict=True)]
    return out


def adaptive(history: list[list[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    out = []
    for at, (grad, weight) in enumerate(zip(history[-1], parameters, strict=True)):
        if at == 2:  # spared
            out.append(grad)
            continue
        new = grad.clone()
        rows = range(grad.shape[0]) if grad.dim() > 1 else [...]
        for row in rows:
            limit = 0.1 * max(norm([weight[row]]), 1e-3)
            size = norm([grad[row]])
            if size > limit:
                new[row] = grad[row] * (limit / size)
        out.append(new)
    return out


Build = Callable[[list[nn.Parameter]], Control]
CLIPS: dict[str, tuple[Build, Twin]] = {
    "norm": (lambda _: ClipByNorm(2.0), by_norm),
    "value": (lambda _: ClipByValue(-0.5, 1.0), by_value),
    "lift": (lambda _: LiftSmallGradients(3.0), lifted),
    "percentile": (lambda _: ClipByPercentile(40.0), by_percentile),
    "z_score": (lambda _: ClipByZScore(0.9, 1.5, 4), by_z_score),
    "per_tensor": (lambda _: ClipPerTensor(1.05, 0.9, 2.0, 3), per_tensor),
    "per_unit": (lambda p: ClipPerUnit(0.1, 1e-3, {id(p[2])}), adaptive),
}
