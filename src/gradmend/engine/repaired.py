"""What a repair hands back: the model, and everything that trains it, as edited."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradmend.edits import Bench, export_plain
from gradmend.engine.data import Batches
from gradmend.probe.batch import Forward, LossFn
from gradmend.records.codec import to_plain
from gradmend.records.prescription import Prescription
from gradmend.records.report import Report
from gradmend.records.verdict import Verdict
from gradmend.records.views import Printer, print_pretty, views


@dataclass(frozen=True, kw_only=True)
class Fix:
    """What came out of :func:`fix` or :func:`apply`: the model, the prescription, the proof."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    loss_fn: LossFn | None
    """As repaired: where an edit changes the loss, this one does."""
    batches: Batches | None
    """As repaired: where an edit changes the data, these are changed."""
    prescription: Prescription
    """False when nothing was changed."""
    report: Report
    verdict: Verdict | None = None
    steps_trained: int = 0
    """Steps the model has behind it: the winner keeps its trial's training."""
    forward: Forward | None = None
    notes: tuple[str, ...] = field(default=())

    def export(self) -> nn.Module:
        """A copy in the plain architecture, where edits fold away; what cannot fold stays."""
        return export_plain(self.model, self.prescription.edits)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON; the model itself is not in it."""
        return {
            "prescription": to_plain(self.prescription),
            "verdict": to_plain(self.verdict),
            "report": self.report.to_dict(),
            "steps_trained": self.steps_trained,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The outcome in a line."""
        if self.verdict is not None:
            return self.verdict.reason
        return f"{len(self.prescription.edits)} edit(s) applied, untried"

    def _repr_html_(self) -> str:
        return views().page(self.report)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        del cycle  # unused: a fix does not hold itself
        print_pretty(printer, lambda: views().words(self.report), f"Fix: {self}")


def edited_loss(bench: Bench, loss: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A loss or forward function with what the edits do to its result; itself where nothing."""
    if loss is None or not bench.loss_changes:
        return loss
    return functools.partial(_changed, loss, tuple(bench.loss_changes))


def _changed(loss: Callable[..., Any], changes: tuple[Any, ...], *args: Any, **named: Any) -> Any:
    value = loss(*args, **named)
    for change in changes:
        value = change(value)
    return value


@dataclass(frozen=True, slots=True)
class EditedBatches:
    """Batches with what the edits do to each, as often as the original can be iterated."""

    source: Batches
    changes: tuple[Callable[[Any], Any], ...]

    def __iter__(self) -> Iterator[Any]:
        """Each batch, changed; one of which nothing is left does not come."""
        for batch in self.source() if callable(self.source) else self.source:
            for change in self.changes:
                batch = change(batch) if batch is not None else None
            if batch is not None:
                yield batch


def edited_batches(bench: Bench, batches: Batches | None) -> Batches | None:
    """Batches as the edits have them; the very object where none changes them."""
    if batches is None or not bench.batch_changes:
        return batches
    return EditedBatches(batches, tuple(bench.batch_changes))
