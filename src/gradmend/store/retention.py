"""Keeps a run bounded, whatever its length: drops, merges and thins inside a transaction.

Everything here depends on what is in the database alone, so a transaction that is rolled back
leaves nothing to undo.
"""

from __future__ import annotations

import sqlite3

from gradmend.store import coarse
from gradmend.store.layout import BLOCK, Caps

_PAIR = """
SELECT a.id, b.id, a.level, a.first_block FROM bucket a
JOIN bucket b
    ON b.tbl = a.tbl AND b.level = a.level AND b.first_block = a.first_block + (1 << a.level)
WHERE a.tbl = ? AND (a.first_block >> a.level) % 2 = 0 ORDER BY a.level, a.first_block LIMIT 1
"""


def pin(db: sqlite3.Connection, step: int) -> None:
    """Mark the sealed blocks that hold a step as worth keeping."""
    db.execute(
        "UPDATE piece SET pinned = 1 WHERE sealed AND first_step <= ? AND last_step >= ?",
        (step, step),
    )


def drop_blocks(db: sqlite3.Connection, table: str, blocks: int, columns: int, caps: Caps) -> None:
    """Drop the blocks that are neither of the beginning, nor recent, nor pinned.

    Args:
        db: The database, in a transaction.
        table: The table.
        blocks: How many blocks were sealed so far.
        columns: How many columns the table has.
        caps: What to keep.
    """
    begin = caps.head_blocks * BLOCK
    end = (blocks - caps.recent_blocks(columns)) * BLOCK
    db.execute(
        "DELETE FROM piece WHERE tbl = ? AND first_row >= ? AND first_row < ? AND NOT pinned",
        (table, begin, end),
    )
    pinned = [
        key
        for (key,) in db.execute(
            "SELECT id FROM piece WHERE tbl = ? AND first_row >= ? AND first_row < ?"
            " ORDER BY first_row",
            (table, begin, end),
        )
    ]
    half = caps.pinned_blocks // 2
    for key in pinned[half : len(pinned) - (caps.pinned_blocks - half)]:
        db.execute("DELETE FROM piece WHERE id = ?", (key,))


def merge_buckets(db: sqlite3.Connection, table: str, caps: Caps) -> None:
    """Merge the oldest pair of the narrowest buckets while there are too many.

    Each new bucket costs one merge at most, so no step waits for a whole level to be rewritten.
    """
    (count,) = db.execute("SELECT COUNT(*) FROM bucket WHERE tbl = ?", (table,)).fetchone()
    while count > caps.buckets:
        pair = db.execute(_PAIR, (table,)).fetchone()
        if pair is None:
            return
        _merge_pair(db, table, *pair)
        count -= 1


def _merge_pair(
    db: sqlite3.Connection, table: str, left: int, right: int, level: int, block: int
) -> None:
    parts: dict[tuple[str, int], coarse.Summary] = {}
    for bucket in (left, right):
        for quantity, chunk, *packed in db.execute(
            "SELECT quantity, chunk, columns, mean, low, high, known FROM summary WHERE bucket = ?",
            (bucket,),
        ).fetchall():
            summary = coarse.unpacked(*packed)
            key = (quantity, chunk)
            parts[key] = coarse.merge(parts[key], summary) if key in parts else summary
    (first,) = db.execute("SELECT first_step FROM bucket WHERE id = ?", (left,)).fetchone()
    (last,) = db.execute("SELECT last_step FROM bucket WHERE id = ?", (right,)).fetchone()
    db.execute("DELETE FROM bucket WHERE id IN (?, ?)", (left, right))
    add_bucket(db, table, level + 1, block, first, last, parts)


def add_bucket(
    db: sqlite3.Connection,
    table: str,
    level: int,
    block: int,
    first_step: int,
    last_step: int,
    parts: dict[tuple[str, int], coarse.Summary],
) -> None:
    """Write a bucket of 2^level blocks; ``parts`` by quantity and chunk of columns."""
    bucket = db.execute(
        "INSERT INTO bucket (tbl, level, first_block, first_step, last_step)"
        " VALUES (?, ?, ?, ?, ?)",
        (table, level, block, first_step, last_step),
    ).lastrowid
    db.executemany(
        "INSERT INTO summary (bucket, quantity, chunk, columns, mean, low, high, known)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (bucket, quantity, chunk, len(summary.mean), *summary.packed())
            for (quantity, chunk), summary in parts.items()
        ],
    )


def thin_histograms(db: sqlite3.Connection, table: str, count: int, caps: Caps) -> None:
    """Keep the first, the last, and between them every 2^k-th of ``count`` histograms."""
    first, between, last = caps.histograms
    stride = 1
    while (count - first - last) // stride > between:
        stride *= 2
    db.execute(
        "DELETE FROM histogram WHERE tbl = ? AND ordinal >= ? AND ordinal < ? AND ordinal % ?",
        (table, first, count - last, stride),
    )


def cap_events(db: sqlite3.Connection, kind: str, caps: Caps) -> None:
    """Drop events of a kind from the middle when there are too many, and count them."""
    (count,) = db.execute("SELECT COUNT(*) FROM event WHERE kind = ?", (kind,)).fetchone()
    excess = count - caps.events
    if excess <= 0:
        return
    db.execute(
        "DELETE FROM event WHERE id IN"
        " (SELECT id FROM event WHERE kind = ? ORDER BY id LIMIT ? OFFSET ?)",
        (kind, excess, caps.events // 2),
    )
    db.execute(
        "INSERT INTO dropped (kind, events) VALUES (?, ?)"
        " ON CONFLICT (kind) DO UPDATE SET events = events + excluded.events",
        (kind, excess),
    )
