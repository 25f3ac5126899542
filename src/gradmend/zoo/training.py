"""A training: a model, its optimizer and one step of a loop, built from a name and arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradmend.errors import UnknownName

_ENTRIES: dict[str, Callable[..., Training]] = {}


@dataclass(frozen=True, slots=True)
class Training:
    """What a rule over runs is tried on: a loop as people write it, one step at a time."""

    model: nn.Module | list[nn.Module]
    optimizer: Optimizer | list[Optimizer]
    step: Callable[[int], None]
    """One iteration, given its number: forward, backward, step."""
    steps: int = 200
    """How many show what there is to be seen."""


def training(function: Callable[..., Training]) -> Callable[..., Training]:
    """Put a builder into the zoo under its function's name."""
    _ENTRIES[function.__name__] = function
    return function


def training_names() -> tuple[str, ...]:
    """Every training's name."""
    return tuple(sorted(_ENTRIES))


def build_training(name: str, /, *, seed: int = 0, **args: Any) -> Training:
    """Build a training; the same name, arguments and seed give the same bits.

    The caller's random state is left as it was; what a step draws is the training's own affair.

    Raises:
        UnknownName: If there is no such training, or it takes no such argument.
    """
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, _ENTRIES, n=1)
        raise UnknownName(
            f"the zoo has no training '{name}'",
            "",
            f"did you mean '{close[0]}'?" if close else f"it has {', '.join(training_names())}",
        )
    takes = inspect.signature(_ENTRIES[name]).parameters
    wrong = [key for key in args if key not in takes]
    if wrong:
        raise UnknownName(f"'{name}' takes no '{wrong[0]}'", "", f"it takes {', '.join(takes)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _ENTRIES[name](**args)
