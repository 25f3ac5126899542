"""Learning rates that begin small."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.control import Control


class WarmUp(Control):
    """The rate times (t + 1) / steps at step t, until that is one.

    The rate is scaled for the length of a step and put back after it, so that a scheduler finds
    what it wrote and both hold.

    Args:
        steps: Until the full rate.
    """

    name = "warm-up"

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._rates: list[tuple[dict[str, Any], Any]] = []

    @override
    def before(self, optimizer: Optimizer) -> None:
        self._put_back()  # a step that raised has left them scaled
        taken = int(self.memory(optimizer).get("steps", 0))
        if taken >= self.steps:
            return
        for group in optimizer.param_groups:
            self._rates.append((group, group["lr"]))
            group["lr"] = group["lr"] * ((taken + 1) / self.steps)  # a tensor stays one

    @override
    def after(self, optimizer: Optimizer) -> None:
        self._put_back()
        taken = int(self.memory(optimizer).get("steps", 0))
        if taken < self.steps:
            self.remember(optimizer, steps=taken + 1)

    def _put_back(self) -> None:
        while self._rates:
            group, rate = self._rates.pop()
            group["lr"] = rate
