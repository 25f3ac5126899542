"""Who is who in a training: models, parameters and optimizers, with names that stay."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradmend.probe.drawn import is_as_drawn
from gradmend.probe.hidden import hidden_modules
from gradmend.probe.source import module_line
from gradmend.records.history import Column

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Where compiled, data-parallel and wrapped models keep the model itself."""

_SETTINGS = ("betas", "eps", "weight_decay", "momentum", "nesterov", "amsgrad", "maximize")


class Roster:
    """Every parameter that is watched, in forward order of its module, and its optimizer.

    Parameters may come later, be frozen, or change their optimizer; a column keeps its place and
    its name. Only weak references are kept to models and optimizers: a training may drop them.
    """

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self.optimizers: list[Column] = []
        self.roots: list[weakref.ref[nn.Module]] = []
        self._refs: list[weakref.ref[Tensor]] = []
        self._index: dict[int, int] = {}
        self._names: set[str] = set()
        self._places: dict[str, int] = {}
        self._optimizer_index: dict[int, int] = {}
        self._alive: list[weakref.ref[Optimizer]] = []
        self._prefix: dict[int, str] = {}

    def models(self) -> list[nn.Module]:
        """The root modules that are still alive."""
        return [root for ref in self.roots if (root := ref()) is not None]

    def index(self, parameter: Tensor) -> int | None:
        """The column of a parameter."""
        at = self._index.get(id(parameter))
        return at if at is not None and self._refs[at]() is parameter else None

    def knows(self, identity: int) -> bool:
        """Whether the parameter of this ``id`` has a column."""
        at = self._index.get(identity)
        return at is not None and id(self._refs[at]()) == identity

    def module_of(self, identity: int) -> str | None:
        """The module of the parameter of this ``id``; ``None`` where it has no column."""
        return self.columns[self._index[identity]].module if self.knows(identity) else None

    def hidden(self, identities: Iterable[int]) -> tuple[str, ...]:
        """Modules of some parameters that models keep where torch does not look, untrained."""
        loose = [
            each
            for each in identities
            if not self.knows(each) or self.columns[self._index[each]].facts["optimizer"] is None
        ]
        if not loose:
            return ()
        found = (
            self.path(root, where)
            for root in self.models()
            for where in hidden_modules(root, loose)
        )
        return tuple(dict.fromkeys(found))

    def parameter(self, column: int) -> Tensor | None:
        """The parameter of a column, while it is alive."""
        return self._refs[column]()

    def indices(self, optimizer: Optimizer) -> list[int]:
        """The columns of an optimizer's parameters."""
        found = (self.index(p) for group in optimizer.param_groups for p in group["params"])
        return [at for at in found if at is not None]

    def optimizer(self, optimizer: Optimizer) -> int:
        """The column of an optimizer, made when it is new."""
        at = self._optimizer_index.get(id(optimizer))
        if at is not None and self._alive[at]() is optimizer:
            return at
        kind = type(optimizer).__name__
        for place, (column, ref) in enumerate(zip(self.optimizers, self._alive, strict=True)):
            if column.kind == kind and ref() is None:  # made anew: it takes the old one's place
                self._alive[place] = weakref.ref(optimizer)
                self._optimizer_index[id(optimizer)] = place
                return place
        at = len(self.optimizers)
        same = sum(1 for column in self.optimizers if column.kind == kind)
        group = optimizer.param_groups[0] if optimizer.param_groups else {}
        facts = {key: _plain(group[key]) for key in _SETTINGS if key in group}
        facts["groups"] = len(optimizer.param_groups)
        self.optimizers.append(
            Column(name=f"{kind}#{same + 1}" if same else kind, kind=kind, order=at, facts=facts)
        )
        self._alive.append(weakref.ref(optimizer))
        self._optimizer_index[id(optimizer)] = at
        return at

    def add_model(self, model: nn.Module) -> None:
        """Watch a root module."""
        if any(root is model for root in self.models()):
            return
        gone = [ref for ref in self.roots if ref() is None]
        self.roots = [ref for ref in self.roots if ref() is not None]
        self.roots.append(weakref.ref(model))
        alive = {id(root) for root in self.models()}
        if gone:  # their names are free again
            self._prefix = {key: name for key, name in self._prefix.items() if key in alive}
        taken = set(self._prefix.values())
        name = self._name(model)
        free = [name, *(f"{name}#{n}" for n in range(2, len(taken) + 3))]
        self._prefix[id(model)] = next(f"{n}." for n in free if f"{n}." not in taken)

    def _name(self, model: nn.Module) -> str:
        """What a script calls it in its global scope; else its class."""
        scope = vars(sys.modules.get("__main__", sys))
        called = [
            name
            for name, value in list(scope.items())
            if (value is model or (isinstance(value, nn.Module) and unwrap(value) is model))
            and not name.startswith("_")
        ]
        return called[0] if called else type(unwrap(model)).__name__

    def alias(self, module: nn.Module, root: nn.Module, inside: str) -> None:
        """Let a part of a root be named like one, for parts that are called by themselves."""
        self._prefix[id(module)] = self.path(root, inside) + "."

    def path(self, root: nn.Module, inside: str) -> str:
        """The name of a module or parameter of a root, as it is shown.

        An only model's parts need no name in front; with several each part says whose it is.
        """
        alone = len(self.roots) == 1 and self.roots[0]() is root
        prefix = "" if alone else self._prefix.get(id(root), "")
        return f"{prefix}{plain_path(inside)}".rstrip(".")

    def refresh(self, optimizers: Iterable[Optimizer], step: int) -> bool:
        """Look for parameters that are new, frozen or thawed, or have a new optimizer.

        Returns:
            Whether any column is new or has changed.
        """
        optimizers = list(optimizers)
        before = list(self.columns)
        owner: dict[int, tuple[int, int]] = {}
        for optimizer in optimizers:
            at = self.optimizer(optimizer)
            for number, group in enumerate(optimizer.param_groups):
                for parameter in group["params"]:
                    owner.setdefault(id(parameter), (at, number))
        seen: set[int] = set()
        for root in self.models():
            for name, parameter in root.named_parameters():
                self._put(parameter, self.path(root, name), root, name, owner, step)
                seen.add(id(parameter))
        for optimizer in optimizers:
            for number, group in enumerate(optimizer.param_groups):
                for place, parameter in enumerate(group["params"]):
                    if id(parameter) not in seen and isinstance(parameter, Tensor):
                        name = f"{self.optimizers[self.optimizer(optimizer)].name}.{number}.{place}"
                        self._put(parameter, name, None, "", owner, step)
                        seen.add(id(parameter))
        return self.columns != before

    def _put(
        self,
        parameter: Tensor,
        name: str,
        root: nn.Module | None,
        inside: str,
        owner: dict[int, tuple[int, int]],
        step: int,
    ) -> None:
        at = self.index(parameter)
        optimizer, group = owner.get(id(parameter), (None, None))
        module, _, kind = name.rpartition(".")
        facts = {
            "optimizer": optimizer,
            "group": group,
            "trainable": bool(parameter.requires_grad),
            "registered": root is not None,
            "device": parameter.device.type,
        }
        if at is not None and "as_drawn" in self.columns[at].facts:
            facts["as_drawn"] = self.columns[at].facts["as_drawn"]
        elif optimizer is None and facts["trainable"] and root is not None and parameter.dim() > 1:
            facts["as_drawn"] = is_as_drawn(parameter)  # read once, of what nobody trains
        if at is not None:
            old = self.columns[at]
            if dict(old.facts) == facts:
                return
            name, module, kind, step = old.name, old.module, old.kind, old.since
        elif (at := self._vacant(name, parameter)) is not None:
            self._refs[at] = weakref.ref(parameter)
            self._index[id(parameter)] = at
        else:
            at = len(self.columns)
            name = self._unique(name)
            self._refs.append(weakref.ref(parameter))
            self._index[id(parameter)] = at
            self._places[name] = at
            self.columns.append(Column(name=name))
        self.columns[at] = Column(
            name=name,
            module=module,
            kind=kind,
            order=at,
            shape=tuple(parameter.shape),
            dtype=str(parameter.dtype).removeprefix("torch."),
            source=module_line(root, inside.rpartition(".")[0]) if root is not None else None,
            since=step,
            facts=facts,
        )

    def _vacant(self, name: str, parameter: Tensor) -> int | None:
        """The column of a parameter that is gone and that this one, made anew, replaces."""
        at = self._places.get(name)
        if at is None or self._refs[at]() is not None:
            return None
        return at if self.columns[at].shape == tuple(parameter.shape) else None

    def _unique(self, name: str) -> str:
        free, number = name, 2
        while free in self._names:
            free, number = f"{name}~{number}", number + 1
        self._names.add(free)
        return free

    def optimizers_alive(self) -> Iterator[Optimizer]:
        """The optimizers that have stepped and still exist."""
        return (optimizer for ref in self._alive if (optimizer := ref()) is not None)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a compiled, data-parallel or otherwise wrapped one."""
    while True:
        inner = next((model._modules[w] for w in WRAPPERS if w in model._modules), None)
        if inner is None or len(model._modules) != 1:
            return model
        model = inner


def plain_path(path: str) -> str:
    """A path without the names that wrappers put into it."""
    parts = path.split(".")
    hidden = set(WRAPPERS) - {"module"}
    kept = [
        part for at, part in enumerate(parts) if part not in hidden and (part, at) != ("module", 0)
    ]
    return ".".join(kept)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and value.device.type == "cpu" else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
