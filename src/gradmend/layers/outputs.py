"""Modules that an edit may put behind one of the user's, mostly behind the last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Affine(torch.autograd.Function):
    """z std + mean, whose gradient is that of a loss taken in units of ``std``."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, mean: Tensor, std: Tensor, degree: int) -> Tensor:
        ctx.save_for_backward(std)
        ctx.degree = degree
        return z * std + mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (std,) = ctx.saved_tensors
        return grads[0] * std ** (1 - ctx.degree), None, None, None


class Rescaled(nn.Module):
    """Hands z std + mean on: outputs in the user's units of a network that works in its own.

    A loss of degree d (2: squared error, 1: absolute error) taken on the outputs is std^d times
    the loss of the standardised ones. Its gradient with respect to z is divided by just that, so
    the network gets the gradient of the standardised loss, whatever the units.

    Args:
        mean: Of the targets, per output or one for all.
        std: The same; zeros become one.
        degree: Of the loss, by which power of a unit it grows.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, degree: int = 2) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 0, std, torch.ones_like(std)))
        self.degree = degree

    def forward(self, z: Tensor) -> Tensor:
        """Z in the targets' units."""
        result: Tensor = _Affine.apply(  # type: ignore[no-untyped-call]
            z, self.mean.to(z.dtype), self.std.to(z.dtype), self.degree
        )
        return result


class _WithoutBadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx  # unused: nothing is kept
        return x.clone()  # a view could not be changed in place by what reads it

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx  # unused: nothing was kept
        return grads[0].nan_to_num(0.0, 0.0, 0.0)


class FiniteGradient(nn.Module):
    """Hands x on, and lets no NaN or infinity of the loss come back: such a sample does not count.

    What a loss says of a target that is missing is NaN for that sample alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """X itself."""
        result: Tensor = _WithoutBadGradient.apply(x)  # type: ignore[no-untyped-call]
        return result


class Logarithm(nn.Module):
    """log p, for a softmax that cannot be taken out: its logarithm is a log_softmax.

    ``cross_entropy`` of log-probabilities is that of the logits, as their softmax is p again.
    """

    def forward(self, p: Tensor) -> Tensor:
        """The logarithm; of what has become zero that of the smallest normal number."""
        return p.clamp_min(torch.finfo(p.dtype).tiny).log()


class Logit(nn.Module):
    """log(p / (1 - p)), for a sigmoid that cannot be taken out."""

    def forward(self, p: Tensor) -> Tensor:
        """The logit; held where 1 - p would round to zero."""
        return torch.logit(p, eps=torch.finfo(p.dtype).eps)


class InverseTanh(nn.Module):
    """atanh(y), for a tanh that cannot be taken out."""

    def forward(self, y: Tensor) -> Tensor:
        """What the tanh was applied to; held where 1 - |y| would round to zero."""
        most = 1.0 - torch.finfo(y.dtype).eps
        return y.clamp(-most, most).atanh()


class InverseSoftplus(nn.Module):
    """log(exp(y) - 1), for a softplus that cannot be taken out."""

    def forward(self, y: Tensor) -> Tensor:
        """What the softplus was applied to; held where that is far below zero."""
        y = y.clamp_min(torch.finfo(y.dtype).eps)
        return y + torch.log(-torch.expm1(-y))


class Squeezed(nn.Module):
    """Takes a last dimension of size one away: outputs [N, 1] for targets [N]."""

    def forward(self, x: Tensor) -> Tensor:
        """X without it; x itself where there is none."""
        return x.squeeze(-1) if x.dim() > 1 else x


class Unsqueezed(nn.Module):
    """Adds a last dimension of size one: outputs [N] for targets [N, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """X with it; x itself where it is there."""
        return x.unsqueeze(-1) if x.dim() == 1 else x


FOLLOWERS: dict[str, type[nn.Module]] = {
    "FiniteGradient": FiniteGradient,
    "InverseSoftplus": InverseSoftplus,
    "InverseTanh": InverseTanh,
    "LogSoftmax": nn.LogSoftmax,
    "Logarithm": Logarithm,
    "Logit": Logit,
    "Sigmoid": nn.Sigmoid,
    "Squeezed": Squeezed,
    "Unsqueezed": Unsqueezed,
}
"""What an edit may put behind a module, by name."""
