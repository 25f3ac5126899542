"""Statistics that may still be on their way from a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradmend.probe.kernels._flat import unseen
from gradmend.probe.kernels._rows import Floats, Integers


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one device, and the rows of the result they belong to."""

    owners: Integers
    rows: Tensor
    """Shape [rows, columns]; in this machine's memory, whole once the event has happened."""
    event: Any = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A result that can be asked for when it is there: training never waits for it.

    What was measured in this machine's memory is ready at once. Of another device, the copy is
    queued behind the work that is queued there, into pinned memory where that exists.
    """

    rows: Floats
    add: Callable[[Floats, Integers, Floats], Floats]
    """Puts rows of pieces into those of their owners."""
    parts: list[Part] = field(default_factory=list)

    def ready(self) -> bool:
        """Tell whether ``result`` would return without waiting."""
        return all(part.event is None or part.event.query() for part in self.parts)

    @unseen()
    def result(self) -> Floats:
        """The rows, shape [tensors, columns]; waits for the device if need be."""
        rows = self.rows
        for part in self.parts:
            if part.event is not None:
                part.event.synchronize()
            rows = self.add(rows, part.owners, part.rows.double().numpy())
        return rows


def fetch(owners: Integers, rows: Tensor) -> Part:
    """Queue the copy of rows from their device."""
    if rows.is_cpu:
        return Part(owners, rows)
    module = torch.get_device_module(rows.device)
    event = getattr(module, "Event", None)
    if event is None:
        return Part(owners, rows.cpu())
    pinned = rows.device.type in ("cuda", "xpu")
    host = torch.empty(rows.shape, dtype=rows.dtype, device="cpu", pin_memory=pinned)
    host.copy_(rows, non_blocking=pinned)
    happened = event()
    happened.record()
    return Part(owners, host, happened)
