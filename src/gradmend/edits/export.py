"""Folding edits away: the plain architecture of an edited model."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from gradmend.edits.arguments import list_of, rows_of
from gradmend.edits.bench import find, inside
from gradmend.errors import CannotApply
from gradmend.layers import (
    CentredSigmoid,
    Followed,
    Rescaled,
    ScaledSigmoid,
    Standardised,
    WeightStandardised,
    Wrapped,
)
from gradmend.layers.residuals import Moved, Times
from gradmend.records.prescription import Edit

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Folded:
    """An edited model with what folds away folded."""

    model: nn.Module
    folded: tuple[tuple[str, str], ...]
    """(kind of edit, target) of each."""
    refused: tuple[CannotApply, ...]
    """Why what should fold did not, because of another edit."""


def export_plain(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A copy of an edited model in which edits that fold away are folded into plain layers.

    Centred and scaled sigmoids become ``nn.Sigmoid`` between adjusted linear layers, standardised
    inputs part of the first linear layer, standardised weights plain weights, factors behind
    a layer part of it; exact up to rounding. Residuals and norms stay: they are what was trained.

    Args:
        model: The edited (and perhaps trained) model; left as it is.
        edits: The edits it bears.

    Raises:
        CannotApply: If another edit stands in the way of one that should fold.
    """
    folded = fold_away(model, edits)
    for reason in folded.refused:
        raise reason
    return folded.model


def fold_away(model: nn.Module, edits: Iterable[Edit]) -> Folded:
    """As :func:`export_plain`, but what cannot be folded stays, and is told.

    The time is linear in the number of layers and of targets.
    """
    work = _Work(_copied(model))
    folded: list[tuple[str, str]] = []
    refused: list[CannotApply] = []
    # Edits of one place stand inside one another, the last one next to the module.
    for edit in reversed(list(edits)):
        for target, fold in _folds(edit):
            try:
                if fold(work):
                    folded.append((edit.kind, target))
            except CannotApply as reason:
                refused.append(reason)
    return Folded(work.model, tuple(reversed(folded)), tuple(refused))


class _Work:
    """The copy that is folded, and which of its parameters belong to several modules."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        uses = Counter(
            id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)
        )
        self._shared = {key for key, count in uses.items() if count > 1}

    def wrappers(self, path: str) -> list[Wrapped]:
        """What stands around a module, the outermost first."""
        module = find(self.model, path)
        found = []
        while isinstance(module, Wrapped):
            found.append(module)
            module = module.inner
        return found

    def innermost(self, path: str, kind: type[Any]) -> Any:
        """The wrapper next to a module, if it is of a kind."""
        found = self.wrappers(path)
        apart = any(isinstance(wrapper, Moved) for wrapper in found)
        return found[-1] if found and not apart and isinstance(found[-1], kind) else None

    def unwrap(self, path: str) -> None:
        """Put a module in the place of the wrapper next to it."""
        *outer, last = self.wrappers(path)
        inner = last.inner
        if outer:
            inner.training = last.training
            outer[-1]._modules["inner"] = inner
        else:
            self.put(path, inner)

    def put(self, path: str, module: nn.Module) -> None:
        """Set a module into its place."""
        if not path:
            self.model = module
            return
        parent_path, _, name = path.rpartition(".")
        old, parent = find(self.model, path), find(self.model, parent_path)
        assert old is not None and parent is not None
        module.training = old.training
        inside(parent)._modules[name] = module

    def own(self, layer: nn.Module) -> bool:
        """Whether nobody else uses a layer's parameters, which folding changes."""
        return not any(id(parameter) in self._shared for parameter in layer.parameters())


Fold = Callable[[_Work], bool]


def _folds(edit: Edit) -> list[tuple[str, Fold]]:
    """(target, what folds it) of an edit; none for a kind that does not fold."""
    if edit.kind == "centre_sigmoids":
        rows = zip(edit.targets, list_of(edit, "feeds"), rows_of(edit, "readers"), strict=True)
        return [
            (path, partial(_fold_sigmoid, path=path, feed=str(feed), readers=list(map(str, row))))
            for path, feed, row in rows
        ]
    if edit.kind == "scale_sigmoids":
        return [
            (path, partial(_fold_scaled, path=path, readers=list(map(str, row))))
            for path, row in zip(edit.targets, rows_of(edit, "readers"), strict=True)
            if row  # else something reads it that cannot take the map
        ]
    simple = _SIMPLE.get(edit.kind)
    return [] if simple is None else [(path, partial(simple, path=path)) for path in edit.targets]


@torch.no_grad()
def _fold_sigmoid(work: _Work, path: str, feed: str, readers: list[str]) -> bool:
    """2 sigma(2 x) - 1 as a plain sigmoid: W, b -> 2 W, 2 b before it; 2 W, b - W 1 behind."""
    if not _stands(work, path, CentredSigmoid):
        return False
    # A standardised input scales what a layer reads, not what it computes: fold into the layer.
    before = _linear(work, feed, (Standardised,))
    # What follows a layer, or adds to it, is the same of the same answer.
    behind = [_linear(work, name, (Followed,)) for name in readers]
    for parameter in before._parameters.values():
        if parameter is not None:
            parameter.mul_(2.0)
    for layer in behind:
        layer.bias.sub_(layer.weight.sum(dim=1))
        layer.weight.mul_(2.0)
    work.put(path, nn.Sigmoid())
    return True


@torch.no_grad()
def _fold_scaled(work: _Work, path: str, readers: list[str]) -> bool:
    """4 (sigma(x) - 1/2) as a plain sigmoid: W, b -> 4 W, b - 2 W 1 behind it."""
    if not _stands(work, path, ScaledSigmoid):
        return False
    layers = [_linear(work, name, (Followed,)) for name in readers]
    for layer in layers:
        layer.bias.sub_(2.0 * layer.weight.sum(dim=1))
        layer.weight.mul_(4.0)
    work.put(path, nn.Sigmoid())
    return True


def _stands(work: _Work, path: str, kind: type[nn.Module]) -> bool:
    """Whether the module that an edit put in is still there; false where another took its place."""
    module = find(work.model, path)
    if module is None or type(inside(module)) is not kind:
        return False
    if inside(module) is not module:
        raise CannotApply(f"'{path}' was wrapped by another edit and cannot be folded")
    return True


def _linear(work: _Work, path: str, allowed: tuple[type[nn.Module], ...]) -> nn.Linear:
    """A linear layer with a bias of its own, within wrappers that do not matter here."""
    layer = find(work.model, path)
    inner = inside(layer) if layer is not None else None
    foreign = [w for w in work.wrappers(path) if not isinstance(w, allowed)]
    if not isinstance(inner, nn.Linear) or inner.bias is None or foreign:
        raise CannotApply(f"'{path}' was wrapped by another edit and cannot be folded into")
    if not work.own(inner):
        raise CannotApply(f"'{path}' shares its weights", "another layer would be changed as well")
    return inner


@torch.no_grad()
def _fold_weights(work: _Work, path: str) -> bool:
    layer = work.innermost(path, WeightStandardised)
    if layer is None or not work.own(layer.inner):
        return False
    layer.inner.weight.copy_(layer.standardised())
    work.unwrap(path)
    return True


@torch.no_grad()
def _fold_factor(work: _Work, path: str) -> bool:
    """(W x + b) c as one layer: the factor, learned or not, times weight and bias."""
    layer = work.innermost(path, Followed)
    if layer is None or not isinstance(layer.then, Times):
        return False
    inner, factor = layer.inner, layer.then.factor
    if type(inner) is nn.MultiheadAttention:
        inner = inner.out_proj  # what it answers first ends in it
    elif type(inner) not in _LINEAR:
        return False
    if not work.own(inner):
        return False
    for parameter in inner._parameters.values():
        if parameter is not None:
            per_unit = factor.view(-1, *[1] * (parameter.dim() - 1)) if factor.dim() else factor
            parameter.mul_(per_unit)
    work.unwrap(path)
    return True


@torch.no_grad()
def _fold_standardised(work: _Work, path: str) -> bool:
    layer = work.innermost(path, Standardised)
    if layer is None or layer.limit < torch.inf:
        return False  # it draws wild entries in
    inner = layer.inner
    if not isinstance(inner, nn.Linear) or inner.bias is None or layer.mean.dim() > 1:
        return False  # a convolution's padding would see another zero; a model has no weight
    if not work.own(inner):
        return False
    inner.weight.div_(layer.std)
    inner.bias.sub_((inner.weight * layer.mean).sum(dim=1))
    work.unwrap(path)
    return True


@torch.no_grad()
def _fold_rescaled(work: _Work, path: str) -> bool:
    """Z std + mean behind a linear layer: W std, b std + mean."""
    place = work.innermost(path, Followed)
    if place is None or not isinstance(place.then, Rescaled):
        return False
    inner, unit = place.inner, place.then
    if not isinstance(inner, nn.Linear) or inner.bias is None or not work.own(inner):
        return False
    inner.weight.mul_(unit.std.reshape(-1, 1))
    inner.bias.mul_(unit.std).add_(unit.mean)
    work.unwrap(path)
    return True


_SIMPLE: dict[str, Callable[..., bool]] = {
    "multiply_output": _fold_factor,
    "standardise_input": _fold_standardised,
    "standardise_target": _fold_rescaled,
    "standardise_weights": _fold_weights,
}

FOLDING = frozenset({"centre_sigmoids", "scale_sigmoids", *_SIMPLE})
"""Kinds of edit that leave plain layers where nothing stands in their way."""


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy, made from the leaves up: no recursion, however deep modules are nested."""
    order: list[nn.Module] = []
    seen: set[int] = set()
    stack = [model]
    while stack:
        module = stack.pop()
        if id(module) not in seen:
            seen.add(id(module))
            order.append(module)
            stack += [child for child in module._modules.values() if child is not None]
    memo: dict[int, Any] = {}
    for module in reversed(order):  # children come after their parents, so before them here
        copy.deepcopy(module, memo)
    copied = memo[id(model)]
    assert isinstance(copied, nn.Module)
    return copied
