"""Modules that an edit puts around one of the user's, which keeps its name and its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Wrapped(nn.Module):
    """Stands in the place of ``inner`` and calls it.

    Names of a prescription are those of the model it was written for, so a wrapper does not count
    on the way to a module or a parameter (:func:`gradmend.edits.bench.find`), and an edit that
    replaces the module replaces ``inner``.

    Args:
        inner: The module that stood here.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the inner module answers."""
        return self.inner(*args, **kwargs)


class Standardised(Wrapped):
    """Reads (x - mean) / std; the figures are buffers, so they are saved with the model.

    Args:
        inner: The module that read x itself.
        mean: Per feature, or one for all.
        std: Per feature, or one for all; zeros become one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, inner: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__(inner)
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The inner module on standardised input."""
        result: Tensor = self.inner((x - self.mean) / self.std, *args, **kwargs)
        return result


class Followed(Wrapped):
    """A module and another behind it: a norm, a softmax, a change of shape.

    Args:
        inner: The module that stood here.
        then: What reads its output.
    """

    def __init__(self, inner: nn.Module, then: nn.Module) -> None:
        super().__init__(inner)
        self.then = then

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The second on the answer of the first."""
        return self.then(self.inner(*args, **kwargs))
