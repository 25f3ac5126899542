"""Folders of runs: making one, and listing what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradmend.errors import BadInput
from gradmend.records.finding import Severity
from gradmend.records.history import Event, RunFacts
from gradmend.store import manifest
from gradmend.store.errors import StoreError
from gradmend.store.layout import database
from gradmend.store.reader import open_run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in a list of runs."""

    name: str
    path: Path
    run: RunFacts = field(default_factory=RunFacts)
    """Status, steps, seconds, beginning, models."""
    open_findings: Mapping[Severity, int] = field(default_factory=dict)
    """Findings that began and did not clear, by severity; only those there are."""
    worst: str = ""
    """Name of the gravest open finding; of several, the one that began first."""
    bytes: int = 0
    """On disk."""
    problem: str = ""
    """Why it cannot be read, in one line; empty if it can."""


def new_folder(base: Path, name: str) -> Path:
    """Make a folder of that name, or ``name-2``, ``name-3``...: the first that is not there.

    Raises:
        StoreError: If none can be made.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = base / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()  # of two processes, one makes it
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise StoreError(
            f"no folder can be made in {base} ({error.strerror})", "", "name another folder"
        ) from None


def list_runs(folder: Path | str) -> list[RunSummary]:
    """The runs in a folder, the oldest first; the folder itself if it is a run.

    A run that cannot be read is in the list, with its problem.

    Raises:
        BadInput: If there is no such folder.
    """
    folder = Path(folder)
    if is_run(folder):
        return [_summary(folder)]
    try:
        inside = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be listed ({error.strerror})", "", "pass a folder that holds runs"
        ) from None
    summaries = [_summary(entry) for entry in inside if is_run(entry)]
    return sorted(summaries, key=lambda summary: (summary.run.started_at, summary.name))


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or what is left of one."""
    try:
        return (folder / manifest.NAME).is_file() or any(folder.glob("rank-*.db"))
    except OSError:
        return False


def ranks(folder: Path) -> tuple[int, ...]:
    """The ranks that have written into a run's folder, ascending."""
    found = []
    try:
        for path in folder.glob("rank-*.db"):
            number = path.stem.removeprefix("rank-")
            if number.isascii() and number.isdigit() and path == database(folder, int(number)):
                found.append(int(number))
    except OSError:
        pass
    return tuple(sorted(found))


def _summary(folder: Path) -> RunSummary:
    name, size = folder.absolute().name, _size(folder)
    run = RunFacts(status="")
    try:
        run = manifest.read(folder)
        events = open_run(folder).events(kinds=("finding-begins", "finding-clears"))
    except BadInput as error:
        return RunSummary(name=name, path=folder, run=run, bytes=size, problem=str(error))
    opened = open_findings(events)
    ranked = sorted(opened, key=lambda event: -_severity(event).rank)
    counts = {
        severity: sum(_severity(event) is severity for event in opened) for severity in Severity
    }
    return RunSummary(
        name=name,
        path=folder,
        run=run,
        open_findings={severity: count for severity, count in counts.items() if count},
        worst=str(ranked[0].facts.get("name", "")) if ranked else "",
        bytes=size,
    )


def open_findings(events: Iterable[Event]) -> list[Event]:
    """The ``finding-begins`` without a later ``finding-clears`` of the same code and place."""
    opened: dict[tuple[object, str], Event] = {}
    for event in events:
        key = (str(event.facts.get("code")), event.where)
        if event.kind == "finding-begins":
            opened.setdefault(key, event)
        elif event.kind == "finding-clears":
            opened.pop(key, None)
    return list(opened.values())


def _severity(event: Event) -> Severity:
    try:
        return Severity(str(event.facts.get("severity")))
    except ValueError:  # of a newer gradmend, or of nobody
        return Severity.NOTE


def _size(folder: Path) -> int:
    total = 0
    try:
        for entry in folder.iterdir():
            try:
                total += entry.stat().st_size
            except OSError:  # it may have been a journal, which comes and goes
                continue
    except OSError:
        pass
    return total
