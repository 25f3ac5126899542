"""Residual blocks that an edit may make of modules, and factors on what a module answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradmend.layers.wrappers import Wrapped


class Residual(Wrapped):
    """h + alpha f(h), where f is the module that stood here and those that came right behind it.

    Attributes of the first module stay readable under the old name, for code that reads
    ``self.layer.weight``.

    Args:
        inner: The module that stood here.
        rest: The modules behind it, in order; f must keep the shape.
        alpha: Number on the branch, shape []; a buffer unless it is a parameter.
    """

    alpha: Tensor

    def __init__(self, inner: nn.Module, *rest: nn.Module, alpha: Tensor) -> None:
        super().__init__(inner)
        self.rest = nn.Sequential(*rest)
        if isinstance(alpha, nn.Parameter):
            self.alpha = alpha
        else:
            self.register_buffer("alpha", alpha)

    def forward(self, h: Tensor) -> Tensor:
        """Any shape that f keeps."""
        result: Tensor = h + self.alpha * self.rest(self.inner(h))
        return result

    def __getattr__(self, name: str) -> Any:
        """An attribute of its own, else one of the module that stood here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = self.__dict__.get("_modules", {}).get("inner")
            if inner is None:
                raise
            return getattr(inner, name)


class ReZero(Residual):
    """h + alpha f(h) with a learned scalar alpha that starts at zero (Bachlechner et al. 2021).

    Args:
        parts: The modules that make up f, in order.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(*parts, alpha=nn.Parameter(_number(0.0, parts)))


class ScaledResidual(Residual):
    """h + factor f(h) with a fixed factor, as 1/sqrt(L) in a stack of L.

    Args:
        parts: The modules that make up f, in order.
        factor: What the branch is multiplied with.
    """

    def __init__(self, *parts: nn.Module, factor: float) -> None:
        super().__init__(*parts, alpha=_number(factor, parts))


class Moved(Wrapped):
    """Stands where a module stood that is now part of a block, and hands its input on.

    Later edits that name the module still find it; it is registered in its block alone.

    Args:
        inner: The module, at its new place.
    """

    def __init__(self, inner: nn.Module) -> None:
        nn.Module.__init__(self)
        self.__dict__["_elsewhere"] = [inner]

    @property
    def inner(self) -> nn.Module:  # type: ignore[override]
        """The module, which runs at its new place."""
        module: nn.Module = self.__dict__["_elsewhere"][0]
        return module

    def forward(self, x: Any) -> Any:
        """The input."""
        return x


class Times(nn.Module):
    """Multiplies by one number, or one for each unit: a buffer, or a parameter that learns.

    Args:
        factor: Shape [], or [units] of the last dimension.
        learned: Whether it is trained.
    """

    factor: Tensor

    def __init__(self, factor: Tensor, *, learned: bool = False) -> None:
        super().__init__()
        if learned:
            self.factor = nn.Parameter(factor)
        else:
            self.register_buffer("factor", factor)

    def forward(self, x: Any) -> Any:
        """Any shape; of several answers, as attention gives, the first is meant."""
        if isinstance(x, tuple):
            return (x[0] * self.factor, *x[1:])
        return x * self.factor


def _number(value: float, parts: tuple[nn.Module, ...]) -> Tensor:
    """Shape [], of the type and on the device of the parts' floating parameters."""
    like = next(
        (p for part in parts for p in part.parameters() if p.is_floating_point()), torch.zeros(())
    )
    return torch.full((), value, dtype=like.dtype, device=like.device)
