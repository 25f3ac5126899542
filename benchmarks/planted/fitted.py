"""Architectures on which limits may be fitted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from planted import data
from planted.training import Training

Factory = Callable[[int, int], Training]

SIZES = {"narrow": (16, 2), "deep": (32, 5)}
"""Width and depth."""
OPTIMIZERS = ("momentum", "Adam")
ADAPTIVE = ("Adam",)
"""For what plain gradient descent does not train in a hundred steps."""
ONLY_ADAPTIVE = ("lstm", "attender", "gan")
SEEDS = (0, 1, 2, 3)


def stack(features: int, width: int, depth: int, outputs: int, bend: type[nn.Module]) -> nn.Module:
    """Linear layers with an activation behind each but the last."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(width if number else features, width), bend()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def mlp(width: int, depth: int) -> Training:
    """A classifier of points."""
    model = stack(16, width, depth, 4, nn.ReLU)
    return Training("mlp", "classify", model, data.clusters((16,), 4), F.cross_entropy)


def regressor(width: int, depth: int) -> Training:
    """A regression by tanh layers."""
    model = stack(12, width, depth, 1, nn.Tanh)
    return Training("regressor", "regress", model, data.surface(12), F.mse_loss)


def binary(width: int, depth: int) -> Training:
    """Two classes from one output."""
    model = stack(12, width, depth, 1, nn.ReLU)
    loss = F.binary_cross_entropy_with_logits
    return Training("binary", "binary", model, data.sides(12), loss)


def cnn(width: int, depth: int) -> Training:
    """Convolutions; with batch norm where they are deep."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers.append(nn.Conv2d(width // 2 if number else 1, width // 2, 3, padding=1))
        if depth > 3:
            layers.append(nn.BatchNorm2d(width // 2))
        layers.append(nn.ReLU())
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(2 * width, 4)]
    draw = data.clusters((1, 8, 8), 4, batch=16)
    return Training("cnn", "classify", nn.Sequential(*layers), draw, F.cross_entropy)


def autoencoder(width: int, depth: int) -> Training:
    """Points through a narrow middle, and back."""
    half = max(1, depth // 2)
    encoder = stack(24, width, half, 6, nn.ReLU)
    model = nn.Sequential()
    model.add_module("encoder", encoder)
    model.add_module("decoder", stack(6, width, half, 24, nn.ReLU))
    return Training("autoencoder", "rebuild", model, data.themselves((24,)), F.mse_loss)


class Reader(nn.Module):
    """A recurrent layer and a head on its last output."""

    def __init__(self, cell: type[nn.RNNBase], width: int, depth: int) -> None:
        super().__init__()
        self.body = cell(6, width, num_layers=depth, batch_first=True)  # type: ignore[call-arg, arg-type]
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, 4] of sequences [batch, time, 6]."""
        logits: Tensor = self.head(self.body(x)[0][:, -1])
        return logits


def rnn(width: int, depth: int) -> Training:
    """A plain recurrent network with tanh."""
    model = Reader(nn.RNN, width, max(1, depth // 2))
    return Training("rnn", "classify", model, data.signals(6, 9, 4), F.cross_entropy)


def lstm(width: int, depth: int) -> Training:
    """A long short-term memory."""
    model = Reader(nn.LSTM, width, max(1, depth // 2))
    return Training("lstm", "classify", model, data.signals(6, 12, 4), F.cross_entropy)


class Encoder(nn.Module):
    """Embeddings, torch's own encoder layers, a head on the mean."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blind = False
        self.tokens = nn.Embedding(data.VOCABULARY, width)
        self.positions = nn.Parameter(0.02 * torch.randn(12, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, 4] of tokens [batch, time]."""
        padding = None
        if self.blind:  # the first sentence is nothing but padding
            padding = (torch.arange(len(x)) == 0)[:, None].expand(x.shape)
        h = self.tokens(x) + self.positions[: x.shape[1]]
        h = self.encoder(h, src_key_padding_mask=padding)
        logits: Tensor = self.head(h.mean(dim=1))
        return logits


def encoder(width: int, depth: int) -> Training:
    """A transformer that classifies sentences."""
    model = Encoder(width, max(1, depth - 1))
    return Training("encoder", "classify", model, data.sentences(12, 4, batch=16), F.cross_entropy)


class Attender(nn.Module):
    """One attention written out between embeddings and a head."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blind, self.scale = False, width**-0.5
        self.embed = nn.Embedding(data.VOCABULARY, width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.head = stack(width, width, depth - 1, 4, nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, 4] of tokens [batch, time]."""
        h = self.embed(x)
        logits = self.query(h) @ self.key(h).transpose(1, 2) * self.scale
        if self.blind:
            logits = logits.masked_fill((torch.arange(len(x)) == 0)[:, None, None], -torch.inf)
        h = h + logits.softmax(dim=-1) @ self.value(h)
        out: Tensor = self.head(h.mean(dim=1))
        return out


def attender(width: int, depth: int) -> Training:
    """A classifier of sentences with one attention of its own."""
    draw = data.sentences(12, 4, batch=16)
    return Training("attender", "classify", Attender(width, depth), draw, F.cross_entropy)


def gan(width: int, depth: int) -> Training:
    """A maker of points against a critic, by the non-saturating loss."""
    maker = stack(6, width, depth, 8, nn.ReLU)
    critic = stack(8, width, 2, 1, lambda: nn.LeakyReLU(0.2))  # type: ignore[arg-type]
    draw = data.noise_and(data.themselves((8,)), 6)
    return Training(
        "gan",
        "adversarial",
        maker,
        draw,
        lambda made, real: F.softplus(-critic(made)).mean(),
        rate=1e-3,
        critic=critic,
    )


FACTORIES: tuple[Factory, ...] = (
    *(mlp, regressor, binary, cnn, autoencoder, rnn, lstm, encoder, attender, gan),
)
