"""Which of the models in a process a prescription is for."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradmend.edits.bench import inside
from gradmend.integrations.becoming import plain_class
from gradmend.probe.source import construction_of
from gradmend.records.prescription import Prescription
from gradmend.records.script import Place

MOST = 0.5
"""Share of a model's numbers that an optimizer must hold to be the model's own."""
TREATED = "_gradmend_treated"
"""Marks a model that has its edits, so that a copy of it gets them no second time."""

Shape = tuple[tuple[str, tuple[int, ...]], ...]


class Models:
    """The modules that a process has built, or copied, and that are alive."""

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[nn.Module]] = {}
        self.changed = True

    def add(self, module: nn.Module) -> None:
        """Note a module, built or about to be."""
        self._refs.pop(id(module), None)  # of one that is gone, and was earlier
        self._refs[id(module)] = weakref.ref(module)
        self.changed = True

    def alive(self) -> list[nn.Module]:
        """All of them, in the order in which they came."""
        found = [(key, ref()) for key, ref in list(self._refs.items())]
        # A copy or a pickle on its way has no tables yet.
        alive = [(key, m) for key, m in found if m is not None and "_modules" in vars(m)]
        self._refs = {key: self._refs[key] for key, m in found if m is not None}
        return [module for _, module in alive]

    def called(self, name: str) -> list[nn.Module]:
        """Those of a class, without those that are parts of others of it."""
        mine = [module for module in self.alive() if plain_class(module).__name__ == name]
        if len(mine) < 2:
            return mine
        parts = {id(part) for each in mine for part in each.modules() if part is not each}
        return [module for module in mine if id(module) not in parts]

    def roots(self) -> list[nn.Module]:
        """Those that are no part of another, and have parameters; wrappers of torch aside."""
        alive = self.alive()
        children = {
            id(child)
            for module in alive
            if "_orig_mod" not in module._modules
            for child in module._modules.values()
        }
        return [
            module
            for module in alive
            if id(module) not in children
            and "_orig_mod" not in module._modules
            and next(module.parameters(), None) is not None
        ]

    def compiled(self) -> list[nn.Module]:
        """What ``torch.compile`` made of models."""
        return [module for module in self.alive() if "_orig_mod" in module._modules]


def missing(model: nn.Module, prescription: Prescription) -> str | None:
    """The first target of a prescription that a model does not have."""
    targets = (target for edit in prescription.edits for target in edit.targets)
    return next((target for target in targets if not _has(model, target)), None)


def _has(model: nn.Module, target: str) -> bool:
    found: Any = model
    for name in target.split(".") if target else ():
        if isinstance(found, nn.Module):
            found = _attribute(inside(found), name)
        elif isinstance(found, list | tuple):  # modules that an edit will register
            found = found[int(name)] if name.isdigit() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
        if found is None:
            return False
    return True


def _attribute(module: nn.Module, name: str) -> Any:
    tables: tuple[dict[str, Any], ...] = (
        module._modules,
        module._parameters,
        module._buffers,
        vars(module),
    )
    return next((table[name] for table in tables if table.get(name) is not None), None)


def shape_of(model: nn.Module) -> Shape:
    """Names and shapes of its parameters."""
    return tuple((name, tuple(p.shape)) for name, p in model.named_parameters())


def is_general(model: nn.Module) -> bool:
    """Whether its class says nothing about what it is: a container or layer of torch's own."""
    return plain_class(model).__module__.partition(".")[0] == "torch"


def built_at(models: list[nn.Module], place: Place | None) -> list[nn.Module]:
    """Those that a line of the script has built; all where none or nothing is known."""
    if place is None or len(models) < 2:
        return models
    name = PurePath(place.file).name
    there = [
        model
        for model in models
        if (at := construction_of(model)) is not None
        and at.line == place.line
        and PurePath(at.file).name == name
    ]
    return there or models


def optimizer_of(
    model: nn.Module, optimizers: Iterable[Optimizer]
) -> tuple[Optimizer | None, float]:
    """The optimizer that holds most of a model, and the share of its numbers."""
    sizes = {id(p): p.numel() for p in model.parameters()}
    whole = sum(p.numel() for p in model.parameters() if p.requires_grad) or 1
    best: tuple[Optimizer | None, float] = (None, 0.0)
    for optimizer in optimizers:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        # Sizes, not numbers: a frozen backbone that is held all the same is no reason to wait.
        share = sum(size for key, size in sizes.items() if key in held) / whole
        if share > best[1]:
            best = (optimizer, share)
    return best


def reached_by(loss: Tensor, identities: set[int]) -> bool:
    """Whether a loss depends on a parameter of these, by its graph."""
    if id(loss) in identities:
        return True
    todo: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in identities:
            return True
        todo += [following for following, _ in node.next_functions]
    return False
