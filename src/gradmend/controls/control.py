"""The base of everything that acts on gradients or rates at each step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any, ClassVar

from torch.optim import Optimizer

from gradmend.errors import CannotApply

KEY = "gradmend"
"""Of the optimizer's first parameter group, under which controls keep what they remember."""


class Control:
    """Acts before and after each step of an optimizer.

    What it remembers (norms seen, steps taken) is a dict of plain numbers and lists kept in the
    optimizer's first parameter group, under :data:`KEY` and the control's ``name``: so it is in
    the optimizer's ``state_dict`` and comes back with a checkpoint. The dict is replaced, never
    changed in place: somebody may hold the old one to go back to.

    A copy of an optimizer has the memory and no control: torch copies no hooks.
    """

    name = "control"
    """Key of its memory; one control of a name at an optimizer."""
    first: ClassVar[bool] = False
    """Whether it acts before all others, whenever it was hung: a loss scale comes out first."""

    apart: Collection[int] = ()
    """Identities of parameters that it treats otherwise than the rest."""

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


def hang(control: Control, optimizer: Optimizer) -> Callable[[], None]:
    """Let a control act at each step of an optimizer.

    A step that is given a closure makes its gradients inside: the control then acts behind the
    closure, as the gradients before it are those of another step.

    Returns:
        What takes it off again and leaves no trace.

    Raises:
        CannotApply: If one of its name is there, or the parameters are parts of sharded ones.
    """
    if any(getattr(hook, "name", "") == control.name
           for hook in optimizer._optimizer_step_pre_hooks.values()):  # fmt: skip
        raise CannotApply(
            f"the optimizer has '{control.name}' already",
            "both would remember under one name",
            "undo the first, or build the optimizer anew",
        )
    if any(hasattr(p, "full_tensor") for g in optimizer.param_groups for p in g["params"]):
        raise CannotApply(
            "the parameters are sharded over processes (DTensor)",
            "each process would act on the norm of its own part",
            "clip with the library that shards them, or keep=['optimizer']",
        )

    def before(acting: Optimizer, args: Any, kwargs: Any) -> Any:
        if _within_a_step(acting, sys._getframe(1)):
            return None
        # args begins with the optimizer itself.
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            control.before(acting)
            return None

        def then() -> Any:
            loss = closure()
            control.before(acting)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": then}
        return (args[0], then, *args[2:]), kwargs

    def after(acting: Optimizer, *_: Any) -> None:
        if not _within_a_step(acting, sys._getframe(1)):
            control.after(acting)

    before.name = control.name  # type: ignore[attr-defined]
    before.apart = control.apart  # type: ignore[attr-defined]
    ahead = optimizer.register_step_pre_hook(before)
    behind = optimizer.register_step_post_hook(after)
    if control.first:
        hooks: Any = optimizer._optimizer_step_pre_hooks  # an OrderedDict
        hooks.move_to_end(ahead.id, last=False)

    def take_off() -> None:
        ahead.remove()
        behind.remove()
        control.forget(optimizer)

    return take_off


def _within_a_step(optimizer: Optimizer, caller: FrameType) -> bool:
    """Whether a step is part of another of the same optimizer.

    Torch calls the hooks around the step of every class that has ever been built: where a subclass
    calls ``super().step()``, twice for one step of the training.
    """
    frame = caller.f_back
    while frame is not None:
        if frame.f_code is caller.f_code and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False
