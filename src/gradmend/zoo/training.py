"""A training: a model, its optimizer and one step of a loop, built from a name and arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradmend.zoo.entries import Entries


@dataclass(frozen=True, slots=True)
class Training:
    """What a rule over runs is tried on: a loop as people write it, one step at a time."""

    model: nn.Module | list[nn.Module]
    optimizer: Optimizer | list[Optimizer]
    step: Callable[[int], None]
    """One iteration, given its number: forward, backward, step."""
    steps: int = 200
    """How many show what there is to be seen."""


_entries: Entries[Training] = Entries("training ")


def training(function: Callable[..., Training]) -> Callable[..., Training]:
    """Put a builder into the zoo under its function's name."""
    return _entries.add(function)


def training_names() -> tuple[str, ...]:
    """Every training's name."""
    return _entries.names()


def build_training(name: str, /, *, seed: int = 0, **args: Any) -> Training:
    """Build a training; the same name, arguments and seed give the same bits.

    The caller's random state is left as it was; what a step draws is the training's own affair.

    Raises:
        UnknownName: If there is no such training, or it takes no such argument.
    """
    return _entries.build(name, seed, args)
