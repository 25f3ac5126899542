"""The base of everything that acts on gradients or rates at each step."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

KEY = "gradmend"
"""Of the optimizer's first parameter group, under which controls keep what they remember."""


class Control:
    """Acts before and after each step of an optimizer.

    What it remembers (norms seen, steps taken) is a dict of plain numbers and lists kept in the
    optimizer's first parameter group, under :data:`KEY` and the control's ``name``: so it is in
    the optimizer's ``state_dict`` and comes back with a checkpoint. The dict is replaced, never
    changed in place: somebody may hold the old one to go back to.
    """

    name = "control"
    """Key of its memory; one control of a name at an optimizer."""

    def before(self, optimizer: Optimizer) -> None:
        """Called with the gradients of this step, before the optimizer uses them."""

    def after(self, optimizer: Optimizer) -> None:
        """Called when the step is done."""

    def memory(self, optimizer: Optimizer) -> dict[str, Any]:
        """What was remembered; empty before the first step."""
        kept = optimizer.param_groups[0].get(KEY, {})
        return dict(kept.get(self.name, {}))

    def remember(self, optimizer: Optimizer, **values: Any) -> None:
        """Add to what is remembered."""
        group = optimizer.param_groups[0]
        kept = group.get(KEY, {})
        group[KEY] = {**kept, self.name: {**kept.get(self.name, {}), **values}}

    def forget(self, optimizer: Optimizer) -> None:
        """Leave no trace in the optimizer."""
        group = optimizer.param_groups[0]
        kept = {key: value for key, value in group.get(KEY, {}).items() if key != self.name}
        if kept:
            group[KEY] = kept
        else:
            group.pop(KEY, None)
