"""The gradient ledger: where the gradient's decades went, in entries that add up.

A *decade* is a factor of ten; ``-3`` decades means a thousand times smaller. Every entry is
the base-10 logarithm of a ratio of gradient norms, so entries along a path add up exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

CAUSES = (
    "activation-derivative",
    "weights",
    "normalisation",
    "attention-softmax",
    "products",
    "recurrence",
    "dropout",
    "scaling",
    "pooling",
    "number-format",
    "joins",
    "other",
)
"""Every cause an entry can be booked under.

``products`` are products of two activations (gates, attention scores times values);
``joins`` are sums over several consumers of one tensor: skips, concatenations, shared use.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the books: a module call, an operation, or the joins of its parent."""

    name: str
    """Module path (``encoder.0.linear1``), operation (``sigmoid``) or ``joins``."""
    kind: str
    """``module``, ``operation`` or ``joins``."""
    decades: float
    """Change of log10 |gradient|, weighted by the share of the gradient that passes here."""
    label: str = ""
    """What it is, for people: ``Linear(64, 64)``, ``sigmoid``."""
    cause: str | None = None
    """One of :data:`CAUSES`; ``None`` for modules, which hold several."""
    own_decades: float | None = None
    """log10 |grad wrt inputs| - log10 |grad wrt outputs| of this entry alone."""
    predicted: float | None = None
    """What theory expects of ``decades``; ``None`` where no theory applies."""
    share: float = 1.0
    """Share of the gradient that flows through here; 1 on a chain."""
    call: int = 0
    """Which call of a module used several times, from 0."""
    source: str | None = None
    children: tuple[Entry, ...] = ()

    def walk(self) -> Iterator[Entry]:
        """Yield this entry and all below it, parents first, without recursion."""
        stack = [self]
        while stack:
            entry = stack.pop()
            yield entry
            stack.extend(reversed(entry.children))

    def leaves(self) -> Iterator[Entry]:
        """Yield the entries that hold no others; their ``decades`` add up to this entry's."""
        return (entry for entry in self.walk() if not entry.children)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The books of one backward pass, from the model's outputs back to its inputs."""

    cotangent: str
    """``loss`` (the loss's own gradient) or ``random`` (a random unit one)."""
    total_decades: float | None
    """log10 |grad wrt inputs| - log10 |grad wrt outputs|; ``None`` if it cannot be booked."""
    unexplained_decades: float | None
    """Difference to a second backward pass without hooks; how far the books are off."""
    root: Entry | None
    imbalance: float | None = None
    """Largest difference between a container's own gain and its entries' sum, at any level."""
    dtype: str = "float64"
    start: str = "inputs"
    """What the gradient was followed back to: the inputs, or the deepest module reached."""
    blocked_by: str | None = None
    """The first module, in backward order, where the gradient became exactly zero or not finite."""
    blocked_operation: str | None = None
    """The operation there."""
    log10_cotangent: float | None = None
    """log10 |grad wrt outputs|."""
    by_cause: dict[str, float] = field(default_factory=dict)
    """Decades by cause; they add up to ``total_decades`` (less ``unexplained_decades``)."""
    predicted_by_cause: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def predicted_decades(self) -> float | None:
        """Theory's total, where every entry of weight has a prediction; else ``None``."""
        if self.root is None:
            return None
        total = 0.0
        for entry in self.root.leaves():
            if entry.predicted is not None:
                total += entry.predicted
            elif abs(entry.decades) > 1e-9:
                return None
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """The books of a full look that was taken during a run."""

    step: int
    ledger: Ledger


def grown(sizes: Sequence[int], make: Callable[[int, tuple[Entry, ...]], Entry]) -> Entry:
    """A tree of entries from the order in which :meth:`Entry.walk` yields them; no recursion.

    Args:
        sizes: How many children each has, parents first.
        make: The entry at a place, given its children.

    Raises:
        ValueError: If these sizes make no tree.
    """
    waiting: list[Entry] = []
    for at in reversed(range(len(sizes))):
        if not 0 <= sizes[at] <= len(waiting):
            raise ValueError("entries without a tree")
        children = tuple([waiting.pop() for _ in range(sizes[at])])
        waiting.append(make(at, children))
    if len(waiting) != 1:
        raise ValueError("entries of several trees")
    return waiting[0]


def changed(entries: Sequence[Entry]) -> Entry:
    """The tree of entries of which some were exchanged, parents first; children are not changed."""
    sizes = [len(entry.children) for entry in entries]
    return grown(sizes, lambda at, children: replace(entries[at], children=children))


def renamed(ledger: Ledger, path: Callable[[str], str]) -> Ledger:
    """The books with other names for modules.

    Args:
        ledger: The books.
        path: From a module's name inside its model to the one to be shown.
    """
    if ledger.root is None:
        return ledger
    every = ledger.root.walk()
    named = [replace(e, name=path(e.name)) if e.kind == "module" else e for e in every]
    return replace(ledger, root=changed(named))


def sum_by_cause(root: Entry, *, predicted: bool = False) -> dict[str, float]:
    """Add up the leaves of a book by cause, largest loss first.

    Args:
        root: The top entry.
        predicted: Add up the predictions instead of the measurements.
    """
    sums: dict[str, list[float]] = {}
    for leaf in root.leaves():
        value = leaf.predicted if predicted else leaf.decades
        if value is not None:
            sums.setdefault(leaf.cause or "other", []).append(value)
    totals = {cause: math.fsum(values) for cause, values in sums.items()}
    return dict(sorted(totals.items(), key=lambda item: item[1]))
