"""Everything a training changes, saved so that it can be put back bit for bit."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Randomness = tuple[Any, Any, Tensor, list[Tensor]]
"""State of the process's generators: Python's, NumPy's, torch's, and those of its devices."""


def randomness() -> Randomness:
    """The process's random state, to be handed to :func:`set_randomness`."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), devices


def set_randomness(state: Randomness) -> None:
    """Put a random state back."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])


def seed_randomness(seed: int) -> None:
    """Seed every generator a forward pass may draw from, so that arms see the same noise."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that
    # would seed for good, too, devices that are not in use yet
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@dataclass(slots=True)
class Snapshot:
    """A model and its optimizer as they are now.

    Tensors are cloned; gradients and the optimizer's own state objects are set aside and the
    training works on copies, so that restoring puts the same objects back. The random state of
    the process belongs to it too, and so do the parameters that the optimizer trains beside the
    model's, the modules the loss holds, and what a forward pass notes in its modules (counters,
    buffers given anew).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    _tensors: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _grads: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    _holders: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    _state: Any = None
    _groups: list[dict[str, Any]] = field(default_factory=list)
    _random: Randomness | None = None

    @classmethod
    def take(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        others: Iterable[nn.Module] = (),
    ) -> Snapshot:
        """Save everything; the model can be trained afterwards and nothing is lost.

        Args:
            model: The model.
            optimizer: What trains it.
            others: Modules beside the model that a training may change: a loss with buffers.
        """
        shot = cls(model=model, optimizer=optimizer)
        others = tuple(others)
        tensors = list(_tensors(model, optimizer, others))
        shot._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        shot._grads = [(t, t.grad) for t in tensors if t.is_leaf]
        seen: set[int] = set()
        for module in (m for root in (model, *others) for m in root.modules()):
            if id(module) not in seen:
                seen.add(id(module))
                tables = (module.__dict__, module._parameters, module._buffers, module._modules)
                shot._holders += [(table, dict(table)) for table in tables]
        shot._random = randomness()
        if optimizer is not None:
            shot._state = optimizer.state
            shot._groups = [dict(group) for group in optimizer.param_groups]
        shot.loosen()
        return shot

    def loosen(self) -> None:
        """Let the training work on copies: no gradients, a copied optimizer state."""
        for parameter, _ in self._grads:
            parameter.grad = None
        if self.optimizer is not None:
            self.optimizer.state = copied_state(self._state)

    def restore(self) -> None:
        """Put tensors, optimizer, flags and random state back as they were, to work on again."""
        with torch.no_grad():
            for tensor, saved in self._tensors:
                tensor.copy_(saved)
        for table, content in self._holders:
            table.clear()
            table.update(content)
        if self.optimizer is not None:
            groups = self.optimizer.param_groups
            del groups[len(self._groups) :]
            for group, saved_group in zip(groups, self._groups, strict=True):
                group.clear()
                group.update(saved_group)
        self.loosen()

    def put_back(self) -> None:
        """Restore, and give the original gradient and state objects back: as if never touched."""
        self.restore()
        for parameter, grad in self._grads:
            parameter.grad = grad
        if self.optimizer is not None:
            self.optimizer.state = self._state
        self.restore_randomness()

    def restore_randomness(self) -> None:
        """Put the process's random state back."""
        assert self._random is not None
        set_randomness(self._random)


def copied_state(state: Any) -> Any:
    """An optimizer state with every tensor cloned, keyed by the same parameters."""
    copied: Any = defaultdict(dict)
    for key, values in state.items():
        copied[key] = _copied(values)
    return copied


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value


@dataclass(slots=True)
class Progress:
    """How far one arm of a race has trained: its tensors and its optimizer's, in order."""

    tensors: list[Tensor]
    notes: list[dict[str, Any]]
    """Plain numbers and words that the forward pass wrote into its modules: counters, flags."""
    state: dict[Any, Any]
    groups: list[dict[str, Any]]
    """Options of the groups: some optimizers keep their progress there."""
    randomness: Randomness

    @classmethod
    def take(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        others: Iterable[nn.Module] = (),
    ) -> Progress:
        """Save the trained values of an edited model, to go on with later."""
        places = {id(p): i for i, p in enumerate(_parameters(optimizer))}
        others = tuple(others)
        return cls(
            tensors=[t.detach().clone() for t in _tensors(model, optimizer, others)],
            notes=[
                {key: value for key, value in vars(module).items() if _is_note(value)}
                for module in _modules(model, others)
            ],
            state={places.get(id(p), p): _copied(v) for p, v in optimizer.state.items()},
            groups=[
                {key: _copied(value) for key, value in group.items() if key != "params"}
                for group in optimizer.param_groups
            ],
            randomness=randomness(),
        )

    def resume(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        others: Iterable[nn.Module] = (),
    ) -> None:
        """Write the values back into a model that bears the same edits."""
        others = tuple(others)
        with torch.no_grad():
            pairs = zip(_tensors(model, optimizer, others), self.tensors, strict=True)
            for tensor, saved in pairs:
                tensor.copy_(saved)
        for module, notes in zip(_modules(model, others), self.notes, strict=True):
            vars(module).update(notes)
        parameters = list(_parameters(optimizer))
        optimizer.state = defaultdict(
            dict,
            {
                parameters[key] if isinstance(key, int) else key: _copied(values)
                for key, values in self.state.items()
            },
        )
        for group, options in zip(optimizer.param_groups, self.groups, strict=True):
            group.update({key: _copied(value) for key, value in options.items()})
        set_randomness(self.randomness)


def _tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, others: tuple[nn.Module, ...]
) -> Iterator[Tensor]:
    """Every tensor that a training may change, once: also what only the optimizer holds."""
    seen: set[int] = set()
    owned = (t for m in (model, *others) for t in (*m.parameters(), *m.buffers()))
    for tensor in (*owned, *(_parameters(optimizer) if optimizer is not None else ())):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def _modules(model: nn.Module, others: tuple[nn.Module, ...]) -> Iterator[nn.Module]:
    return (module for root in (model, *others) for module in root.modules())


def _is_note(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
