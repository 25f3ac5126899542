"""Where a watcher's numbers go: into memory, and to disk as long as that works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from gradmend.engine.watching.recent import Recent
from gradmend.records.exponents import Exponents
from gradmend.records.history import QUANTITIES, Column, Event, History, RunFacts
from gradmend.records.ledger import Booked, Ledger
from gradmend.store.books import FIRST, NEWEST
from gradmend.store.errors import StoreError
from gradmend.store.plain import as_stored
from gradmend.store.writer import RunWriter


class Record:
    """A run's memory, and its folder where it has one.

    Args:
        run: The run's circumstances so far.
        writer: The folder's writer; ``None`` keeps the run in memory alone.
    """

    def __init__(self, run: RunFacts, writer: RunWriter | None) -> None:
        self.run = run
        self.recent = Recent()
        self.writer = writer
        self.trouble: str | None = None
        """Why nothing is written to disk any more."""

    def open(self, folder: Path) -> None:
        """Write to a folder from now on, and what is remembered so far.

        Raises:
            BadInput: If the folder cannot be used.
            StoreError: If it cannot be written.
        """
        writer = RunWriter.create(folder, self.run, rank=self.run.rank)
        for name, rows in self.recent.tables.items():
            if rows.columns:
                writer.columns(name, rows.columns, at=0)
            for step, block in rows.rows():
                writer.append(name, step, dict(zip(QUANTITIES[name], block, strict=True)))
        for event in self.recent.events:
            writer.event(event)
        for slot, booked in self.recent.books.items():
            writer.books(slot, booked)
        self.writer = writer

    def columns(self, table: str, columns: Sequence[Column]) -> None:
        """Declare all of a table's columns, as they are now."""
        self.recent.columns(table, columns)
        if self.writer is not None:
            self.writer.columns(table, columns, at=0)

    def append(self, table: str, step: int, block: NDArray[np.floating]) -> None:
        """Add one row: the table's quantities in their order, shape [quantities, columns]."""
        self.recent.append(table, step, block)
        if self.writer is not None:
            self.writer.append(table, step, dict(zip(QUANTITIES[table], block, strict=True)))

    def histogram(self, table: str, step: int, counts: Mapping[int, Exponents]) -> None:
        """Add exponent histograms; they are kept on disk only."""
        if self.writer is not None:
            self.writer.histogram(table, step, counts)

    def event(self, event: Event) -> None:
        """Add an event; its facts are remembered as a folder gives them back."""
        self.recent.event(as_stored(event))
        if self.writer is not None:
            self.writer.event(event)

    def books(self, step: int, ledger: Ledger) -> None:
        """Keep the gradient ledger of a look: the first one's, and the newest one's beside it.

        Of a look at numbers that are none there is nothing to keep: the books of the one before
        are the last that say anything. Of several models those of the first are kept.
        """
        kept = self.recent.books
        if ledger.root is None:
            return
        first = kept.get(FIRST)
        if first is not None and first.step == step:
            return
        if first is not None and first.ledger.root and first.ledger.root.name != ledger.root.name:
            return
        slot = FIRST if first is None else NEWEST
        kept[slot] = Booked(step=step, ledger=ledger)
        if self.writer is not None:
            self.writer.books(slot, kept[slot])

    def note(self, step: int, text: str, where: str = "") -> None:
        """Say once what cannot be seen, and why."""
        if all(e.text != text for e in self.recent.events if e.kind == "note"):
            self.event(Event(step=step, kind="note", where=where, text=text))

    def due(self) -> bool:
        """Whether it is time to make what was measured durable."""
        return self.writer is not None and self.writer.due()

    def flush(self) -> None:
        """Make everything so far durable."""
        if self.writer is None:
            return
        try:
            self.writer.state(self.run)
            self.writer.flush()
        except (StoreError, OSError) as error:
            self.trouble = str(error)
            self.drop()
            self.note(self.run.steps, f"the run is no longer written to disk: {error}")

    def drop(self) -> None:
        """Write nothing more."""
        writer, self.writer = self.writer, None
        if writer is not None:
            try:
                writer.close()
            except (StoreError, OSError) as error:
                self.trouble = self.trouble or str(error)

    def close(self) -> None:
        """Write what is left and let go of the folder."""
        self.flush()
        self.drop()

    @contextmanager
    def as_folder(self, folder: Path | None) -> Iterator[Path]:
        """The run as a folder that can be read: its own, or what is remembered in a passing one.

        Args:
            folder: Where it was written, if it was. It is not written any more.
        """
        if folder is not None:
            yield folder
            return
        # A reader lets go of its file when it is collected: elsewhere than here.
        with TemporaryDirectory(prefix="gradmend-", ignore_cleanup_errors=True) as passing:
            self.open(Path(passing) / "run")
            self.close()
            yield Path(passing) / "run"

    def history(self) -> History:
        """What is remembered of the run."""
        return self.recent.history(self.run)

    def leave_child(self) -> None:
        """In a forked child: never touch the folder again."""
        if self.writer is not None:
            self.writer.abandon_after_fork()
            self.writer = None
