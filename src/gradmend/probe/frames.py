"""Open calls of modules, and what was measured in them."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from gradmend.probe.observed_facts import is_told
from gradmend.probe.recurrent import RECURRENT
from gradmend.probe.sample import Measure, merged
from gradmend.probe.sheet import Measured
from gradmend.probe.slopes import DeadUnits
from gradmend.records.exponents import Exponents
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

    @property
    def name(self) -> str:
        """Of its column."""
        return self.path or self.kind


def known_modules(modules: Mapping[str, nn.Module]) -> dict[int, Known]:
    """The modules of a model by id.

    Args:
        modules: By path; that of the model itself is empty.
    """
    kinds: dict[type[nn.Module], tuple[str, bool, bool]] = {}
    found = {}
    for path, module in modules.items():
        kind = type(module)
        if kind not in kinds:
            special = issubclass(kind, (nn.MultiheadAttention, *RECURRENT))
            kinds[kind] = kind.__name__, is_told(kind), special
        name, told, special = kinds[kind]
        found[id(module)] = Known(module, path, name, told or not path, special)
    return found


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

    def histogram(self) -> Exponents | None:
        """Of all calls together, where any was counted."""
        counted = [m.exponents for m in self.measures if m.exponents is not None]
        return functools.reduce(Exponents.merge, counted) if counted else None


class Entries:
    """All columns of one watched call, in the order of the first measure of each."""

    def __init__(self) -> None:
        self.by_name: dict[str, Entry] = {}
        self._made = 0

    def book(self, name: str, path: str, kind: str, found: Measure) -> None:
        """Add a measure to a column.

        Args:
            name: Of the column.
            path: Of its module.
            kind: Class of the module or name of the function.
            found: The measure.
        """
        entry = self.by_name.get(name)
        if entry is None:
            entry = self.by_name[name] = Entry(name, path, kind, self._made)
            self._made += 1
        entry.measures.append(found)

    def settle(self, frame: Frame) -> None:
        """Book the newest activation that a module called as a column of its own."""
        called, frame.last = frame.last, None
        if called is not None:
            self.book(called.name, frame.known.path, called.function, called.measure)

    def rows(self, root: int, dead: DeadUnits) -> Iterator[Measured]:
        """Rows of the ``output`` table; after backward.

        Args:
            root: Tells apart the models that share ``dead``.
            dead: Takes in the units found dead in this call, and tells those dead so far.
        """
        for name, entry in self.by_name.items():
            values = merged(entry.measures)
            flags = [m.dead for m in entry.measures if m.dead is not None]
            key = root, name
            if flags and flags[0].size and all(f.shape == flags[0].shape for f in flags):
                dead.add(key, np.logical_and.reduce(flags) if len(flags) > 1 else flags[0])
            values["dead_share"] = dead.share(key) if flags else math.nan
            yield Measured(column=entry.column(), values=values, histogram=entry.histogram())
