"""Columns of a table as places over depth: forward order, and neighbours put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Column, Floats

MOST = 2000
"""Places of a figure: about as many as a screen has pixels."""
MODEL = "(the model)"

Pool = Callable[[Floats, NDArray[np.intp]], Floats]


@dataclass(frozen=True, slots=True)
class Places:
    """Places over depth, in forward order."""

    names: tuple[str, ...]
    """``layers.0.weight``, or ``layers.0.weight .. layers.3.bias`` for several."""
    layers: tuple[str, ...]
    """Path of each one's module; of several the container that holds them and nothing else, or
    the first one's."""
    order: NDArray[np.intp]
    """Columns in forward order."""
    starts: NDArray[np.intp]
    """Where each place begins in ``order``."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def pooled(self) -> bool:
        """Whether any place stands for several columns."""
        return len(self.names) < len(self.order)

    def take(self, values: Floats, pool: Pool | None = None) -> Floats:
        """Numbers by place: shape [places, ...] from [..., columns].

        Args:
            values: Columns along the last axis.
            pool: How several columns become one number; the mean of what is finite if not given.
        """
        ordered = np.asarray(values)[..., self.order].T
        if not self.pooled:
            return ordered
        return (pool or mean)(ordered, self.starts)


def forward(columns: Sequence[Column]) -> NDArray[np.intp]:
    """Positions of the columns in forward order; where that is not known, as they were declared."""
    keys = [(column.order if column.order >= 0 else at, at) for at, column in enumerate(columns)]
    return np.array([at for _, at in sorted(keys)], dtype=np.intp)


def places(
    columns: Sequence[Column], *, some: Sequence[int] | None = None, most: int = MOST
) -> Places:
    """Columns over depth in at most ``most`` places.

    Where there are too many, columns of one module share a place, then neighbouring modules do.

    Args:
        columns: Of a table.
        some: Only these of them.
        most: Places.
    """
    wanted = None if some is None else set(some)
    order = [int(at) for at in forward(columns) if wanted is None or int(at) in wanted]
    starts = np.arange(len(order))
    if len(order) > most:
        modules = [columns[at].module for at in order]
        new = [at for at in range(len(order)) if not at or modules[at] != modules[at - 1]]
        if len(new) > most:
            edges = np.linspace(0, len(new), most + 1).round().astype(int)[:-1]
            new = [new[at] for at in edges]
        starts = np.array(new)
    ends = np.append(starts[1:], len(order))[: len(starts)]
    names, layers = [], []
    whole = _sizes([columns[at].module for at in order]) if len(starts) < len(order) else {}
    for begin, end in zip(starts, ends, strict=True):
        first, last = columns[order[begin]], columns[order[end - 1]]
        name = label(first)
        names.append(name if end - begin == 1 else f"{name} .. {label(last)}")
        layers.append(_shared(first.module, last.module, int(end - begin), whole))
    return Places(tuple(names), tuple(layers), np.array(order, dtype=np.intp), starts)


def label(column: Column) -> str:
    """How a column is called."""
    return column.name or MODEL


def mean(rows: Floats, starts: NDArray[np.intp]) -> Floats:
    """Over the finite numbers of each group of rows; where none is finite, the largest."""
    finite = np.isfinite(rows)
    count = np.add.reduceat(finite.astype(np.float64), starts)
    total = np.add.reduceat(np.where(finite, rows, 0.0), starts)
    return np.where(count > 0, total / np.maximum(count, 1), np.fmax.reduceat(rows, starts))


def largest(rows: Floats, starts: NDArray[np.intp]) -> Floats:
    """Of each group of rows: one dead layer among many must stay seen."""
    return np.asarray(np.fmax.reduceat(rows, starts))


def _sizes(modules: Sequence[str]) -> dict[str, int]:
    """How many columns each container holds."""
    sizes: dict[str, int] = {}
    for module in modules:
        path = module
        while True:
            sizes[path] = sizes.get(path, 0) + 1
            if not path:
                break
            path = path.rpartition(".")[0]
    return sizes


def _shared(first: str, last: str, count: int, whole: dict[str, int]) -> str:
    """The container that holds a group and nothing else, else the first one's path."""
    if first == last:
        return first
    parts = []
    for left, right in zip(first.split("."), last.split("."), strict=False):
        if left != right:
            break
        parts.append(left)
    path = ".".join(parts)
    return path if path and whole.get(path) == count else first
