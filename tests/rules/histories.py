"""Histories built by hand: columns by name, numbers by quantity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradmend.records.history import Column, Event, History, Table

Numbers = Any  # a number, one per column, one per row, or [rows, columns]


def parameter(name: str, order: int, *, optimizer: int = 0, group: int = 0, **more: Any) -> Column:
    """A weight matrix of 8 x 8 in float32, unless told otherwise."""
    facts = {"optimizer": optimizer, "group": group, "trainable": True, "registered": True}
    facts |= more.pop("facts", {})
    given: dict[str, Any] = {"shape": (8, 8), "dtype": "float32", **more}
    return Column(
        name=f"{name}.weight", module=name, kind="weight", order=order, facts=facts, **given
    )


def layers(count: int, **more: Any) -> tuple[Column, ...]:
    """``count`` weight matrices of one optimizer, in forward order."""
    return tuple(parameter(f"layer{at}", at, **more) for at in range(count))


def optimizer(kind: str = "SGD", name: str = "", **facts: Any) -> Column:
    """A column of the step table."""
    return Column(name=name or kind, kind=kind, facts=facts)


def table(
    name: str, columns: Sequence[Column], rows: int = 60, every: int = 1, **values: Numbers
) -> Table:
    """Rows at steps 0, ``every``, ...; one number for all, [columns], or [rows, columns]."""
    shape = (rows, len(columns))
    return Table(
        name=name,
        columns=tuple(columns),
        steps=np.arange(rows, dtype=np.int64) * every,
        values={
            key: np.broadcast_to(np.asarray(value, dtype=float), shape).copy()
            for key, value in values.items()
        },
    )


def over_time(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """One number per row for a table of any columns."""
    return np.asarray(values, dtype=float)[:, None]


def history(*tables: Table, events: Sequence[Event] = ()) -> History:
    """A run of these tables."""
    named: Mapping[str, Table] = {each.name: each for each in tables}
    return History(tables=named, events=tuple(events))


def run(losses: Sequence[float] | np.ndarray, kind: str = "SGD", **values: Numbers) -> Table:
    """A step table of one optimizer with these losses."""
    return table(
        "step", [optimizer(kind, eps=1e-8)], rows=len(losses), loss=over_time(losses), **values
    )


FLAT = np.full(120, 1.4) + 0.01 * np.sin(np.arange(120))
FALLING = np.linspace(1.4, 0.2, 120)
