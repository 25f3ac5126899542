"""The books as the page's script reads them: every entry in a few arrays, parents first.

A tree of 20,000 entries is 0.7 MB this way, and the script adds up any stretch of it at once. Where
there are more than a page should carry, the innermost levels are added up, or neighbours are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gradmend.records.ledger import CAUSES, Entry, Ledger
from gradmend.renderers.grouping import group_entries
from gradmend.renderers.page.encoding import exact
from gradmend.renderers.visible import visible
from gradmend.renderers.waterfall import cause_words, signed

MOST_ENTRIES = 40_000
"""Entries that a page carries: about 1.7 MB; those of 10,000 layers are half of it."""
FINE = 2_000
"""With this many entries a figure is as fine as a screen, and deeper levels may be added up."""
LIKE = 3
"""Repeats from which on like siblings are one row, to be opened."""
FEW = 8
"""Up to this many siblings are never put together."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """Neighbouring entries added up, or one entry with all that is inside it."""

    entries: tuple[Entry, ...]

    def leaves(self) -> Iterable[Entry]:
        """What it is the sum of."""
        return (leaf for entry in self.entries for leaf in entry.leaves())


Node = Entry | Pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The ledger's figure: a waterfall over depth and the tree of its entries."""

    ledger: Ledger
    id: str = "ledger"
    title: str = "Where the gradient went"
    choices: tuple[tuple[str, str], ...] = ()
    """(id, label) of the books of other looks that this place can show, itself among them."""
    kind: Literal["ledger"] = "ledger"

    @property
    def caption(self) -> str:
        """What to look for."""
        return (
            "The gradient starts at the right, at the output, and flows back to the left. "
            "Below 0 it shrinks, above 0 it grows; each decade is a factor of ten."
        )

    @property
    def words(self) -> str:
        """What the figure shows, for a screen reader."""
        return (
            "Cumulative decades of gradient from the output back to the input, by cause, "
            f"{signed(self.ledger.total_decades)} in all."
        )

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        assert self.ledger.root is not None
        return {
            "kind": self.kind,
            "id": self.id,
            "title": self.title,
            "caption": self.caption,
            "words": self.words,
            "choices": [list(choice) for choice in self.choices],
            "causes": [[cause, cause_words(cause)] for cause in CAUSES],
            **_Writer().write(self.ledger.root),
        }


@dataclass(slots=True)
class _Writer:
    """Arrays that grow as the tree is walked."""

    words: dict[str, int] = field(default_factory=dict)
    """``.`` and what follows the parent's path, or ``=`` and a whole name."""
    forms: dict[tuple[str, str, int, str], int] = field(default_factory=dict)
    """(kind, label, cause, source): a plain net has two of them."""
    name: list[int] = field(default_factory=list)
    form: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    """Children of each."""
    decades: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    calls: dict[int, int] = field(default_factory=dict)
    groups: dict[int, list[list[int]]] = field(default_factory=dict)
    parts: list[tuple[int, int, float]] = field(default_factory=list)
    """(entry, cause, decades) of what was added up."""
    amount: dict[int, int] = field(default_factory=dict)
    """Entries in each that was added up."""

    def write(self, root: Entry) -> dict[str, Any]:
        """All of it as JSON values."""
        depth, chunk = _room(root)
        stack: list[tuple[Node, str, int]] = [(root, "", 0)]
        while stack:
            node, above, level = stack.pop()
            children = [] if isinstance(node, Pooled) else _children(node, level, depth, chunk)
            if isinstance(node, Entry) and node.children and not children:
                node = Pooled((node,))
            self._entry(node, above, children)
            path = node.name if isinstance(node, Entry) and node.kind == "module" else above
            stack.extend((child, path, level + 1) for child in reversed(children))
        at, cause, value = zip(*self.parts, strict=True) if self.parts else ((), (), ())
        return {
            "names": list(self.words),
            "forms": [list(form) for form in self.forms],
            "name": exact(np.array(self.name, dtype=np.int64)),
            "form": exact(np.array(self.form, dtype=np.int64)),
            "size": exact(np.array(self.size, dtype=np.int64)),
            "decades": exact(np.array(self.decades)),
            "predicted": exact(np.array(self.predicted)),
            "share": None if set(self.share) <= {1.0} else exact(np.array(self.share)),
            "calls": list(self.calls.items()),
            "groups": list(self.groups.items()),
            "amount": list(self.amount.items()),
            "partAt": exact(np.array(at, dtype=np.int64)),
            "partCause": exact(np.array(cause, dtype=np.int64)),
            "partDecades": exact(np.array(value, dtype=np.float64)),
        }

    def _entry(self, node: Node, above: str, children: Sequence[Node]) -> None:
        at = len(self.name)
        first = node if isinstance(node, Entry) else node.entries[0]
        several = isinstance(node, Pooled) and len(node.entries) > 1
        kind = "pooled" if several else first.kind
        label = "" if several else visible(first.label)
        cause = CAUSES.index(first.cause) if first.cause in CAUSES else len(CAUSES) - 1
        source = "" if several else visible(first.source or "")
        form = (visible(kind), label, cause, source)
        self.form.append(self.forms.setdefault(form, len(self.forms)))
        self.name.append(self.words.setdefault(_word(node, above), len(self.words)))
        self.size.append(len(children))
        self.share.append(first.share)
        if first.call and not several:
            self.calls[at] = first.call
        if isinstance(node, Pooled):
            self._pooled(at, node)
        else:
            self.decades.append(node.decades)
            self.predicted.append(math.nan if node.predicted is None else node.predicted)
            if len(children) > FEW and all(isinstance(child, Entry) for child in children):
                groups = _groups([child for child in children if isinstance(child, Entry)])
                if groups:
                    self.groups[at] = groups

    def _pooled(self, at: int, node: Pooled) -> None:
        sums: dict[int, float] = {}
        predicted = 0.0
        count = 0
        for leaf in node.leaves():
            count += 1
            cause = CAUSES.index(leaf.cause) if leaf.cause in CAUSES else len(CAUSES) - 1
            value = leaf.decades if math.isfinite(leaf.decades) else 0.0
            sums[cause] = sums.get(cause, 0.0) + value
            if leaf.predicted is not None:
                predicted += leaf.predicted
            elif abs(value) > 1e-9:
                predicted = math.nan
        self.parts += [(at, cause, value) for cause, value in sums.items()]
        self.amount[at] = count
        self.decades.append(math.fsum(sums.values()))
        self.predicted.append(predicted)


def _room(root: Entry) -> tuple[int, int]:
    """(deepest level kept, neighbours added up to one on that level)."""
    levels: list[int] = []
    layer: list[Entry] = [root]
    while layer:
        levels.append(len(layer))
        layer = [child for entry in layer for child in entry.children]
    total = 0
    for level, count in enumerate(levels):
        if total + count > MOST_ENTRIES:
            if total >= FINE:
                return level - 1, 1
            return level, math.ceil(count / (MOST_ENTRIES // 4))
        total += count
    return len(levels), 1


def _children(entry: Entry, level: int, depth: int, chunk: int) -> list[Node]:
    if level >= depth:
        return []
    if chunk == 1 or level + 1 < depth:
        return list(entry.children)
    every = entry.children
    return [Pooled(every[k : k + chunk]) for k in range(0, len(every), chunk)]


def _word(node: Node, above: str) -> str:
    if isinstance(node, Pooled) and len(node.entries) > 1:
        first, last = (visible(node.entries[k].name) for k in (0, -1))
        return f"={first} .. {last}"
    entry = node if isinstance(node, Entry) else node.entries[0]
    if above and entry.name.startswith(above + "."):
        return "." + visible(entry.name[len(above) + 1 :])
    return "=" + visible(entry.name)


def _groups(children: Sequence[Entry]) -> list[list[int]]:
    """[first child, how many, period] of each run of like siblings."""
    found = []
    at = 0
    for group in group_entries(children):
        if group.repeats >= LIKE:
            found.append([at, len(group.entries), group.period])
        at += len(group.entries)
    return found
