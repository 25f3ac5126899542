"""Builders by name: the one list behind specimens and trainings."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

from gradmend.errors import UnknownName

T = TypeVar("T")


class Entries(Generic[T]):
    """Builders that are found by their function's name.

    Args:
        kind: What they build, as it stands in front of a name in an error; empty for none.
    """

    def __init__(self, kind: str = "") -> None:
        self._kind = kind
        self._builders: dict[str, Callable[..., T]] = {}

    def add(self, function: Callable[..., T]) -> Callable[..., T]:
        """Put a builder in; usable as a decorator."""
        self._builders[function.__name__] = function
        return function

    def names(self) -> tuple[str, ...]:
        """Every builder's name."""
        return tuple(sorted(self._builders))

    def build(self, name: str, seed: int, args: dict[str, Any]) -> T:
        """Build one; the caller's random state is left as it was.

        Raises:
            UnknownName: If there is no such builder, or it takes no such argument.
        """
        if name not in self._builders:
            close = difflib.get_close_matches(name, self._builders, n=1)
            raise UnknownName(
                f"the zoo has no {self._kind}'{name}'",
                "",
                f"did you mean '{close[0]}'?" if close else f"it has {', '.join(self.names())}",
            )
        takes = inspect.signature(self._builders[name]).parameters
        wrong = [key for key in args if key not in takes]
        if wrong:
            raise UnknownName(f"'{name}' takes no '{wrong[0]}'", "", f"it takes {', '.join(takes)}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._builders[name](**args)
