"""Writes the rows of a table: small unsealed pieces first, then sealed blocks and their buckets."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import numpy as np

from gradmend.store import coarse, retention
from gradmend.store.buffer import Buffer
from gradmend.store.encoding import Cells, Steps, pack, pack_steps
from gradmend.store.layout import BLOCK, PART_COLUMNS, SUMMARY_COLUMNS, Caps


def write(db: sqlite3.Connection, table: str, buffer: Buffer, caps: Caps) -> None:
    """Write what a buffer holds, inside a transaction; the buffer stays as it is."""
    begin = 0
    while len(buffer) - begin >= BLOCK:
        _seal(db, table, buffer, begin)
        begin += BLOCK
    if begin:
        blocks = (buffer.first_row + begin) // BLOCK
        retention.drop_blocks(db, table, blocks, buffer.columns, caps)
        retention.merge_buckets(db, table, caps)
    begin = begin or buffer.written
    if begin < len(buffer):
        steps, values = buffer.rows(begin, len(buffer))
        _add_piece(db, table, buffer.first_row + begin, steps, values, sealed=False)


def _seal(db: sqlite3.Connection, table: str, buffer: Buffer, begin: int) -> None:
    row = buffer.first_row + begin
    steps, values = buffer.rows(begin, begin + BLOCK)
    db.execute("DELETE FROM piece WHERE tbl = ? AND first_row >= ? AND NOT sealed", (table, row))
    _add_piece(db, table, row, steps, values, sealed=True)
    parts = {
        (quantity, chunk): coarse.summarise(some)
        for quantity, cells in values.items()
        for chunk, some in _chunks(cells, SUMMARY_COLUMNS)
    }
    first, last = int(steps[0]), int(steps[-1])
    retention.add_bucket(db, table, 0, row // BLOCK, first, last, parts)


def _add_piece(
    db: sqlite3.Connection,
    table: str,
    row: int,
    steps: Steps,
    values: Mapping[str, Cells],
    *,
    sealed: bool,
) -> None:
    first, last = int(steps[0]), int(steps[-1])
    piece = db.execute(
        "INSERT INTO piece (tbl, first_row, rows, sealed, pinned, first_step, last_step, steps)"
        " VALUES (?, ?, ?, ?, EXISTS ("
        "SELECT 1 FROM event WHERE kind != 'note' AND step BETWEEN ? AND ?), ?, ?, ?)",
        (table, row, len(steps), sealed, first, last, first, last, pack_steps(steps)),
    ).lastrowid
    db.executemany(
        "INSERT INTO part (piece, quantity, chunk, columns, cells) VALUES (?, ?, ?, ?, ?)",
        [
            (piece, quantity, chunk, some.shape[1], pack(some.T))
            for quantity, cells in values.items()
            for chunk, some in _chunks(cells, PART_COLUMNS)
        ],
    )


def _chunks(cells: Cells, width: int) -> list[tuple[int, Cells]]:
    """Columns in chunks, without those in which nothing was measured."""
    chunks = [(at // width, cells[:, at : at + width]) for at in range(0, cells.shape[1], width)]
    return [(chunk, some) for chunk, some in chunks if not np.isnan(some).all()]
