"""The way from the loss to the weights, cut or made useless."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from planted.plants import behind, hidden, middle, plant
from planted.training import Training


class _Ungraded(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = self.inner(*args)
        return out


@plant("no-grad-forward", "detached-parameters", exact=True)
def feature_extractor_without_grad(t: Training) -> Iterable[str] | None:
    """A layer that is called under ``no_grad``."""
    names = hidden(t)
    if not names or t.name == "lora":
        return None
    name = names[len(names) // 2]
    t.put(name, _Ungraded(t.at(name)))
    return upstream(t, name) | {f"{name}.inner"}


def upstream(t: Training, name: str) -> set[str]:
    """A module and all before it: what a cut behind it leaves without gradient."""
    found = set()
    for other, module in t.model.named_modules():
        found.add(other)
        if other == name:
            break
        del module
    return found


@plant("detached-parameters", exact=True)
def detach_inside(t: Training) -> Iterable[str] | None:
    """A ``detach`` in the middle."""
    if t.name in ("encoder", "decoder", "lora", "tabular", "resnet", "attender"):
        return None  # beside a skip, the gradient finds another way: see detach_behind_stem
    name = middle(t)
    if name is None:
        return None
    return {*behind(t, name, lambda h: h.detach()), *upstream(t, name)}


@plant("detached-parameters", exact=True)
def detach_behind_stem(t: Training) -> Iterable[str] | None:
    """The first layer's output, or the embedding, handed on as ``.data``."""
    names = [*t.named(nn.Embedding), *hidden(t)]
    if not names or t.name == "lora":
        return None
    return behind(t, names[0], lambda h: h.data)


class _Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = checkpoint(self.inner, x, use_reentrant=True)
        return out


@plant("reentrant-checkpoint", "detached-parameters", exact=True)
def reentrant_first_layer(t: Training) -> Iterable[str] | None:
    """A reentrant checkpoint of the first layer, whose input needs no gradient."""
    names = [*t.named(nn.Embedding), *hidden(t)]
    if not names or t.name == "lora" or t.named(nn.Embedding):
        return None
    t.put(names[0], _Checkpointed(t.at(names[0])))
    return names[0], f"{names[0]}.inner"


@plant("non-differentiable-operation", exact=True)
def rounded(t: Training) -> Iterable[str] | None:
    """Values rounded on their way."""
    if t.name in ("encoder", "decoder", "lora", "tabular", "resnet", "attender"):
        return None
    name = middle(t)
    if name is None:
        return None
    leaves = [n for n, m in t.model.named_modules() if not list(m.children())]
    reads = leaves[max(0, leaves.index(name) - 1)]  # the layer whose output is rounded, nearly
    return {reads, *behind(t, name, lambda h: torch.round(4 * h) / 4)}


@plant("non-differentiable-operation", exact=True)
def signs_of_stem(t: Training) -> Iterable[str] | None:
    """Only the sign of the first layer's output goes on."""
    names = [*t.named(nn.Embedding), *hidden(t)]
    if not names or t.name == "lora":
        return None
    return behind(t, names[0], torch.sign)


class _Unlisted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.layers = [inner]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers[0](x)
        return out


@plant("unregistered-parameters", exact=True)
def python_list(t: Training) -> Iterable[str] | None:
    """A layer kept in a Python list."""
    names = hidden(t)
    if not names or t.name == "lora":
        return None
    name = names[len(names) // 2]
    t.put(name, _Unlisted(t.at(name)))
    return {name, f"{name}.layers.0", name.rpartition(".")[0], ""}
