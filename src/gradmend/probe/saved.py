"""Everything that some modules hold, noted so that it can be put back, the same objects."""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTAINERS = (list, dict, set, OrderedDict, defaultdict, Counter, deque)
"""Plain containers, by their exact type: a subclass may do anything when it is written to."""


class Holding(Enum):
    """What a value is to somebody who saves or swaps what modules hold."""

    PLAIN = 0
    """Nothing to follow: a number, a function, a subclass of a container."""
    MODULE = 1
    CONTAINER = 2
    TUPLE = 3
    TENSOR = 4
    OTHER = 5
    """An array or a generator."""


class Kinds(dict[type, Holding]):
    """What values of a type are, asked once for each type: a module has two dozen attributes."""

    def __missing__(self, kind: type) -> Holding:
        self[kind] = found = _holding_of(kind)
        return found


def _holding_of(kind: type) -> Holding:
    if issubclass(kind, Tensor):
        return Holding.TENSOR
    if issubclass(kind, nn.Module):
        return Holding.MODULE
    if kind in CONTAINERS:
        return Holding.CONTAINER
    if issubclass(kind, tuple):
        return Holding.TUPLE
    return Holding.OTHER if issubclass(kind, _OTHERS) else Holding.PLAIN


_OTHERS = (
    np.ndarray, torch.Generator, random.Random, np.random.RandomState, np.random.Generator,
)  # fmt: skip


class Saved:
    """Everything some modules hold: attributes, and what lies inside plain containers.

    Containers are followed to any depth, and so are modules that were never registered, in
    lists and dicts: a forward pass writes into those as well.
    """

    def __init__(self, roots: Iterable[nn.Module]) -> None:
        self.modules: list[nn.Module] = []
        self._attributes: list[dict[str, Any]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        """Containers that held nothing: most of a module's, which has a dozen kinds of hook."""
        self._arrays: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, Any]] = []
        kinds = Kinds()
        seen: set[int] = set()
        todo: list[Any] = list(roots)[::-1]

        def follow(values: Iterable[Any]) -> None:
            for value in values:
                kind = kinds[type(value)]
                if kind is Holding.PLAIN or kind is Holding.TENSOR:
                    continue
                if kind is Holding.CONTAINER and not value:
                    self._empty.append(value)
                else:
                    todo.append(value)

        while todo:
            value: Any = todo.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            kind = kinds[type(value)]
            if kind is Holding.MODULE:
                self.modules.append(value)
                self._attributes.append(value.__dict__.copy())
                follow(reversed(value.__dict__.values()))
            elif kind is Holding.CONTAINER:
                self._contents.append((value, value.copy()))
                follow(list(value.values() if isinstance(value, dict) else value)[::-1])
            elif kind is Holding.TUPLE:
                follow(reversed(value))
            else:
                self._save_other(value)

    def _save_other(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self._arrays.append((value, value.copy()))
        elif isinstance(value, torch.Generator):
            self._generators.append((value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._generators.append((value.setstate, value.getstate()))
        elif isinstance(value, np.random.RandomState):
            self._generators.append((value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            state = copy.deepcopy(value.bit_generator.state)
            put = partial(setattr, value.bit_generator, "state")
            self._generators.append((put, state))

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes in zip(self.modules, self._attributes, strict=True):
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for container in self._empty:
            if container:
                container.clear()
        for container, content in self._contents:
            container.clear()
            if isinstance(container, list | deque):
                container.extend(content)
            else:
                container.update(content)
        for array, content in self._arrays:
            if array.flags.writeable:
                array[...] = content
        for put, state in self._generators:
            put(state)
