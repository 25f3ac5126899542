"""Small runs for tests: what was appended, kept as a naive twin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gradmend.records.history import Column, RunFacts
from gradmend.store.layout import Caps
from gradmend.store.writer import RunWriter

FEW = Caps(
    head_blocks=1,
    recent_rows=128,
    recent_cells=0,
    pinned_blocks=2,
    buckets=8,
    histograms=(2, 4, 3),
    events=10,
)
"""Caps that a short test reaches."""


def names(count: int, prefix: str = "p") -> list[Column]:
    return [Column(name=f"{prefix}{i}", shape=(i + 1, 2), facts={"group": i}) for i in range(count)]


@contextmanager
def writing(
    folder: Path | None, *, caps: Caps | None = None, **facts: object
) -> Iterator[RunWriter]:
    """A writer that is closed whatever happens."""
    writer = RunWriter.create(folder, RunFacts(**facts), caps=caps)  # type: ignore[arg-type]
    try:
        yield writer
    finally:
        writer.close()


def walk(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random walks as float32, shape [rows, columns]."""
    draw = np.random.default_rng(seed)
    return np.cumsum(draw.normal(0, 0.1, (rows, columns)), axis=0).astype(np.float32)
