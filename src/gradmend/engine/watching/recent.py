"""What a watcher remembers of a run: its beginning, its last rows, and some in between."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import QUANTITIES, Column, Event, History, RunFacts, Table
from gradmend.records.ledger import Booked
from gradmend.store.keeping import MOST_EVENTS, Room

Row = tuple[int, NDArray[np.float32]]


class Recent:
    """A bounded memory of a run, whatever its length."""

    def __init__(self) -> None:
        self.tables: dict[str, _Rows] = {name: _Rows(names) for name, names in QUANTITIES.items()}
        self.events: list[Event] = []
        self.books: dict[str, Booked] = {}
        """Ledgers of looks by slot, the first look's before the newest's."""
        self._kinds: Counter[str] = Counter()

    def columns(self, table: str, columns: Sequence[Column]) -> None:
        """Declare a table's columns; earlier rows know nothing of new ones."""
        self.tables[table].columns = tuple(columns)

    def append(self, table: str, step: int, block: NDArray[np.floating]) -> None:
        """Remember one row: the table's quantities, shape [quantities, columns]."""
        self.tables[table].append(step, block)

    def event(self, event: Event) -> None:
        """Remember an event; of too many of a kind the middle ones are forgotten."""
        self.events.append(event)
        self._kinds[event.kind] += 1
        if self._kinds[event.kind] > MOST_EVENTS:
            same = [at for at, each in enumerate(self.events) if each.kind == event.kind]
            del self.events[same[MOST_EVENTS // 2]]
            self._kinds[event.kind] -= 1

    def history(self, run: RunFacts) -> History:
        """All that is remembered."""
        tables = {name: rows.table(name) for name, rows in self.tables.items() if rows.columns}
        books = tuple(self.books.values())
        return History(run=run, tables=tables, events=tuple(self.events), books=books)


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
        room = Room.of(row.size)
        if len(self.first) < room.first:
            self.first.append((step, row))
            return
        self.last.append((step, row))
        while len(self.last) > room.last:
            self._leave(self.last.popleft(), room.between)

    def _leave(self, row: Row, most: int) -> None:
        if self._passed % self.stride == 0:
            self.between.append(row)
        self._passed += 1
        if len(self.between) > most:
            self.between, self.stride = self.between[::2], self.stride * 2

    def rows(self) -> list[Row]:
        """All that are remembered, in order."""
        return [*self.first, *self.between, *self.last]

    def table(self, name: str) -> Table:
        rows = self.rows()
        values = np.full((len(rows), len(self.quantities), len(self.columns)), np.nan)
        for at, (_, row) in enumerate(rows):
            values[at, :, : row.shape[1]] = row
        return Table(
            name=name,
            columns=self.columns,
            steps=np.array([step for step, _ in rows], dtype=np.int64),
            values={q: values[:, at, :] for at, q in enumerate(self.quantities)},
        )
