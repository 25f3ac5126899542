"""A learning rate that is edited behind a script's back, and lasts.

Scripts write the rate themselves: schedulers from their own base, loops by hand
(``group["lr"] = lr * decay``), one-cycle policies from an argument. An edit that sets the rate once
is undone by the next of those. So what the script reads and writes stays its own rate, and each
step is taken with the edited one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.control import Control, hang


class ScaledRate(Control):
    """Every rate times its factors, for the length of a step.

    Args:
        factors: Of each parameter group, in the order in which they are applied; groups that come
            later take those of the first.
    """

    name = "rate"
    first: ClassVar[bool] = True  # begins before a warm-up does, and so must end after it

    def __init__(self, factors: list[list[float]]) -> None:
        self.factors = factors
        self._kept: list[tuple[dict[str, Any], Any]] = []

    @override
    def before(self, optimizer: Optimizer) -> None:
        self._put_back()  # a step that raised has left them scaled
        for at, group in enumerate(optimizer.param_groups):
            self._kept.append((group, group["lr"]))
            for factor in self.factors[at if at < len(self.factors) else 0]:
                group["lr"] = group["lr"] * factor

    @override
    def after(self, optimizer: Optimizer) -> None:
        self._put_back()

    def _put_back(self) -> None:
        while self._kept:
            group, rate = self._kept.pop()
            group["lr"] = rate


def hide_rates(optimizer: Optimizer, before: list[Any], factors: list[float]) -> str | None:
    """Turn rates that edits have multiplied into rates that are multiplied at each step.

    Called right after the edits. A rate that was zero and was set stays set.

    Args:
        optimizer: Whose rates were edited.
        before: The rate of each group before; groups that the edits have added follow them.
        factors: What the edits multiplied with, in order.

    Returns:
        A note for the user; ``None`` where no rate is scaled.
    """
    if not factors:
        return None
    rows: list[list[float]] = []
    for at, group in enumerate(optimizer.param_groups):
        rate = before[at] if at < len(before) else before[0]  # a new group copies the first
        if rate:
            group["lr"] = rate
            if "initial_lr" in group and at >= len(before):
                group["initial_lr"] = optimizer.param_groups[0].get("initial_lr", rate)
        rows.append(list(factors) if rate else [])
    if not any(rows):
        return None
    hang(ScaledRate(rows), optimizer)
    product = 1.0
    for factor in factors:
        product *= factor
    return f"each step takes {product:.3g} times the learning rate that the script sets"


def join_first_group(optimizer: Optimizer, known: int) -> None:
    """Let parameters of groups that were added train in the first one, with the same options.

    A scheduler that is there already holds one rate for each group that it has seen.

    Args:
        optimizer: With groups copied from its first.
        known: Groups that the scheduler has seen.
    """
    groups = optimizer.param_groups
    for group in groups[known:]:
        groups[0]["params"] = [*groups[0]["params"], *group["params"]]
        if "param_names" in groups[0]:
            groups[0]["param_names"] = [*groups[0]["param_names"], *group["param_names"]]
    del groups[known:]
