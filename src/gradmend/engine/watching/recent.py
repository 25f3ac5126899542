"""What a watcher remembers of a run: its beginning, its last rows, and some in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import QUANTITIES, Column, Event, History, RunFacts, Table

FIRST, LAST, BETWEEN = 64, 256, 128
"""Rows kept of a table: the first, the last, and evenly spread ones between them."""
MOST_NUMBERS = 16_000_000
"""Numbers kept of a table at most (64 MB); wide tables keep fewer rows."""
MOST_EVENTS = 512

Row = tuple[int, NDArray[np.float32]]


class Recent:
    """A bounded memory of a run, whatever its length."""

    def __init__(self) -> None:
        self.tables: dict[str, _Rows] = {name: _Rows(names) for name, names in QUANTITIES.items()}
        self.events: list[Event] = []

    def columns(self, table: str, columns: Sequence[Column]) -> None:
        """Declare a table's columns; earlier rows know nothing of new ones."""
        self.tables[table].columns = tuple(columns)

    def append(self, table: str, step: int, block: NDArray[np.floating]) -> None:
        """Remember one row: the table's quantities, shape [quantities, columns]."""
        self.tables[table].append(step, block)

    def event(self, event: Event) -> None:
        """Remember an event; of too many the middle ones are forgotten."""
        self.events.append(event)
        if len(self.events) > MOST_EVENTS:
            del self.events[MOST_EVENTS // 2]

    def history(self, run: RunFacts) -> History:
        """All that is remembered."""
        tables = {name: rows.table(name) for name, rows in self.tables.items() if rows.columns}
        return History(run=run, tables=tables, events=tuple(self.events))


class _Rows:
    def __init__(self, quantities: tuple[str, ...]) -> None:
        self.quantities = quantities
        self.columns: tuple[Column, ...] = ()
        self.first: list[Row] = []
        self.between: list[Row] = []
        self.last: deque[Row] = deque()
        self.stride, self._passed = 1, 0

    def append(self, step: int, block: NDArray[np.floating]) -> None:
        row = block.astype(np.float32)
        share = MOST_NUMBERS // max(1, row.size)
        if len(self.first) < min(FIRST, max(4, share // 7)):
            self.first.append((step, row))
            return
        self.last.append((step, row))
        while len(self.last) > min(LAST, max(8, share // 2)):
            self._leave(self.last.popleft(), min(BETWEEN, max(8, share // 4)))

    def _leave(self, row: Row, most: int) -> None:
        if self._passed % self.stride == 0:
            self.between.append(row)
        self._passed += 1
        if len(self.between) > most:
            self.between, self.stride = self.between[::2], self.stride * 2

    def table(self, name: str) -> Table:
        rows = [*self.first, *self.between, *self.last]
        values = np.full((len(rows), len(self.quantities), len(self.columns)), np.nan)
        for at, (_, row) in enumerate(rows):
            values[at, :, : row.shape[1]] = row
        return Table(
            name=name,
            columns=self.columns,
            steps=np.array([step for step, _ in rows], dtype=np.int64),
            values={q: values[:, at, :] for at, q in enumerate(self.quantities)},
        )
