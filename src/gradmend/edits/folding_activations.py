"""Activations in other coordinates, folded into the linear layers around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gradmend.edits.bench import find
from gradmend.edits.folding import Work, linear_of, stands
from gradmend.layers import CentredSigmoid, Followed, ScaledSigmoid, Shifted, Standardised


@torch.no_grad()
def fold_sigmoid(work: Work, path: str, feed: str, readers: list[str]) -> bool:
    """2 sigma(2 x) - 1 as a plain sigmoid: W, b -> 2 W, 2 b before it; 2 W, b - W 1 behind."""
    if not stands(work, path, CentredSigmoid):
        return False
    # A standardised input scales what a layer reads, not what it computes: fold into the layer.
    before = linear_of(work, feed, (Standardised,))
    # What follows a layer, or adds to it, is the same of the same answer.
    behind = [linear_of(work, name, (Followed,)) for name in readers]
    for parameter in before._parameters.values():
        if parameter is not None:
            parameter.mul_(2.0)
    for layer in behind:
        layer.bias.sub_(layer.weight.sum(dim=1))
        layer.weight.mul_(2.0)
    work.put(path, nn.Sigmoid())
    return True


@torch.no_grad()
def fold_shifted(work: Work, path: str, feed: str, readers: list[str]) -> bool:
    """(phi(x + c) - d) / a as phi alone: b + c before it; W / a, b - d W 1 / a behind."""
    if not stands(work, path, Shifted):
        return False
    shifted: Any = find(work.model, path)
    before = linear_of(work, feed, (Standardised,))
    behind = [linear_of(work, name, (Followed,)) for name in readers]
    before.bias.add_(shifted.shift)
    for layer in behind:
        layer.weight.div_(shifted.slope)
        layer.bias.sub_(layer.weight.sum(dim=1), alpha=shifted.offset)
    work.put(path, shifted.function)
    return True


@torch.no_grad()
def fold_scaled(work: Work, path: str, readers: list[str]) -> bool:
    """4 (sigma(x) - 1/2) as a plain sigmoid: W, b -> 4 W, b - 2 W 1 behind it."""
    if not stands(work, path, ScaledSigmoid):
        return False
    layers = [linear_of(work, name, (Followed,)) for name in readers]
    for layer in layers:
        layer.bias.sub_(2.0 * layer.weight.sum(dim=1))
        layer.weight.mul_(4.0)
    work.put(path, nn.Sigmoid())
    return True
