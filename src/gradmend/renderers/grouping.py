"""Like entries of the books folded into groups, so that 10 and 10,000 layers read alike.

A plain net is a few layers repeated: ``[Linear(64, 64), Sigmoid] x 99``. Folding such runs keeps
the order and every decade: the groups' sums add up to the entries'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gradmend.records.ledger import Entry

LONGEST_PERIOD = 6
"""Entries in the longest pattern looked for: convolution, norm, activation, twice."""


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive entries shown as one row: a pattern of ``period`` entries, repeated.

    A single entry is a group of period 1; a group with one repeat of several entries is a rest,
    folded only to save rows.
    """

    entries: tuple[Entry, ...]
    period: int = 1

    @property
    def repeats(self) -> int:
        """How many times the pattern occurs."""
        return len(self.entries) // self.period

    @property
    def pattern(self) -> tuple[Entry, ...]:
        """The first occurrence of the pattern."""
        return self.entries[: self.period]

    @property
    def first(self) -> Entry:
        """The entry nearest to the input."""
        return self.entries[0]

    @property
    def last(self) -> Entry:
        """The entry nearest to the output."""
        return self.entries[-1]

    @property
    def decades(self) -> float:
        """Sum over the entries."""
        return _sum(entry.decades for entry in self.entries)

    @property
    def predicted(self) -> float | None:
        """Sum of the predictions; ``None`` where an entry that changes something has none."""
        total = 0.0
        for entry in self.entries:
            if entry.predicted is not None:
                total += entry.predicted
            elif abs(entry.decades) > 1e-9:
                return None
        return total

    @property
    def per_repeat(self) -> float:
        """Mean decades of one occurrence of the pattern."""
        return self.decades / self.repeats

    @property
    def mixed(self) -> bool:
        """Whether unlike entries were folded together only to save rows."""
        return self.period > 1 and self.repeats == 1


@dataclass(frozen=True, slots=True)
class Row:
    """A group at its depth in the tree; a row with others inside is their sum."""

    group: Group
    level: int = 0
    opened: bool = False
    """Whether the rows below, one level deeper, show what is inside."""
    inside: Group | None = None
    """The containers whose pooled children these are."""


def group_entries(entries: Sequence[Entry]) -> list[Group]:
    """Fold runs of a repeating pattern of (label, kind) into groups.

    Args:
        entries: Sibling entries in forward order.

    Returns:
        Groups in the same order; their entries, put end to end, are ``entries``.
    """
    keys = [(entry.label, entry.kind) for entry in entries]
    groups: list[Group] = []
    at = 0
    while at < len(entries):
        skip, period, repeats = _best_run(keys, at, lambda i: entries[i].cause == "weights")
        groups.extend(Group((entry,)) for entry in entries[at : at + skip])
        at += skip
        end = at + period * repeats
        groups.append(Group(tuple(entries[at:end]), period))
        at = end
    return groups


def _best_run(
    keys: Sequence[tuple[str, str]], at: int, leads: Callable[[int], bool]
) -> tuple[int, int, int]:
    """(entries to skip, period, repeats) of the run from ``at`` on that covers most.

    Among the phases that repeat equally often the one that begins with a linear map wins, for
    people say [Linear, Sigmoid] and not [Sigmoid, Linear].
    """
    best = (0, 1, 1)
    covered = 1
    for period in range(1, LONGEST_PERIOD + 1):
        end = at + period
        while end < len(keys) and keys[end] == keys[end - period]:
            end += 1
        repeats = (end - at) // period
        if repeats < 2 or repeats * period <= covered:
            continue
        covered = repeats * period
        phases = [k for k in range(period) if (end - at - k) // period == repeats]
        skip = next((k for k in phases if leads(at + k)), 0)
        best = (skip, period, repeats)
    return best


def depth_rows(root: Entry, *, limit: int = 24) -> list[Row]:
    """The books over depth in at most ``limit`` rows, opening containers while there is room.

    Args:
        root: The top entry.
        limit: Most rows to return, at least 4.
    """
    inside = root.children or (root,)
    rows = [Row(group) for group in fold(group_entries(inside), limit)]
    opened_one = True
    while opened_one:
        opened_one = False
        # The weightiest container first: it is the one a reader wants to look into.
        order = sorted(range(len(rows)), key=lambda i: -abs(_finite(rows[i].group.decades)))
        for index in order:
            row = rows[index]
            parts = [] if row.opened or row.level > 2 else inner_groups(row.group)
            if parts and len(rows) + len(parts) <= limit:
                below = [Row(part, row.level + 1, inside=row.group) for part in parts]
                rows[index : index + 1] = [replace(row, opened=True), *below]
                opened_one = True
                break
    return rows


def inner_groups(group: Group) -> list[Group]:
    """What is inside the containers of a group, pooled over its repeats.

    Empty where there is nothing inside or where the repeats differ inside. The inner groups hold
    every child exactly once, position by position: all first norms, all attentions...
    """
    if group.period != 1 or not group.first.children:
        return []
    shape = [(child.label, child.kind) for child in group.first.children]
    if any([(c.label, c.kind) for c in e.children] != shape for e in group.entries[1:]):
        return []
    pooled: list[Group] = []
    at = 0
    for part in group_entries(group.first.children):
        end = at + len(part.entries)
        pooled.append(
            Group(tuple(c for e in group.entries for c in e.children[at:end]), part.period)
        )
        at = end
    return pooled


def fold(groups: Sequence[Group], limit: int) -> list[Group]:
    """At most ``limit`` groups: the weightiest stay, runs of others become one group each."""
    if len(groups) <= limit:
        return list(groups)
    order = sorted(range(len(groups)), key=lambda i: -abs(_finite(groups[i].decades)))
    low, high = 0, limit
    folded = _fold_others(groups, set())
    while low < high:  # the more are kept, the more rows: find the most that fit
        middle = (low + high + 1) // 2
        tried = _fold_others(groups, set(order[:middle]))
        if len(tried) <= limit:
            low, folded = middle, tried
        else:
            high = middle - 1
    return folded


def _fold_others(groups: Sequence[Group], kept: set[int]) -> list[Group]:
    result: list[Group] = []
    waiting: list[Group] = []

    def flush() -> None:
        if len(waiting) == 1:
            result.append(waiting[0])
        elif waiting:
            entries = tuple(entry for group in waiting for entry in group.entries)
            result.append(Group(entries, len(entries)))
        waiting.clear()

    for index, group in enumerate(groups):
        if index in kept:
            flush()
            result.append(group)
        else:
            waiting.append(group)
    flush()
    return result


def _sum(values: Iterator[float]) -> float:
    """Exact where finite; ``math.fsum`` raises on infinities of both signs."""
    numbers = list(values)
    return math.fsum(numbers) if all(map(math.isfinite, numbers)) else sum(numbers)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
