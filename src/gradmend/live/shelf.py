"""Which runs there are to see: looked up in a listed folder, never made from a request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gradmend.errors import BadInput
from gradmend.store import layout, manifest
from gradmend.store.folders import RunSummary, is_run, list_runs, ranks
from gradmend.store.reader import open_run

Pulse = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A run that may be shown."""

    name: str
    """As in the address and in the list."""
    folder: Path
    rank: int = 0
    """Whose numbers, of a training over several processes."""


@dataclass(frozen=True, slots=True)
class Row:
    """A run in the list."""

    summary: RunSummary
    loss: float | None
    """The newest that was measured."""


def pulse(folder: Path, rank: int = 0) -> Pulse:
    """What changes whenever a run is written: time, size and number of its files.

    Looking at it costs microseconds and takes no lock, so the writer never notices.
    """
    database = layout.database(folder, rank)
    log = database.with_name(database.name + "-wal")
    return tuple(_stat(path) for path in (folder / manifest.NAME, database, log))


def written_at(folder: Path, rank: int = 0) -> float | None:
    """When a run was last written, in seconds of the clock; None where nothing is there."""
    times = [stat[0] / 1e9 for stat in pulse(folder, rank) if stat is not None]
    return max(times, default=None)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Shelf:
    """A folder of runs, or a single run.

    Args:
        place: The folder. It may be missing or empty: runs are shown as they appear.

    Raises:
        BadInput: If it is a file.
    """

    def __init__(self, place: Path) -> None:
        if place.exists() and not place.is_dir():
            raise BadInput(f"{place} is a file", "", "pass the folder of a run, or one of runs")
        self.place = place
        """As it was given, for people."""
        resolved = place.resolve()
        self.only = resolved.name if is_run(resolved) else None
        """Name of the run, where one was given."""
        self.folder = resolved.parent if self.only else resolved
        self._rows: dict[str, tuple[Pulse, Row]] = {}

    def runs(self) -> list[Shown]:
        """The runs as they lie there now, by name.

        Links that lead out of the folder are left out: whoever can reach the page is shown what is
        in the folder and nothing else.
        """
        return sorted(self._inside(), key=lambda run: run.name)

    def find(self, name: str, rank: int = 0) -> Shown | None:
        """The run of that name; None where the folder lists none, or the run no such rank."""
        found = next((run for run in self._inside() if run.name == name), None)
        if found is None or not rank:
            return found
        there = rank in ranks(found.folder) and self._holds(layout.database(found.folder, rank))
        return replace(found, rank=rank) if there else None

    def rows(self) -> list[Row]:
        """The runs for the list, the newest first; what has not changed is not read again."""
        rows: dict[str, tuple[Pulse, Row]] = {}
        for run in self._inside():
            now = pulse(run.folder)
            before = self._rows.get(run.name)
            # A writer that was killed changes no file, so what runs is always looked at again.
            if before and before[0] == now and before[1].summary.run.status != "running":
                rows[run.name] = before
                continue
            row = _row(run)
            if row is not None:
                rows[run.name] = (now, row)
        self._rows = rows
        newest = sorted(
            (row for _, row in rows.values()),
            key=lambda row: (row.summary.run.started_at, row.summary.name),
        )
        return newest[::-1]

    def _inside(self) -> Iterator[Shown]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if _is_folder(entry)]
        except OSError:
            return
        for name in names:
            folder = self.folder / name
            if self.only not in (None, name) or not _sayable(name):
                continue
            if is_run(folder) and self._contained(folder):
                yield Shown(name, folder)

    def _contained(self, folder: Path) -> bool:
        return self._holds(folder, folder / manifest.NAME, layout.database(folder, 0))

    def _holds(self, *parts: Path) -> bool:
        """Whether none of them leads out of the folder."""
        try:
            return all(part.resolve().is_relative_to(self.folder) for part in parts)
        except (OSError, RuntimeError):  # a link to itself
            return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _sayable(name: str) -> bool:
    """Whether a name can stand in an address: bytes that are no text cannot."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _row(run: Shown) -> Row | None:
    try:
        summaries = list_runs(run.folder)
    except BadInput:  # gone since it was listed
        return None
    if not summaries:
        return None
    loss = None
    if not summaries[0].problem:
        try:
            last = open_run(run.folder).profile("step", "loss", 1 << 62)
        except BadInput:  # damaged just there; the page of the run says so
            last = np.zeros(0)
        known = [float(value) for value in last if not np.isnan(value)]
        loss = known[0] if known else None
    return Row(summaries[0], loss)
