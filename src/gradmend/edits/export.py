"""Folding edits away: the plain architecture of an edited model."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from gradmend.edits.arguments import list_of, rows_of
from gradmend.edits.bench import find, inside
from gradmend.errors import CannotApply
from gradmend.layers import Standardised
from gradmend.records.prescription import Edit


def export_plain(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A copy of an edited model in which edits that fold away are folded into plain layers.

    Centred sigmoids become ``nn.Sigmoid`` between adjusted linear layers, standardised inputs
    part of the first linear layer; exact up to rounding. Residuals stay: they cannot be folded.

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
        elif edit.kind == "standardise_input":
            for path in edit.targets:
                plain = _fold_standardised(plain, path)
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
def _fold_standardised(model: nn.Module, path: str) -> nn.Module:
    layer = find(model, path)
    assert isinstance(layer, Standardised)
    inner = layer.inner
    if not isinstance(inner, nn.Linear) or inner.bias is None:
        return model  # a convolution's padding would see another zero; a whole model has no weight
    inner.weight.div_(layer.std)
    inner.bias.sub_((inner.weight * layer.mean).sum(dim=1))
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
