"""Folding edits away: the plain architecture of an edited model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from gradmend.edits.arguments import list_of, rows_of
from gradmend.edits.folding import Work
from gradmend.edits.folding_activations import fold_scaled, fold_shifted, fold_sigmoid
from gradmend.errors import CannotApply
from gradmend.layers import Followed, Rescaled, Standardised, WeightStandardised
from gradmend.layers.residuals import Times
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

    Centred and scaled sigmoids become ``nn.Sigmoid`` between adjusted linear layers, shifted
    activations what they were before, standardised inputs part of the first linear layer,
    standardised weights plain weights, factors behind a layer part of it; exact up to rounding.
    Residuals and norms stay: they are what was trained.

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
    work = Work(_copied(model))
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


Fold = Callable[[Work], bool]


def _folds(edit: Edit) -> list[tuple[str, Fold]]:
    """(target, what folds it) of an edit; none for a kind that does not fold."""
    if edit.kind in _BETWEEN:
        rows = zip(edit.targets, list_of(edit, "feeds"), rows_of(edit, "readers"), strict=True)
        fold = _BETWEEN[edit.kind]
        return [
            (path, partial(fold, path=path, feed=str(feed), readers=list(map(str, row))))
            for path, feed, row in rows
        ]
    if edit.kind == "scale_sigmoids":
        return [
            (path, partial(fold_scaled, path=path, readers=list(map(str, row))))
            for path, row in zip(edit.targets, rows_of(edit, "readers"), strict=True)
            if row  # else something reads it that cannot take the map
        ]
    simple = _SIMPLE.get(edit.kind)
    return [] if simple is None else [(path, partial(simple, path=path)) for path in edit.targets]


@torch.no_grad()
def _fold_weights(work: Work, path: str) -> bool:
    layer = work.innermost(path, WeightStandardised)
    if layer is None or not work.own(layer.inner):
        return False
    layer.inner.weight.copy_(layer.standardised())
    work.unwrap(path)
    return True


@torch.no_grad()
def _fold_factor(work: Work, path: str) -> bool:
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
def _fold_standardised(work: Work, path: str) -> bool:
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
def _fold_rescaled(work: Work, path: str) -> bool:
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


_BETWEEN: dict[str, Callable[..., bool]] = {
    "centre_sigmoids": fold_sigmoid,
    "shift_activations": fold_shifted,
}
"""What stands between linear layers, and folds into those on both sides."""

_SIMPLE: dict[str, Callable[..., bool]] = {
    "multiply_output": _fold_factor,
    "standardise_input": _fold_standardised,
    "standardise_target": _fold_rescaled,
    "standardise_weights": _fold_weights,
}

FOLDING = frozenset({*_BETWEEN, "scale_sigmoids", *_SIMPLE})
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
