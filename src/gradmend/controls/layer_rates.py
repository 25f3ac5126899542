"""Some parameters that learn at another rate than the rest of their group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.control import Control


class LayerRates(Control):
    """The rate of some parameters times a factor, whatever their group's rate is.

    For the length of a step they stand in groups of their own, and are put back after it: a
    scheduler and a checkpoint find the groups that they know.

    Args:
        parameters: Whose rate differs; those that the optimizer does not train are left alone.
        factor: To the rate of their group.
    """

    name = "layer-rates"

    def __init__(self, parameters: Iterable[Tensor], factor: float) -> None:
        self.factor = factor
        self.apart = {id(p): p for p in parameters}
        self._groups = 0
        self._kept: list[tuple[dict[str, Any], list[Tensor]]] = []

    @override
    def before(self, optimizer: Optimizer) -> None:
        self._put_back(optimizer)  # a step that raised has left them apart
        groups = optimizer.param_groups
        self._groups = len(groups)
        for group in list(groups):
            held = group["params"]
            ours = [p for p in held if id(p) in self.apart]
            if not ours:
                continue
            groups.append({**group, "params": ours, "lr": group["lr"] * self.factor})
            self._kept.append((group, held))
            group["params"] = [p for p in held if id(p) not in self.apart]

    @override
    def after(self, optimizer: Optimizer) -> None:
        self._put_back(optimizer)

    @override
    def forget(self, optimizer: Optimizer) -> None:
        self._put_back(optimizer)
        super().forget(optimizer)

    def _put_back(self, optimizer: Optimizer) -> None:
        if self._kept:
            del optimizer.param_groups[self._groups :]
        while self._kept:
            group, held = self._kept.pop()
            group["params"] = held
