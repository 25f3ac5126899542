"""Edits of what a training descends on, and of what takes part in it."""

from __future__ import annotations

from typing import Any

from torch import nn

from gradmend.edits.bench import Bench, find, inside, no_optimizer
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


@edit_kind
def maximise(bench: Bench, edit: Edit) -> None:
    """Let the optimizer climb: for a loss whose sign is turned.

    The loss itself stays what it is, so a trial judges by its negative.
    """
    del edit  # unused: there is nothing to choose
    if bench.optimizer is None:
        raise no_optimizer("the sign of a step is the optimizer's")
    if any(group.get("maximize") is True for group in bench.optimizer.param_groups):
        raise CannotApply(
            "the optimizer maximises already", "its steps would be turned the wrong way round"
        )
    bench.set_option("maximize", True)
    bench.notes.append(
        "the optimizer maximises now, as the loss has the wrong sign: where you turn the sign in"
        " your source, leave maximize=True out"
    )


@edit_kind
def register_modules(bench: Bench, edit: Edit) -> None:
    """Put each target, a plain list or dict of modules, into a container that torch knows.

    The parameters join the optimizer, if it does not hold them.
    """
    new = []
    for target in edit.targets:
        path, _, name = target.rpartition(".")
        owner = find(bench.model, path)
        held: Any = None if owner is None else vars(inside(owner)).get(name)
        container = _container(held)
        if container is None:
            raise CannotApply(
                f"the model holds no list, tuple or dict of modules called '{target}'",
                "only those can become an nn.ModuleList or nn.ModuleDict as they are",
                "register the layers in your own source",
            )
        bench.adopt(path, name, container)
        new += list(container.parameters())
    if bench.optimizer is not None:
        held_by = {id(p) for group in bench.optimizer.param_groups for p in group["params"]}
        fresh = {id(p): p for p in new if id(p) not in held_by and p.requires_grad}
        bench.register(fresh.values())


def _container(held: Any) -> nn.Module | None:
    """What torch has for a plain container of modules; ``None`` where it has nothing."""
    if type(held) in (list, tuple) and held and all(isinstance(m, nn.Module) for m in held):
        return nn.ModuleList(held)
    if type(held) is dict and held and all(isinstance(m, nn.Module) for m in held.values()):
        fine = all(isinstance(key, str) and key and "." not in key for key in held)
        return nn.ModuleDict(held) if fine else None
    return None
