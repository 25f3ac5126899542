"""Weights drawn wrongly, or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from planted.plants import LATE, around, features, hidden, plant, rebuilt, scaled_weights
from planted.training import NORMS, Training


@plant("init-gain-too-small")
def small_gains(t: Training) -> Iterable[str] | None:
    """Every layer a tenth of what it should be."""
    names = hidden(t)
    if len(names) < 2 or t.named(*NORMS):
        return None
    scaled_weights(t, names, 0.1)
    return names


@plant("init-gain-too-small")
def small_normal(t: Training) -> Iterable[str] | None:
    """N(0, 0.01), as in old tutorials."""
    names = hidden(t)
    if len(names) < 3 or t.named(*NORMS):
        return None
    with torch.no_grad():
        for name in names:
            t.at(name).weight.normal_(std=0.01)
            t.at(name).bias.zero_()
    return names


@plant("init-gain-too-small")
def one_small_gain(t: Training) -> Iterable[str] | None:
    """One layer a ten-thousandth of what it should be."""
    names = hidden(t)
    if len(names) < 2 or t.named(*NORMS):
        return None
    name = names[len(names) // 2]
    scaled_weights(t, [name], 1e-4)
    with torch.no_grad():
        t.at(name).bias.zero_()
    return around(name, t)


@plant("init-gain-too-large", "saturated-activation")
def large_gains(t: Training) -> Iterable[str] | None:
    """Every layer eight times what it should be."""
    names = hidden(t)
    if len(names) < 2 or t.named(*NORMS):
        return None
    scaled_weights(t, names, 8.0)
    return {n for name in names for n in around(name, t)}


@plant("init-gain-too-large", "saturated-activation")
def one_large_gain(t: Training) -> Iterable[str] | None:
    """One layer 200 times what it should be."""
    names = hidden(t)
    if len(names) < 2 or t.named(*NORMS):
        return None
    name = names[len(names) // 2]
    scaled_weights(t, [name], 200.0)
    return around(name, t)


@plant("init-gain-too-large")
def large_output(t: Training) -> Iterable[str] | None:
    """An output layer 300 times too large: the first loss is far above chance."""
    name = t.layers[-1]
    scaled_weights(t, [name], 300.0)
    return (name,)


@plant("zero-initialisation")
def zeros(t: Training) -> Iterable[str] | None:
    """Every layer zero."""
    names = [*hidden(t), t.layers[-1]]
    if len(names) < 2:
        return None
    with torch.no_grad():
        for name in names:
            for parameter in t.at(name).parameters():
                parameter.zero_()
    return names


@plant("symmetric-initialisation")
def constants(t: Training) -> Iterable[str] | None:
    """Every weight of a layer alike."""
    names = [*hidden(t), t.layers[-1]]
    if len(names) < 3:
        return None
    with torch.no_grad():
        for name in names:
            layer = t.at(name)
            layer.weight.fill_(1.0 / layer.weight[0].numel())
            if layer.bias is not None:
                layer.bias.zero_()
    return names


def plain(t: Training, depth: int, bend: type[nn.Module], gain: float | None) -> nn.Sequential:
    """A deep stack; torch's own initialisation, or an orthogonal one."""
    inputs, outputs = features(t)
    layers: list[nn.Module] = []
    for number in range(depth):
        linear = nn.Linear(24 if number else inputs, 24)
        if gain is not None:
            nn.init.orthogonal_(linear.weight, gain)
            nn.init.zeros_(linear.bias)
        layers += [linear, bend()]
    return nn.Sequential(*layers, nn.Linear(24, outputs))


@plant("depth-without-skip", "init-gain-too-small")
def deep_relu(t: Training) -> Iterable[str] | None:
    """Twenty-four rectified layers as torch initialises them."""
    return t.layers if rebuilt(t, lambda: plain(t, 24, nn.ReLU, None)) else None


@plant("depth-without-skip", "init-gain-too-small", "attenuating-activation")
def deep_tanh(t: Training) -> Iterable[str] | None:
    """Thirty tanh layers as torch initialises them."""
    if not rebuilt(t, lambda: plain(t, 30, nn.Tanh, None)):
        return None
    return t.layers + t.bends


@plant("learning-rate-unscaled-with-depth", "learning-rate-too-high", entries=LATE)
def rate_for_shallow(t: Training) -> Iterable[str] | None:
    """Sixty isometric layers at a rate that suits six."""
    if t.optimizer_name == "SGD" or not rebuilt(t, lambda: plain(t, 60, nn.Tanh, 1.05)):
        return None
    t.optimizer_name, t.rate, t.steps = "Adam", 1e-2, 80
    return ()


@plant("attenuating-activation", "uncentred-activation")
def sigmoids(t: Training) -> Iterable[str] | None:
    """Sigmoids where rectifiers were, with weights for sigmoids; ten layers where that is easy."""
    if not rebuilt(t, lambda: plain(t, 10, nn.Sigmoid, None)):
        if len(t.bends) < 4 or t.named(*NORMS):
            return None
        for name in t.bends:
            t.put(name, nn.Sigmoid())
    with torch.no_grad():
        for name in t.layers:
            weight = t.at(name).weight
            weight.mul_(1.0 / (math.sqrt(weight[0].numel()) * float(weight.std())))
    return t.bends
