"""Everything a training changes, saved so that it can be put back bit for bit."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Snapshot:
    """A model and its optimizer as they are now.

    Tensors are cloned; gradients and the optimizer's own state objects are set aside and the
    training works on copies, so that restoring puts the same objects back. The random state of
    the process belongs to it too.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    _tensors: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _grads: list[tuple[nn.Parameter, Tensor | None]] = field(default_factory=list)
    _flags: list[tuple[nn.Module, bool]] = field(default_factory=list)
    _state: Any = None
    _groups: list[dict[str, Any]] = field(default_factory=list)
    _random: tuple[Any, Any, Tensor] | None = None

    @classmethod
    def take(cls, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Snapshot:
        """Save everything; the model can be trained afterwards and nothing is lost."""
        shot = cls(model=model, optimizer=optimizer)
        seen: dict[int, Tensor] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            seen.setdefault(id(tensor), tensor)
        shot._tensors = [(tensor, tensor.detach().clone()) for tensor in seen.values()]
        shot._grads = [(p, p.grad) for p in model.parameters()]
        shot._flags = [(module, module.training) for module in model.modules()]
        shot._random = (random.getstate(), np.random.get_state(), torch.get_rng_state())
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
        for module, training in self._flags:
            module.training = training
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
        random.setstate(self._random[0])
        np.random.set_state(self._random[1])
        torch.set_rng_state(self._random[2])


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
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


@dataclass(slots=True)
class Progress:
    """How far one arm of a race has trained: its tensors and its optimizer's, in order."""

    tensors: list[Tensor]
    state: dict[int, Any]
    randomness: Tensor

    @classmethod
    def take(cls, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Save the trained values of an edited model, to go on with later."""
        places = {id(p): i for i, p in enumerate(_parameters(optimizer))}
        return cls(
            tensors=[t.detach().clone() for t in (*model.parameters(), *model.buffers())],
            state={
                places[id(p)]: _copied(values)
                for p, values in optimizer.state.items()
                if id(p) in places
            },
            randomness=torch.get_rng_state(),
        )

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the values back into a model that bears the same edits."""
        with torch.no_grad():
            for tensor, saved in zip((*model.parameters(), *model.buffers()), self.tensors, strict=True):
                tensor.copy_(saved)
        parameters = list(_parameters(optimizer))
        optimizer.state = defaultdict(
            dict, {parameters[i]: _copied(values) for i, values in self.state.items()}
        )
        torch.set_rng_state(self.randomness)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
