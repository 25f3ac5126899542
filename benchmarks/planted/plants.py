"""What a plant is, and the ways in which several of them change a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from planted.training import Batch, Training

LOOK = ("check", "steps", "watch")
"""Entry points at which a fault of the model, loss or data shows."""
LATE = ("steps", "watch")
"""The fault is in the model, and its harm comes with training."""
LOOP = ("watch",)
"""The fault is in the loop or the optimizer, which one look is not given."""

Change = Callable[[Training], Iterable[str] | None]


@dataclass(frozen=True)
class Plant:
    """A fault: its true name and how it is made.

    ``change`` makes it and returns the guilty modules: none where the loop, the loss or the data
    is to blame, ``None`` where the fault does not exist in such a training.
    """

    name: str
    cause: str
    also: tuple[str, ...]
    """Other names that a person would accept for this very fault."""
    entries: tuple[str, ...]
    exact: bool
    """A mistake whatever it does to the loss; others count only where they do harm."""
    change: Change


PLANTS: dict[str, Plant] = {}


def plant(
    cause: str,
    *also: str,
    entries: tuple[str, ...] = LOOK,
    exact: bool = False,
) -> Callable[[Change], Change]:
    """Put a fault into the list, by the name of its function."""

    def add(change: Change) -> Change:
        name = change.__name__.replace("_", "-")
        if name in PLANTS:
            raise ValueError(f"two plants are called {name}")
        PLANTS[name] = Plant(name, cause, also, entries, exact, change)
        return change

    return add


class Then(nn.Module):
    """A module and an operation behind it, as in a forward pass written out."""

    def __init__(self, inner: nn.Module, operation: Callable[[Any], Any]) -> None:
        super().__init__()
        self.inner, self.operation = inner, operation

    def forward(self, *args: Any) -> Any:
        """The operation on what the module answers."""
        return self.operation(self.inner(*args))


def behind(t: Training, name: str, operation: Callable[[Any], Any]) -> tuple[str, ...]:
    """Put an operation behind a module; both names of the place."""
    t.put(name, Then(t.at(name), operation))
    return name, f"{name}.inner"


def middle(t: Training) -> str | None:
    """A place in the middle of a network, behind which an operation can stand."""
    places = t.bends or t.named(nn.LayerNorm, nn.BatchNorm2d) or t.layers[:-1]
    places = places or t.named(nn.Embedding)
    return places[(len(places) - 1) // 2] if places else None


def hidden(t: Training) -> list[str]:
    """Weight layers but the output; none of an adapter's, whose second factor is zero."""
    return [name for name in t.layers[:-1] if "lora" not in name]


def around(name: str, t: Training) -> set[str]:
    """A layer, its container, and the module behind it: what a person would point at."""
    names = [n for n, m in t.model.named_modules() if not list(m.children()) and n]
    at = names.index(name)
    return {name, *names[at + 1 : at + 2]}


def shaped(t: Training, change: Callable[[Any, Any], Batch]) -> None:
    """Change every batch that is drawn."""
    draw = t.draw
    t.draw = lambda: change(*draw())


def is_float(t: Training) -> bool:
    """Whether inputs are numbers, and not tokens."""
    embeds = any(isinstance(m, nn.Embedding) for m in t.model.modules())
    return not embeds and t.critic is None


def rebuilt(t: Training, make: Callable[[], nn.Module]) -> bool:
    """Put another model into a training on plain features, if it is one."""
    if t.name not in ("mlp", "regressor", "binary", "tabular"):
        return False
    t.model = make()
    return True


def features(t: Training) -> tuple[int, int]:
    """Inputs and outputs of a training on plain features."""
    first, last = t.at(t.layers[0]), t.at(t.layers[-1])
    if not (isinstance(first, nn.Linear) and isinstance(last, nn.Linear)):
        return 0, 0
    return first.in_features, last.out_features


def rate_of(t: Training) -> float:
    """The rate that the optimizer would be built with."""
    from planted.training import RATES

    return RATES[t.optimizer_name] if t.rate is None else t.rate


def scaled_weights(t: Training, names: Iterable[str], factor: float) -> None:
    """Multiply weights."""
    with torch.no_grad():
        for name in names:
            t.at(name).weight.mul_(factor)


def at_steps(t: Training, chosen: Callable[[int], bool], do: Callable[[Any, Any], Batch]) -> None:
    """Change the batches of some steps; the first of all too, which is what a look is given."""
    draw = t.draw
    drawn = [0]

    def batches() -> Batch:
        x, y = draw()
        number, drawn[0] = drawn[0], drawn[0] + 1
        return do(x, y) if chosen(number) else (x, y)

    t.draw = batches
