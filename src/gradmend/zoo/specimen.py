"""A specimen: a model with data and a loss, built from a name and arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.errors import UnknownName

Batches = list[tuple[Any, Any]]
_ENTRIES: dict[str, Callable[..., Specimen]] = {}


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


def specimen(function: Callable[..., Specimen]) -> Callable[..., Specimen]:
    """Put a builder into the zoo under its function's name."""
    _ENTRIES[function.__name__] = function
    return function


def names() -> tuple[str, ...]:
    """Every specimen's name."""
    return tuple(sorted(_ENTRIES))


def build(name: str, /, *, seed: int = 0, **args: Any) -> Specimen:
    """Build a specimen; the same name, arguments and seed give the same bits.

    The caller's random state is left as it was.

    Raises:
        UnknownName: If there is no such specimen, or it takes no such argument.
    """
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, _ENTRIES, n=1)
        raise UnknownName(
            f"the zoo has no '{name}'",
            "",
            f"did you mean '{close[0]}'?" if close else f"it has {', '.join(names())}",
        )
    takes = inspect.signature(_ENTRIES[name]).parameters
    wrong = [key for key in args if key not in takes]
    if wrong:
        raise UnknownName(f"'{name}' takes no '{wrong[0]}'", "", f"it takes {', '.join(takes)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _ENTRIES[name](**args)
