"""Folding edits away: the plain architecture of an edited model."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from gradmend.edits.arguments import list_of, rows_of
from gradmend.edits.bench import find, inside
from gradmend.errors import CannotApply
from gradmend.layers import Followed, Rescaled, Standardised, WeightStandardised
from gradmend.layers.residuals import Times
from gradmend.records.prescription import Edit


def export_plain(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A copy of an edited model in which edits that fold away are folded into plain layers.

    Centred and scaled sigmoids become ``nn.Sigmoid`` between adjusted linear layers, standardised
    inputs part of the first linear layer, standardised weights plain weights, factors behind
    a layer part of it; exact up to rounding. Residuals and norms stay: they are what was trained.

    Args:
        model: The edited (and perhaps trained) model; left as it is.
        edits: The edits it bears.
    """
    plain = copy.deepcopy(model)
    for edit in reversed(list(edits)):
        if edit.kind == "centre_sigmoids":
            rows = zip(edit.targets, list_of(edit, "feeds"), rows_of(edit, "readers"), strict=True)
            for path, feed, readers in rows:
                _fold_sigmoid(plain, path, str(feed), [str(reader) for reader in readers])
        elif edit.kind == "scale_sigmoids":
            for path, readers in zip(edit.targets, rows_of(edit, "readers"), strict=True):
                if readers:  # else something reads it that cannot take the map
                    _fold_scaled(plain, path, [str(reader) for reader in readers])
        elif edit.kind == "standardise_weights":
            for path in edit.targets:
                plain = _fold_weights(plain, path)
        elif edit.kind == "multiply_output":
            for path in edit.targets:
                plain = _fold_factor(plain, path)
        elif edit.kind == "standardise_input":
            for path in edit.targets:
                plain = _fold_standardised(plain, path)
        elif edit.kind == "standardise_target":
            for path in edit.targets:
                plain = _fold_rescaled(plain, path)
    return plain


@torch.no_grad()
def _fold_sigmoid(model: nn.Module, path: str, feed: str, readers: list[str]) -> None:
    """2 sigma(2 x) - 1 as a plain sigmoid: W, b -> 2 W, 2 b before it; 2 W, b - W 1 behind."""
    # A standardised input scales what a layer reads, not what it computes: fold into the layer.
    before, *layers = (find(model, name) for name in (feed, *readers))
    for name, layer in zip((feed, *readers), (before, *layers), strict=True):
        inner = inside(layer) if layer is not None else None
        wrapped = isinstance(layer, Standardised) and name in readers
        if not isinstance(inner, nn.Linear) or inner.bias is None or wrapped:
            raise CannotApply(f"'{name}' was wrapped by another edit and cannot be folded into")
    for parameter in inside(before)._parameters.values():  # type: ignore[arg-type]
        if parameter is not None:
            parameter.mul_(2.0)
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        layer.bias.sub_(layer.weight.sum(dim=1))
        layer.weight.mul_(2.0)
    _set(model, path, nn.Sigmoid())


@torch.no_grad()
def _fold_scaled(model: nn.Module, path: str, readers: list[str]) -> None:
    """4 (sigma(x) - 1/2) as a plain sigmoid: W, b -> 4 W, b - 2 W 1 behind it."""
    layers = [find(model, name) for name in readers]
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
        raise CannotApply(f"a layer behind '{path}' was wrapped by another edit", "it cannot fold")
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        layer.bias.sub_(2.0 * layer.weight.sum(dim=1))
        layer.weight.mul_(4.0)
    _set(model, path, nn.Sigmoid())


@torch.no_grad()
def _fold_weights(model: nn.Module, path: str) -> nn.Module:
    layer = find(model, path)
    if not isinstance(layer, WeightStandardised):
        return model  # another edit stands around it
    inner = layer.inner
    weight = inner.weight
    assert isinstance(weight, nn.Parameter)
    weight.copy_(layer.standardised())
    return _set(model, path, inner)


@torch.no_grad()
def _fold_factor(model: nn.Module, path: str) -> nn.Module:
    """(W x + b) c as one layer: the factor, learned or not, times weight and bias."""
    layer = find(model, path)
    if not isinstance(layer, Followed) or not isinstance(layer.then, Times):
        return model
    inner, factor = layer.inner, layer.then.factor
    if type(inner) not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return model
    for parameter in inner._parameters.values():
        if parameter is not None:
            per_unit = factor.view(-1, *[1] * (parameter.dim() - 1)) if factor.dim() else factor
            parameter.mul_(per_unit)
    return _set(model, path, inner)


@torch.no_grad()
def _fold_standardised(model: nn.Module, path: str) -> nn.Module:
    layer = find(model, path)
    if not isinstance(layer, Standardised) or layer.limit < torch.inf:
        return model  # another edit is wrapped around it, or it draws wild entries in
    inner = layer.inner
    if not isinstance(inner, nn.Linear) or inner.bias is None or layer.mean.dim() > 1:
        return model  # a convolution's padding would see another zero; a whole model has no weight
    inner.weight.div_(layer.std)
    inner.bias.sub_((inner.weight * layer.mean).sum(dim=1))
    return _set(model, path, inner)


@torch.no_grad()
def _fold_rescaled(model: nn.Module, path: str) -> nn.Module:
    """Z std + mean behind a linear layer: W std, b std + mean."""
    place = find(model, path)
    if not isinstance(place, Followed) or not isinstance(place.then, Rescaled):
        return model
    inner, unit = place.inner, place.then
    if not isinstance(inner, nn.Linear) or inner.bias is None:
        return model
    inner.weight.mul_(unit.std.reshape(-1, 1))
    inner.bias.mul_(unit.std).add_(unit.mean)
    return _set(model, path, inner)


def _set(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent_path, _, name = path.rpartition(".")
    old, parent = find(model, path), find(model, parent_path)
    assert old is not None and parent is not None
    module.training = old.training
    inside(parent)._modules[name] = module
    return model
