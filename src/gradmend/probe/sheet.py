"""What one watched call of a model was seen to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradmend.probe.attention import Attention
from gradmend.records.exponents import Exponents
from gradmend.records.history import Column
from gradmend.records.recurrence import Recurrence


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The quantities of one column of a table."""

    column: Column
    values: Mapping[str, float]
    histogram: Exponents | None = None
    """Of the numbers themselves, where one was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Everything seen in one call of a model, in forward order."""

    outputs: tuple[Measured, ...] = ()
    attention: tuple[Measured, ...] = ()
    recurrence: tuple[Measured, ...] = ()
    recurrences: tuple[Recurrence, ...] = ()
    """The curves behind ``recurrence``."""
    cells: tuple[Mapping[str, Any], ...] = ()
    """``module``, ``class``, ``calls`` and ``detached`` of each recurrent cell called, and of each
    recurrent layer called more than once: ``detached`` are the calls whose state had no history
    though it was no zero state and the call before had one (truncated through time)."""
    modules: tuple[Mapping[str, Any], ...] = ()
    """``module``, ``class``, ``training`` of the root and of each normalisation and dropout
    called; ``p`` of dropout and ``values_per_channel`` of batch normalisation."""
    inputs: tuple[Mapping[str, Any], ...] = ()
    """``name``, ``shape``, ``dtype`` of each tensor that the root was fed; of floating ones
    ``mean``, ``std`` and ``constant_share`` (places that are the same in all samples)."""
    unrecorded: Mapping[str, str] = field(default_factory=dict)
    """Modules with trainable parameters that ran without recording a graph, and why."""
    notes: tuple[str, ...] = ()
    """What could not be seen, and why."""
    failure: str | None = None
    """Traceback of an error of ours; what is there was measured before it."""


def recurrence_row(record: Recurrence) -> Measured:
    """A row of the ``recurrence`` table."""
    name = record.name
    if record.layer or record.direction == "backward":
        name = f"{name}.l{record.layer}" + ("_reverse" if record.direction == "backward" else "")
    facts = {"length": record.steps}
    column = Column(name=name, module=record.name, kind=record.kind, facts=facts)
    wanted = ("log10_gain", "log10_span", "horizon", "spectral_radius", "forget_gate")
    return Measured(column=column, values={key: getattr(record, key) for key in wanted})


def attention_row(column: Column, calls: list[Attention]) -> Measured:
    """A row of the ``attention`` table; over several calls means, but for the largest logit."""

    def known(name: str) -> list[float]:
        return [v for v in (getattr(call, name) for call in calls) if not math.isnan(v)]

    def mean(name: str) -> float:
        values = known(name)
        return math.fsum(values) / len(values) if values else math.nan

    return Measured(
        column=column,
        values={
            "entropy": mean("entropy"),
            "largest_share": mean("largest_share"),
            "largest_logit": max(known("largest_logit"), default=math.nan),
            "masked_rows": mean("masked_rows"),
            "logit_std": mean("logit_std"),
            "scale_ratio": mean("scale_ratio"),
        },
    )
