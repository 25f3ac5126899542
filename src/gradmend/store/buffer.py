"""Rows of a table that wait to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradmend.store.encoding import Cells, Steps
from gradmend.store.layout import BLOCK

ROWS = 2 * BLOCK
"""The most rows that wait."""


class Buffer:
    """The unsealed rows of one table, NaN where a quantity was not measured."""

    def __init__(self) -> None:
        self.columns = 0
        self.first_row = 0
        """Row of the run that row 0 of the buffer is."""
        self.written = 0
        """Rows of the buffer that are already in the database, unsealed."""
        self.last_step: int | None = None
        """Of the last row ever added."""
        self.steps: list[int] = []
        self.values: dict[str, Cells] = {}
        """By quantity, shape [ROWS, columns]."""

    def __len__(self) -> int:
        return len(self.steps)

    def widen(self, columns: int) -> None:
        """Make room for more columns; the rows so far have NaN there."""
        if columns <= self.columns:
            return
        for name, old in self.values.items():
            new = np.full((ROWS, columns), np.nan, dtype=np.float32)
            new[:, : self.columns] = old
            self.values[name] = new
        self.columns = columns

    def add(self, step: int, values: Mapping[str, Sequence[float] | np.ndarray[Any, Any]]) -> None:
        """Add a row; numbers beyond float32 become infinite."""
        row = len(self.steps)
        if self.last_step is not None and step < self.last_step:
            raise ValueError(f"step {step} after step {self.last_step}: rows must ascend")
        for name, numbers in values.items():
            if len(numbers) > self.columns:
                raise ValueError(f"{len(numbers)} {name} for {self.columns} columns")
            if name not in self.values:
                self.values[name] = np.full((ROWS, self.columns), np.nan, dtype=np.float32)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for name, cells in self.values.items():
                known = len(values.get(name, ()))
                if known:
                    cells[row, :known] = values[name]
                cells[row, known:] = np.nan
        self.steps.append(step)
        self.last_step = step

    def rows(self, begin: int, end: int) -> tuple[Steps, dict[str, Cells]]:
        """Some rows: their steps, and per quantity the numbers, shape [rows, columns]."""
        steps = np.array(self.steps[begin:end], dtype=np.int64)
        return steps, {name: cells[begin:end] for name, cells in self.values.items()}

    def flushed(self) -> None:
        """All rows are in the database, whole blocks of them sealed: keep what is not."""
        sealed = len(self.steps) // BLOCK * BLOCK
        left = len(self.steps) - sealed
        if sealed:
            for cells in self.values.values():
                cells[:left] = cells[sealed : sealed + left]
            del self.steps[:sealed]
            self.first_row += sealed
        self.written = left
