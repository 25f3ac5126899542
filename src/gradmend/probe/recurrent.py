"""Recurrent layers and cells in a watched call: books through time, and where time is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradmend.probe.capture import tensors_in
from gradmend.probe.cells import CellWatch
from gradmend.probe.held import HeldCall
from gradmend.records.recurrence import Recurrence

RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(slots=True)
class Calls:
    """Calls of one recurrent module, and how many got a state cut off from the call before."""

    kind: str
    calls: int = 0
    detached: int = 0
    recorded: bool = False
    """Whether what the last call returned had a history."""

    def saw(self, state: Any, output: Any) -> None:
        """Book one call.

        Args:
            state: What it was given, or None.
            output: What it returned.
        """
        parts = [part for part in tensors_in(state) if part.is_floating_point()]
        # A state of zeros begins a new sequence; one of a frozen cell never has a history.
        if self.recorded and parts and not any(_has_history(part) for part in parts):
            self.detached += any(bool(part.any()) for part in parts)
        self.calls += 1
        self.recorded = any(_has_history(part) for part in tensors_in(output))


class Recurrences:
    """All recurrent modules of one watched call."""

    def __init__(self) -> None:
        self._held: list[HeldCall] = []
        self._cells: dict[str, CellWatch] = {}
        self._calls: dict[str, Calls] = {}
        self._entries = 0

    def saw(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: Any, output: Any
    ) -> str | None:
        """Book one call; returns why it will not be unrolled, if so.

        Args:
            module: One of ``RECURRENT``.
            path: Its path in the model.
            args: Positional arguments.
            kwargs: Keyword arguments.
            output: What it returned.
        """
        inputs = args[0] if args else kwargs.get("input")
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        if path not in self._calls:
            self._calls[path] = Calls(type(module).__name__)
        self._calls[path].saw(state, output)
        if isinstance(module, nn.RNNCellBase):
            if path not in self._cells:
                self._cells[path] = CellWatch(path, module)
            self._cells[path].saw(inputs, state, output)
        elif isinstance(module, nn.RNNBase):
            held = HeldCall.of(path, module, inputs, state, output, self._entries)
            if isinstance(held, str):
                return held
            self._held.append(held)
            self._entries += held.entries
        return None

    def records(self, notes: list[str]) -> list[Recurrence]:
        """The books through time; after backward, and before weights change.

        Args:
            notes: Takes in why some are missing.
        """
        found: list[Recurrence] = []
        for held in self._held:
            found.extend(held.unrolled(notes))
        found.extend(cell.record() for cell in self._cells.values())
        return found

    def cells(self) -> tuple[Mapping[str, Any], ...]:
        """Of each cell, and of each layer called more than once, what ``Sheet.cells`` holds."""
        return tuple(
            {"module": path, "class": seen.kind, "calls": seen.calls, "detached": seen.detached}
            for path, seen in self._calls.items()
            if path in self._cells or seen.calls > 1
        )

    def release(self) -> None:
        """Let go of every tensor."""
        for held in self._held:
            held.release()
        self._held.clear()
        self._cells.clear()
        self._calls.clear()


def _has_history(x: Tensor) -> bool:
    return x.grad_fn is not None or x.requires_grad
