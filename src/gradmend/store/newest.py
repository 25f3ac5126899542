"""The newest, or the oldest, measured number of each column, from a few blobs at a table's end."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

import numpy as np

from gradmend.records.exponents import Exponents
from gradmend.records.history import Floats, Steps
from gradmend.store.encoding import unpack_histograms
from gradmend.store.layout import PART_COLUMNS
from gradmend.store.points import load, points_of

_SOURCES = 8
"""Pieces or buckets read at most: what was not measured in 512 rows is not new."""
_TELLINGS = 16
"""Histograms read back at most: each optimizer tells its own parameters'."""


def newest(
    db: sqlite3.Connection,
    table: str,
    columns: int,
    quantities: Sequence[str],
    *,
    codes: Collection[str] = (),
    oldest: bool = False,
) -> tuple[Steps, dict[str, Floats]]:
    """Of each column the last row in which the first of the quantities was measured.

    All quantities are of that same row, so that they can be added and divided.

    Args:
        db: The database.
        table: The table.
        columns: How many columns it has.
        quantities: Which.
        codes: Those of them that are names in numbers.
        oldest: The first such row instead.

    Returns:
        The step of each column's row, -1 where there is none, shape [columns]; and by quantity
        the numbers, shape [columns], NaN where unknown.
    """
    steps = np.full(columns, -1, dtype=np.int64)
    found = {name: np.full(columns, np.nan) for name in quantities}
    where = points_of(db, table)
    order = np.arange(len(where)) if oldest else np.arange(len(where))[::-1]
    borders = np.flatnonzero(np.diff(where.source[order], prepend=0))  # no source is 0
    for begin, end in zip(borders[:_SOURCES], [*borders[1:], len(order)], strict=False):
        some = where.take(order[begin:end])
        values: dict[str, Floats] = {}
        for name in quantities:
            bucket = "high" if name in codes else "mean"
            loaded = load(db, some, columns, quantity=name, bucket=bucket)
            if name in loaded:
                values[name] = loaded[name]
            elif name == quantities[0]:
                break
        if quantities[0] not in values:
            continue
        known = ~np.isnan(values[quantities[0]])
        mine = np.flatnonzero((steps < 0) & known.any(axis=0))
        row = known[:, mine].argmax(axis=0)
        steps[mine] = some.steps[row]
        for name, cells in values.items():
            found[name][mine] = cells[row, mine]
        if (steps >= 0).all():
            break
    return steps, found


def last_histograms(
    db: sqlite3.Connection, table: str, columns: int
) -> dict[int, tuple[int, Exponents]]:
    """The newest histogram of each column that has any: (step, histogram) by column."""
    found: dict[int, tuple[int, Exponents]] = {}
    ordinals = [
        ordinal
        for (ordinal,) in db.execute(
            "SELECT DISTINCT ordinal FROM histogram WHERE tbl = ? ORDER BY ordinal DESC LIMIT ?",
            (table, _TELLINGS),
        )
    ]
    for ordinal in ordinals:
        if len(found) == columns:
            break
        for step, numbers, blob in db.execute(
            "SELECT step, numbers, cells FROM histogram WHERE tbl = ? AND ordinal = ?",
            (table, ordinal),
        ):
            for column, histogram in unpack_histograms(blob, numbers, PART_COLUMNS).items():
                found.setdefault(column, (int(step), histogram))
    return found


def measured(db: sqlite3.Connection) -> dict[str, frozenset[str]]:
    """The quantities of each table of which any number is kept, and ``histogram`` where any is."""
    found: dict[str, set[str]] = {}
    for table, quantity in db.execute(
        "SELECT DISTINCT tbl, quantity FROM piece JOIN part ON part.piece = piece.id UNION"
        " SELECT DISTINCT tbl, quantity FROM bucket JOIN summary ON summary.bucket = bucket.id"
        " UNION SELECT DISTINCT tbl, 'histogram' FROM histogram"
    ):
        found.setdefault(str(table), set()).add(str(quantity))
    return {table: frozenset(names) for table, names in found.items()}
