"""Histories written to disk as a watcher would, and read back."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from gradmend.records.exponents import Exponents
from gradmend.records.history import History
from gradmend.store.reader import RunReader, open_run
from gradmend.store.writer import RunWriter

Histograms = Mapping[int, Mapping[int, Exponents]]
Disk = Callable[..., RunReader]

_spec = importlib.util.spec_from_file_location("runs", Path(__file__).parents[1] / "runs.py")
assert _spec is not None and _spec.loader is not None
_runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_runs)


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    """Histories made by hand."""
    return _runs


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Writes a history into a folder of its own and opens it."""
    count = 0

    def write(
        history: History, histograms: Histograms | None = None, of: str = "gradient"
    ) -> RunReader:
        nonlocal count
        count += 1
        folder = tmp_path / f"run{count}"
        writer = RunWriter.create(folder, history.run)
        for name, table in history.tables.items():
            writer.columns(name, table.columns, at=0)
            for row, step in enumerate(table.steps):
                writer.append(name, int(step), {q: v[row] for q, v in table.values.items()})
        for step, counts in (histograms or {}).items():
            for told in ("gradient", "output") if of == "both" else (of,):
                writer.histogram(told, step, counts)
        for event in history.events:
            writer.event(event)
        writer.close()
        return open_run(folder)

    yield write
