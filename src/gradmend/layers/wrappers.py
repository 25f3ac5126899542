"""Modules that an edit puts around one of the user's, which keeps its name and its place."""

from __future__ import annotations

from typing import Any

from torch import nn


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

    def __getattr__(self, name: str) -> Any:
        """Attributes of the inner module: a forward pass may read ``self.fc.weight`` itself."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":  # not built yet: a copy or a pickle on its way
                raise
            return getattr(self.inner, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the inner module answers."""
        return self.inner(*args, **kwargs)


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
