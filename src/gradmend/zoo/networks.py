"""The zoo's networks. Every one takes arguments that make it sick or healthy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from gradmend.zoo.specimen import Batches, Specimen, specimen

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "relu_inplace": lambda: nn.ReLU(inplace=True),
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "hardtanh": nn.Hardtanh,
    "softmax": lambda: nn.Softmax(dim=-1),
}


def blobs(
    features: int, classes: int, *, batches: int = 8, size: int = 32, scale: float = 1.0,
    shift: float = 0.0,
) -> Batches:  # fmt: skip
    """Gaussian clusters with unit variance, times ``scale``, plus ``shift``."""
    centres = torch.randn(classes, features)
    found: Batches = []
    for _ in range(batches):
        y = torch.randint(classes, (size,))
        x = (centres[y] + torch.randn(size, features)) / math.sqrt(2)
        found.append((x * scale + shift, y))
    return found


def pictures(classes: int, *, batches: int = 4, size: int = 16, side: int = 8) -> Batches:
    """Noisy pictures [size, 3, side, side], one pattern a class."""
    patterns = torch.randn(classes, 3, side, side)
    found: Batches = []
    for _ in range(batches):
        y = torch.randint(classes, (size,))
        found.append(((patterns[y] + torch.randn(size, 3, side, side)) / math.sqrt(2), y))
    return found


def sentences(classes: int, *, batches: int = 4, size: int = 8, length: int = 12) -> Batches:
    """Token sequences [size, length] labelled by their first token."""
    found: Batches = []
    for _ in range(batches):
        x = torch.randint(50, (size, length))
        found.append((x, x[:, 0] % classes))
    return found


def initialise(model: nn.Module, init: str, gain: float) -> None:
    """Set the weights of linear and convolutional layers by a named scheme times ``gain``."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                if init == "default":
                    layer.weight.mul_(gain)
                    continue
                if init == "orthogonal":
                    nn.init.orthogonal_(layer.weight, gain)
                elif init == "normal":
                    layer.weight.normal_(0.0, gain / math.sqrt(fan_in))
                elif init == "constant":
                    layer.weight.fill_(gain / fan_in)
                else:
                    raise ValueError(f"no initialisation '{init}'")
                if layer.bias is not None:
                    layer.bias.zero_()


@specimen
def mlp(
    depth: int = 3,
    width: int = 64,
    activation: str = "relu",
    init: str = "default",
    gain: float = 1.0,
    features: int = 32,
    classes: int = 10,
    scale: float = 1.0,
    shift: float = 0.0,
    bad_layer: int | None = None,
    bad_gain: float = 1.0,
    bad_bias: float = 0.0,
    norm: str | None = None,
) -> Specimen:
    """A plain multilayer perceptron with ``depth`` hidden layers, written with modules."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers.append(nn.Linear(features if number == 0 else width, width))
        if norm == "batch":
            layers.append(nn.BatchNorm1d(width))
        elif norm == "layer":
            layers.append(nn.LayerNorm(width))
        layers.append(ACTIVATIONS[activation]())
    layers.append(nn.Linear(width, classes))
    model = nn.Sequential(*layers)
    initialise(model, init, gain)
    if bad_layer is not None:
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            linears[bad_layer].weight.mul_(bad_gain)
            linears[bad_layer].bias.add_(bad_bias)
    data = blobs(features, classes, scale=scale, shift=shift)
    return Specimen(model, data, F.cross_entropy)


class FunctionalMLP(nn.Module):
    """The same, written as people write it: functional, partly in place, with a detach."""

    def __init__(
        self, depth: int, width: int, features: int, classes: int, activation: str,
        detach_at: int | None, in_place: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = [features, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.out = nn.Linear(width, classes)
        self.activation = activation
        self.detach_at = detach_at
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        """Hidden layers one after the other, the activation called as a function."""
        for number, layer in enumerate(self.hidden):
            x = layer(x)
            if self.in_place:
                x = getattr(torch, f"{self.activation}_")(x)
            else:
                x = getattr(torch, self.activation)(x)
            if number == self.detach_at:
                x = x.detach()
        result: Tensor = self.out(x)
        return result


@specimen
def functional_mlp(
    depth: int = 4,
    width: int = 32,
    activation: str = "tanh",
    detach_at: int | None = None,
    in_place: bool = False,
    features: int = 32,
    classes: int = 10,
) -> Specimen:
    """A perceptron with functional activations; ``detach_at`` cuts its graph."""
    model = FunctionalMLP(depth, width, features, classes, activation, detach_at, in_place)
    return Specimen(model, blobs(features, classes), F.cross_entropy)


@specimen
def cnn(
    depth: int = 3, channels: int = 16, activation: str = "relu", norm: bool = True,
    init: str = "default", gain: float = 1.0, classes: int = 5,
) -> Specimen:  # fmt: skip
    """A convolutional classifier; with batch norm a healthy one at any of these depths."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers.append(nn.Conv2d(3 if number == 0 else channels, channels, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(ACTIVATIONS[activation]())
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes)]
    model = nn.Sequential(*layers)
    initialise(model, init, gain)
    return Specimen(model, pictures(classes), F.cross_entropy)


class ResidualBlock(nn.Module):
    """x + f(x), f with its own normalisation where asked."""

    def __init__(self, width: int, activation: str, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up = nn.Linear(width, 2 * width)
        self.act = ACTIVATIONS[activation]()
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to what came in."""
        result: Tensor = x + self.down(self.act(self.up(self.norm(x))))
        return result


@specimen
def residual_mlp(
    depth: int = 8, width: int = 32, activation: str = "gelu", norm: bool = True,
    features: int = 32, classes: int = 10,
) -> Specimen:  # fmt: skip
    """Pre-norm residual blocks: healthy at depth."""
    blocks = [ResidualBlock(width, activation, norm) for _ in range(depth)]
    model = nn.Sequential(nn.Linear(features, width), *blocks, nn.Linear(width, classes))
    return Specimen(model, blobs(features, classes), F.cross_entropy)


class Transformer(nn.Module):
    """Token and position embeddings, encoder layers, a classification head."""

    def __init__(self, depth: int, width: int, classes: int, norm_first: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.positions = nn.Parameter(torch.randn(64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of tokens [B, L]."""
        h = self.tokens(x) + self.positions[: x.shape[1]]
        result: Tensor = self.head(self.encoder(h).mean(dim=1))
        return result


@specimen
def transformer(
    depth: int = 3, width: int = 32, norm_first: bool = True, classes: int = 5
) -> Specimen:
    """A small transformer encoder on integer tokens."""
    return Specimen(
        Transformer(depth, width, classes, norm_first), sentences(classes), F.cross_entropy
    )


class Recurrent(nn.Module):
    """Embedding, a recurrent layer, a head on its last output."""

    def __init__(self, cell: str, width: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        kinds: dict[str, type[nn.LSTM | nn.GRU | nn.RNN]] = {
            "lstm": nn.LSTM,
            "gru": nn.GRU,
            "rnn": nn.RNN,
        }
        self.body = kinds[cell](width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of tokens [B, L]."""
        states, _ = self.body(self.tokens(x))
        result: Tensor = self.head(states[:, -1])
        return result


@specimen
def recurrent(cell: str = "lstm", width: int = 32, classes: int = 5, length: int = 12) -> Specimen:
    """A recurrent classifier; ``cell`` is ``lstm``, ``gru`` or ``rnn``."""
    return Specimen(
        Recurrent(cell, width, classes), sentences(classes, length=length), F.cross_entropy
    )


class Dense(nn.Module):
    """Every layer reads all before it (concatenation), as DenseNet does."""

    def __init__(self, depth: int, growth: int, features: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(features + number * growth, growth) for number in range(depth)
        )
        self.out = nn.Linear(features + depth * growth, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate, layer by layer."""
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        result: Tensor = self.out(x)
        return result


@specimen
def dense(depth: int = 5, growth: int = 12, features: int = 32, classes: int = 10) -> Specimen:
    """Concatenating skips."""
    return Specimen(
        Dense(depth, growth, features, classes), blobs(features, classes), F.cross_entropy
    )


class Overflowing(nn.Module):
    """The logarithm of a number that may be negative, or the root of one that may be zero."""

    def __init__(self, where: str, features: int, classes: int) -> None:
        super().__init__()
        self.inner = nn.Linear(features, classes)
        self.where = where

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes], NaN where asked."""
        h: Tensor = self.inner(x)
        if self.where == "forward":
            return torch.log(h)
        return torch.sqrt(h * (h > 0)) if self.where == "backward" else h


@specimen
def overflowing(where: str = "nowhere", features: int = 8, classes: int = 4) -> Specimen:
    """NaN on the ``forward`` pass (log), on the ``backward`` pass (sqrt at 0), or ``nowhere``."""
    model = Overflowing(where, features, classes)
    return Specimen(model, blobs(features, classes), F.cross_entropy)


class SharedAutoencoder(nn.Module):
    """One layer used many times, and a decoder that is the encoder's transpose."""

    def __init__(self, features: int, width: int, repeats: int) -> None:
        super().__init__()
        self.encode = nn.Linear(features, width)
        self.core = nn.Linear(width, width)
        self.act = nn.Tanh()
        self.repeats = repeats

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(rebuilt [B, features], code [B, width])."""
        code = self.act(self.encode(x))
        for _ in range(self.repeats):
            code = self.act(self.core(code))
        return code @ self.encode.weight, code


@specimen
def shared(repeats: int = 3, width: int = 16, features: int = 32) -> Specimen:
    """Shared modules, tied weights and two outputs."""
    data = [(x, x) for x, _ in blobs(features, 10)]

    def loss(output: Any, target: Tensor) -> Tensor:
        rebuilt, code = output
        result: Tensor = F.mse_loss(rebuilt, target) + 1e-3 * code.square().mean()
        return result

    return Specimen(SharedAutoencoder(features, width, repeats), data, loss)
