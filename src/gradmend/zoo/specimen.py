"""A specimen: a model with data and a loss, built from a name and arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradmend.zoo.entries import Entries

Batches = list[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Specimen:
    """What every check, trial and test starts from."""

    model: nn.Module
    batches: Batches
    loss_fn: Callable[[Any, Any], Tensor]

    @property
    def batch(self) -> tuple[Any, Any]:
        """The first batch."""
        return self.batches[0]


_entries: Entries[Specimen] = Entries()


def specimen(function: Callable[..., Specimen]) -> Callable[..., Specimen]:
    """Put a builder into the zoo under its function's name."""
    return _entries.add(function)


def names() -> tuple[str, ...]:
    """Every specimen's name."""
    return _entries.names()


def build(name: str, /, *, seed: int = 0, **args: Any) -> Specimen:
    """Build a specimen; the same name, arguments and seed give the same bits.

    The caller's random state is left as it was.

    Raises:
        UnknownName: If there is no such specimen, or it takes no such argument.
    """
    return _entries.build(name, seed, args)
