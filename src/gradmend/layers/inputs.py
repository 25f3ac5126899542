"""Modules that change what one of the user's modules reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradmend.layers.wrappers import Wrapped


class OfItsInput(Wrapped):
    """Changes the first floating-point tensor that the inner module is handed."""

    def change(self, x: Tensor) -> Tensor:
        """What the inner module reads in place of ``x``."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The inner module on the changed input; anything else is handed on as it is."""
        for place, value in enumerate(args):
            if isinstance(value, Tensor) and value.is_floating_point():
                return self.inner(*args[:place], self.change(value), *args[place + 1 :], **kwargs)
        for key, value in kwargs.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                return self.inner(*args, **{**kwargs, key: self.change(value)})
        return self.inner(*args, **kwargs)


class Standardised(OfItsInput):
    """Reads (x - mean) / std; the figures are buffers, so they are saved with the model.

    Args:
        inner: The module that read x itself.
        mean: Per feature, or one for all; of any shape that fits beside x.
        std: Per feature, or one for all; zeros become one.
        limit: Deviations to which wild entries are drawn in; infinite for none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, inner: nn.Module, mean: Tensor, std: Tensor, limit: float = torch.inf
    ) -> None:
        super().__init__(inner)
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 0, std, torch.ones_like(std)))
        self.limit = limit

    def change(self, x: Tensor) -> Tensor:
        """X in standard deviations from its mean."""
        z = (x - self.mean) / self.std
        return z if self.limit == torch.inf else z.clamp(-self.limit, self.limit)


class Imputed(OfItsInput):
    """Reads ``value`` wherever x is NaN or infinite.

    Args:
        inner: The module that read x itself.
        value: Per feature, or one for all.
    """

    value: Tensor

    def __init__(self, inner: nn.Module, value: Tensor) -> None:
        super().__init__(inner)
        self.register_buffer("value", value)

    def change(self, x: Tensor) -> Tensor:
        """X with what is missing filled in."""
        return torch.where(torch.isfinite(x), x, self.value.to(x.dtype))


class Clamped(OfItsInput):
    """Reads x held between ``low`` and ``high``.

    Args:
        inner: The module that read x itself.
        low: Per feature, or one for all.
        high: The same.
    """

    low: Tensor
    high: Tensor

    def __init__(self, inner: nn.Module, low: Tensor, high: Tensor) -> None:
        super().__init__(inner)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def change(self, x: Tensor) -> Tensor:
        """X with its wild entries drawn in."""
        return x.clamp(self.low.to(x.dtype), self.high.to(x.dtype))
