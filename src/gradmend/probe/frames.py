"""Open calls of modules, and what was measured in them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gradmend.probe.sample import Measure
from gradmend.records.history import Column


@dataclass(slots=True)
class Known:
    """A module of the model, and what has to be done when it is called."""

    module: nn.Module
    path: str
    kind: str
    """Name of its class."""
    told: bool
    """Whether its state is a fact to tell."""
    special: bool
    """Whether it is recurrent or attention, which are measured as such."""


class Frame:
    """One open call of a module."""

    __slots__ = ("counts", "known", "last", "leaf")

    def __init__(self, known: Known) -> None:
        self.known = known
        self.leaf = True
        """Whether no other module was called in it."""
        self.counts: dict[str, int] | None = None
        """How often each watched function was called."""
        self.last: Called | None = None
        """The newest activation called, not booked yet: if the module returns what it returned,
        it is the module's own."""

    def name(self, function: str) -> str:
        """What the next call of a function is known by."""
        number = self.counts.get(function, 0) if self.counts else 0
        call = f"{function}.{number}" if number else function
        return f"{self.known.path}:{call}" if self.known.path else call

    def count(self, function: str) -> None:
        """Book a call."""
        if self.counts is None:
            self.counts = {}
        self.counts[function] = self.counts.get(function, 0) + 1


class Called:
    """An activation that a module called."""

    __slots__ = ("function", "measure", "name", "result")

    def __init__(self, name: str, function: str, result: Any, measure: Measure) -> None:
        self.name, self.function, self.measure = name, function, measure
        self.result: weakref.ref[Tensor] = weakref.ref(result)


@dataclass(slots=True)
class Entry:
    """What becomes one column of the ``output`` table."""

    name: str
    path: str
    kind: str
    order: int
    measures: list[Measure] = field(default_factory=list)

    def column(self) -> Column:
        """The column."""
        return Column(name=self.name, module=self.path, kind=self.kind, order=self.order)
