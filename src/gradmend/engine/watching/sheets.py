"""What was seen inside a watched forward pass, written into the run's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from gradmend.engine.watching.record import Record
from gradmend.probe.outputs import Measured, Sheet
from gradmend.probe.roster import Roster
from gradmend.probe.slopes import DeadUnits
from gradmend.probe.source import module_line
from gradmend.records.history import QUANTITIES, Column, Event


class Sheets:
    """Keeps the columns of module outputs, and what was last said of modules and inputs."""

    def __init__(self, record: Record, roster: Roster) -> None:
        self.record, self.roster = record, roster
        self.dead = DeadUnits()
        self._columns: dict[str, dict[str, Column]] = {}
        self._said: dict[tuple[str, str], Any] = {}

    def add(self, step: int, root: nn.Module, sheet: Sheet, log10_scale: float) -> str | None:
        """Write one sheet; returns the traceback of what went wrong in measuring it, if anything.

        Args:
            step: The iteration.
            root: The root module that was called.
            sheet: What was seen in the call.
            log10_scale: log10 of the loss scale in its gradients.
        """
        for note in sheet.notes:
            self.record.note(step, note)
        self._table("output", step, root, sheet.outputs, log10_scale)
        self._table("attention", step, root, sheet.attention, log10_scale)
        self._table("recurrence", step, root, sheet.recurrence, log10_scale)
        for plain in sheet.modules:
            facts = dict(plain)
            where = self.roster.path(root, str(facts.pop("module", "")))
            self._say(step, "module-state", where, facts)
        for plain in sheet.cells:
            facts = dict(plain)
            where = self.roster.path(root, str(facts.pop("module", "")))
            self._say(step, "cells", where, facts)
        for path, why in sheet.unrecorded.items():
            self.unrecorded(step, root, path, why)
        for plain in sheet.inputs:
            self._say_input(step, plain)
        return sheet.failure

    def histograms(self, step: int, root: nn.Module, sheet: Sheet) -> None:
        """Write the histograms of a sheet that was added, where it has any."""
        places = {name: at for at, name in enumerate(self._columns.get("output", ()))}
        counts = {
            places[self._name(root, item)]: item.histogram
            for item in sheet.outputs
            if item.histogram is not None and item.histogram.counts
        }
        if counts:
            self.record.histogram("output", step, counts)

    def _name(self, root: nn.Module, item: Measured) -> str:
        return self.roster.path(root, item.column.name) or "(the model)"

    def unrecorded(self, step: int, root: nn.Module, path: str, why: str) -> None:
        """A module with trainable parameters ran without recording a graph."""
        self._say(step, "unrecorded", self.roster.path(root, path), {"why": why})

    def _table(
        self,
        table: str,
        step: int,
        root: nn.Module,
        measured: Sequence[Measured],
        log10_scale: float,
    ) -> None:
        if not measured:
            return
        columns = self._columns.setdefault(table, {})
        before = len(columns)
        rows: dict[str, Mapping[str, float]] = {}
        for item in measured:
            name = self._name(root, item)
            rows[name] = item.values
            if name not in columns:
                path = item.column.module
                columns[name] = replace(
                    item.column,
                    name=name,
                    module=self.roster.path(root, path),
                    order=before + item.column.order,
                    source=module_line(root, path),
                    since=step,
                )
        if len(columns) != before:
            self.record.columns(table, list(columns.values()))
        names = QUANTITIES[table]
        block = np.array([[rows.get(n, {}).get(q, np.nan) for n in columns] for q in names])
        if table == "output":
            block[names.index("log10_grad")] -= log10_scale
        self.record.append(table, step, block)

    def _say(self, step: int, kind: str, where: str, facts: dict[str, Any]) -> None:
        if self._said.get((kind, where)) != facts:
            self._said[kind, where] = facts
            self.record.event(Event(step=step, kind=kind, where=where, facts=facts))

    def _say_input(self, step: int, plain: Mapping[str, Any]) -> None:
        """Inputs differ in every batch: told the first three times, and when their kind changes."""
        name = str(plain.get("name", ""))
        kind = {key: plain.get(key) for key in ("dtype",)} | {
            "constant": (plain.get("constant_share") or 0.0) > 0.99
        }
        times, before = self._said.get(("input", name), (0, None))
        if times < 3 or kind != before:
            self._said["input", name] = (times + 1, kind)
            self.record.event(Event(step=step, kind="input", where=name, facts=dict(plain)))
