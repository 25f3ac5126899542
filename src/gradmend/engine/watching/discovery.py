"""Watching a script that says nothing: models and optimizers are found as they are built."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.engine.watching.calls import HeldCall
from gradmend.engine.watching.observer import Observer
from gradmend.probe.roster import unwrap
from gradmend.probe.source import note_construction

UNCALLED = 2
"""Iterations a root may train without being called before its children are listened to instead."""


class DiscoveringObserver(Observer):
    """Finds the root modules: those that were built and belong to no other module.

    A model used by parts (``model.encode(x)``) is never called itself; after two iterations its
    children are listened to, and so on down. Copies (``deepcopy``: a moving average of the weights)
    are not built, so they are none.
    """

    follow: Any = None
    """Set by the watch: is told the modules whose calls are to be heard."""
    wanted: Callable[[nn.Module], bool] = staticmethod(lambda root: False)
    """Set by the watch: whether it wants to know what gradient comes back to a model's outputs."""
    before_step: Callable[[Optimizer], None] = staticmethod(lambda optimizer: None)
    """Set by the watch: is told when gradients are there and weights are as they were."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._built: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._new = False
        self._called: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._followed: list[weakref.ref[nn.Module]] = []
        self.awaited: weakref.WeakKeyDictionary[nn.Module, HeldCall] = weakref.WeakKeyDictionary()
        """The last call of each wanted model: its optimizer's turn may come an iteration later."""

    @override
    def module_made(self, module: nn.Module) -> None:
        note_construction(module)
        self._built.add(module)
        self._new = True

    @override
    def optimizer_made(self, optimizer: Optimizer) -> None:
        note_construction(optimizer)
        self.find_roots()

    def find_roots(self) -> None:
        """Look for models among the modules that were built."""
        if not self._new:
            return
        self._new = False
        alive = list(self._built)
        children = {
            id(child) for module in alive for child in module._modules.values() if child is not None
        }
        roots = [m for m in alive if id(m) not in children and _has_parameters(m)]
        # A wrapper (compiled, data-parallel) that came later stands for the model that it holds.
        known = {id(unwrap(model)) for model in self.roster.models()}
        for root in sorted(roots, key=lambda m: -sum(p.numel() for p in m.parameters())):
            if id(unwrap(root)) not in known:
                self.roster.add_model(root)
        self._followed = [weakref.ref(root) for root in roots]
        self._tell()

    def _tell(self) -> None:
        self.follow([root for ref in self._followed if (root := ref()) is not None])

    @override
    def root_begins(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        self._called.add(root)
        super().root_begins(root, args, kwargs)

    @override
    def root_ended(self, root: nn.Module, output: object) -> None:
        super().root_ended(root, output)
        held = self.calls[-1] if self.calls else None
        if held is None or held.root() is not root or not self.wanted(root):
            self.awaited.pop(root, None)
            return
        if not held.cotangents:
            held.catch_cotangents(output)
        self.awaited[root] = held

    @override
    def _measure_gradients(self, optimizer: Optimizer) -> None:
        super()._measure_gradients(optimizer)
        self.before_step(optimizer)

    def look_around(self) -> None:
        """At the end of an iteration: new models, and parts of those that are never called."""
        self.find_roots()
        if self.step == 0 or self.step % UNCALLED:
            return
        deeper: list[nn.Module] = []
        for ref in self._followed:
            root = ref()
            if root is None:
                continue
            trained = any(p.grad is not None for p in root.parameters())
            parts = [(n, m) for n, m in root.named_children() if _has_parameters(m)]
            if not trained or root in self._called or not parts:
                deeper.append(root)
                continue
            for name, part in parts:
                self.roster.alias(part, root, name)
                deeper.append(part)
        if [id(m) for m in deeper] != [id(ref()) for ref in self._followed]:
            self._followed = [weakref.ref(module) for module in deeper]
            self._tell()


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
