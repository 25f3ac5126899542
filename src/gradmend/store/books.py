"""Gradient ledgers as bytes: the entries as columns, parents first, all of it deflated.

The books of 10,000 layers are some 30,000 entries, which is a third of a megabyte. Where there are
more than a run should keep, what is innermost is added up by cause: the sums stay what they are.
"""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmend.records.ledger import Booked, Entry, Ledger, changed, grown, sum_by_cause
from gradmend.store.encoding import inflate
from gradmend.store.errors import Damaged
from gradmend.store.plain import clean

MOST_ENTRIES = 100_000
"""Entries that a run keeps of a look: ten times those of most models (our choice)."""
FIRST, NEWEST = "first", "newest"
SLOTS = (FIRST, NEWEST)
"""Which looks a run keeps the books of."""

_LARGEST = 1 << 26
"""Bytes before deflation; 100,000 entries with long names are a quarter of it."""
_COLUMNS = {
    "name": "<i4",
    "form": "<i4",
    "size": "<i4",
    "call": "<i4",
    "decades": "<f8",  # in full: that the books balance is a claim about their last digits
    "own_decades": "<f4",
    "predicted": "<f4",
    "share": "<f4",
}
_HEAD = tuple(field.name for field in fields(Ledger) if field.name != "root")
_TEXTS = {"cotangent", "dtype", "start"}
_NUMBERS = {"total_decades", "unexplained_decades", "imbalance", "log10_cotangent"}


def pack(ledger: Ledger) -> tuple[int, bytes]:
    """Books as bytes: how many they are before deflation, and the bytes."""
    root = None if ledger.root is None else bounded(ledger.root)
    every = [] if root is None else list(root.walk())
    names: dict[str, int] = {}
    forms: dict[tuple[str, str, str | None, str | None], int] = {}
    columns: dict[str, list[float]] = {name: [] for name in _COLUMNS}
    for entry in every:
        form = (entry.kind, entry.label, entry.cause, entry.source)
        values: tuple[float, ...] = (
            names.setdefault(entry.name, len(names)),
            forms.setdefault(form, len(forms)),
            len(entry.children),
            entry.call,
            entry.decades,
            math.nan if entry.own_decades is None else entry.own_decades,
            math.nan if entry.predicted is None else entry.predicted,
            entry.share,
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    head = {name: getattr(ledger, name) for name in _HEAD}
    text = json.dumps(
        [head, list(names), list(forms), len(every)], separators=(",", ":"), default=str
    )
    encoded = clean(text).encode()
    with np.errstate(over="ignore"):  # a gain beyond single precision is infinite there
        cells = [np.array(columns[name]).astype(kind).tobytes() for name, kind in _COLUMNS.items()]
    whole = b"".join([len(encoded).to_bytes(8, "little"), encoded, *cells])
    return len(whole), zlib.compress(whole, 6)


@lru_cache(maxsize=4)  # the same books are read again with every report on a growing run
def unpack(blob: bytes, size: int) -> Ledger:
    """Books from bytes.

    Raises:
        Damaged: If the bytes hold anything else.
    """
    if not 8 <= size <= _LARGEST:
        raise Damaged("books of an impossible size")
    whole = inflate(blob, size)
    length = int.from_bytes(whole[:8], "little")
    if length > size - 8:
        raise Damaged("books are cut off")
    try:
        head, names, forms, count = json.loads(whole[8 : 8 + length])
        ledger = _ledger(head)
        if not count:
            return ledger
        columns = _columns(whole[8 + length :], count)
        if not _are_texts(names, forms):
            raise TypeError
        return replace(ledger, root=_root(columns, names, forms))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise Damaged("the books of a look are no books") from None


def _columns(data: bytes, count: int) -> dict[str, NDArray[Any]]:
    columns, at = {}, 0
    for name, kind in _COLUMNS.items():
        end = at + count * np.dtype(kind).itemsize
        columns[name] = np.frombuffer(data[at:end], dtype=kind)
        at = end
    if at != len(data) or any(len(column) != count for column in columns.values()):
        raise Damaged("books of an unexpected size")
    return columns


def _are_texts(names: list[Any], forms: list[Any]) -> bool:
    return all(isinstance(name, str) for name in names) and all(
        isinstance(kind, str)
        and isinstance(label, str)
        and isinstance(cause, str | None)
        and isinstance(source, str | None)
        for kind, label, cause, source in forms
    )


def _root(columns: Mapping[str, NDArray[Any]], names: list[str], forms: list[Any]) -> Entry:
    for key, among in (("name", names), ("form", forms)):
        if columns[key].min() < 0 or columns[key].max() >= len(among):
            raise IndexError
    lists = {key: column.tolist() for key, column in columns.items()}
    name, form, size, call = (lists[key] for key in ("name", "form", "size", "call"))
    decades, own, predicted, share = (
        lists[key] for key in ("decades", "own_decades", "predicted", "share")
    )

    def make(at: int, children: tuple[Entry, ...]) -> Entry:
        kind, label, cause, source = forms[form[at]]
        return Entry(
            name=names[name[at]],
            kind=kind,
            label=label,
            cause=cause,
            source=source,
            decades=decades[at],
            own_decades=_known(own[at]),
            predicted=_known(predicted[at]),
            share=share[at],
            call=call[at],
            children=children,
        )

    return grown(size, make)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ledger(head: Mapping[str, Any]) -> Ledger:
    known: dict[str, Any] = {}
    for name in _HEAD:
        value = head[name]
        if name in _TEXTS:
            right = isinstance(value, str)
        elif name in _NUMBERS:
            right = value is None or isinstance(value, int | float)
        elif name == "notes":
            right = all(isinstance(note, str) for note in value)
            value = tuple(value)
        elif name.endswith("by_cause"):
            right = all(isinstance(v, int | float) for v in value.values())
        else:
            right = value is None or isinstance(value, str)
        if not right:
            raise TypeError
        known[name] = value
    return Ledger(root=None, **known)


def bounded(root: Entry, most: int = MOST_ENTRIES) -> Entry:
    """The books in at most so many entries (a dozen at least).

    Levels of the tree are kept from the top. What stands inside the last one that fits is added up
    by cause, so that every sum, and every cause's, is what it was.
    """
    levels = [[root]]
    while inside := [child for entry in levels[-1] for child in entry.children]:
        levels.append(inside)
    if sum(map(len, levels)) <= most:
        return root
    for depth in reversed(range(len(levels) - 1)):
        above = sum(map(len, levels[:depth]))
        if above + len(levels[depth]) > most:
            continue
        short = {id(entry): _added_up(entry) for entry in levels[depth]}
        if above + sum(1 + len(entry.children) for entry in short.values()) <= most:
            break
    entries, stack = [], [root]
    while stack:
        entry = stack.pop()
        entry = short.get(id(entry), entry)
        entries.append(entry)
        stack.extend(reversed(entry.children))
    return changed(entries)


def _added_up(entry: Entry) -> Entry:
    """An entry with one child for each cause inside of it, or none where there is one cause."""
    if not entry.children:
        return entry
    sums = sum_by_cause(entry)
    if len(sums) == 1:
        return replace(entry, cause=next(iter(sums)), children=())
    guesses = sum_by_cause(entry, predicted=True)
    untold = {
        leaf.cause or "other"
        for leaf in entry.leaves()
        if leaf.predicted is None and abs(leaf.decades) > 1e-9
    }
    parts = tuple(
        Entry(
            name="(added up)",
            kind="operation",
            label="operations added up",
            cause=cause,
            decades=decades,
            predicted=None if cause in untold else guesses.get(cause),
            share=entry.share,
        )
        for cause, decades in sums.items()
    )
    return replace(entry, children=parts)


def write(db: sqlite3.Connection, slot: str, step: int, size: int, blob: bytes) -> None:
    """Keep a look's books in a slot, inside a transaction."""
    db.execute(
        "INSERT OR REPLACE INTO books (slot, step, size, cells) VALUES (?, ?, ?, ?)",
        (slot, step, size, blob),
    )


def read(db: sqlite3.Connection) -> tuple[Booked, ...]:
    """The books that a run holds, the first look's before the newest's.

    A run of a gradmend that kept none has no such table.
    """
    if not db.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'books'"
    ).fetchone():
        return ()
    found = []
    for slot in SLOTS:
        row = db.execute("SELECT step, size, cells FROM books WHERE slot = ?", (slot,)).fetchone()
        if row is None:
            continue
        step, size, blob = row
        if not (isinstance(step, int) and isinstance(size, int) and isinstance(blob, bytes)):
            raise Damaged("books of another type")
        found.append(Booked(step=step, ledger=unpack(blob, size)))
    return tuple(found)
