"""Beginnings and topologies at fault, each healthy by another argument."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from gradmend.zoo.healthy_trainings import classify, clusters, draws, make_optimizer
from gradmend.zoo.networks import ACTIVATIONS, blobs, pictures, sentences
from gradmend.zoo.specimen import Specimen, specimen
from gradmend.zoo.training import Training, training


class Begun(nn.Module):
    """A classifier whose owner has written its initialisation by hand."""

    def __init__(
        self, depth: int, width: int, activation: str, features: int, classes: int,
        dropout: float, convolutional: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.convolutional = convolutional
        first = 3 if convolutional else features
        sizes = [first, *[width] * depth]
        self.hidden = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) if convolutional else nn.Linear(a, b)
            for a, b in itertools.pairwise(sizes)
        )
        self.act = ACTIVATIONS[activation]()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        for layer in self.hidden:
            x = self.drop(self.act(layer(x)))
        logits: Tensor = self.head(x.mean((2, 3)) if self.convolutional else x)
        return logits


def begin(model: Begun, init: str) -> None:
    """Set weights as a user's ``init_weights`` does: all, one hidden layer's, or the head's."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    chosen = {
        "zeros": layers,
        "constant": layers,
        "zero layer": layers[1:2],
        "constant layer": layers[:1],
        "zero head": layers[-1:],
        "default": [],
    }[init]
    for layer in chosen:
        nn.init.constant_(layer.weight, 0.0 if init.startswith("zero") else 0.05)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@specimen
def begun(
    init: str = "default", depth: int = 3, width: int = 32, activation: str = "relu",
    dropout: float = 0.0, convolutional: bool = False,
) -> Specimen:  # fmt: skip
    """Weights set by hand: ``zeros``, ``constant``, ``constant layer``, ``zero layer`` or head."""
    model = Begun(depth, width, activation, 16, 5, dropout, convolutional)
    begin(model, init)
    return Specimen(model, pictures(5) if convolutional else blobs(16, 5), F.cross_entropy)


class Adapted(nn.Module):
    """A linear map with a low-rank addition, as functions of bare parameters."""

    def __init__(self, width: int, rank: int, zero: str) -> None:
        super().__init__()
        self.base = nn.Linear(width, width)
        for parameter in self.base.parameters():
            parameter.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, width) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(width, rank))
        if zero == "both":
            nn.init.zeros_(self.down)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] to [B, width]."""
        result: Tensor = self.base(x) + F.linear(F.linear(x, self.down), self.up)
        return result


@specimen
def adapter(zero: str = "second", width: int = 24, rank: int = 4, layers: int = 2) -> Specimen:
    """Low-rank adapters of which one factor (``second``), or ``both``, begin at zero."""
    body: list[nn.Module] = []
    for _ in range(layers):
        body += [Adapted(width, rank, zero), nn.ReLU()]
    model = nn.Sequential(*body, nn.Linear(width, 5))
    return Specimen(model, blobs(width, 5), F.cross_entropy)


class Branch(nn.Module):
    """x + f(x), without or with a norm, with any of the usual cures."""

    def __init__(
        self, width: int, activation: str, init: str, norm: str | None, scale: float,
        convolutional: bool, depth: int,
    ) -> None:  # fmt: skip
        super().__init__()
        make = (
            (lambda: nn.Conv2d(width, width, 3, padding=1, bias=False))
            if convolutional
            else (lambda: nn.Linear(width, width, bias=False))
        )
        norms: dict[str | None, type[nn.Module]] = {
            None: nn.Identity,
            "layer": nn.LayerNorm,
            "batch": nn.BatchNorm2d if convolutional else nn.BatchNorm1d,
        }
        self.norm = norms[norm](width) if norm else nn.Identity()
        self.inner, self.act, self.outer = make(), ACTIVATIONS[activation](), make()
        self.scale: nn.Parameter | float = scale
        gain = math.sqrt(2.0) if activation == "relu" else 1.0
        for layer in (self.inner, self.outer):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
        if init == "fixup":
            with torch.no_grad():
                self.inner.weight.mul_(depth**-0.5)
            nn.init.zeros_(self.outer.weight)
        elif init == "rezero":
            self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """The stream and what is added to it."""
        result: Tensor = x + self.scale * self.outer(self.act(self.inner(self.norm(x))))
        return result


@specimen
def residual_stack(
    depth: int = 16, width: int = 48, activation: str = "relu", init: str = "he",
    norm: str | None = None, scale: float = 1.0, convolutional: bool = False,
) -> Specimen:  # fmt: skip
    """Residual blocks whose branches keep the scale of what they read; cures by argument.

    ``init`` is ``he``, ``fixup`` (branches and head begin at zero) or ``rezero``; ``norm`` is
    ``layer`` or ``batch``; ``scale`` multiplies every branch.
    """
    width = 12 if convolutional else width
    stem: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1) if convolutional else nn.Linear(16, width)
    ]
    blocks = [
        Branch(width, activation, init, norm, scale, convolutional, depth) for _ in range(depth)
    ]
    pool: list[nn.Module] = (
        [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if convolutional else [nn.Identity()]
    )
    head = nn.Linear(width, 5)
    if init == "fixup":
        nn.init.zeros_(head.weight)
    model = nn.Sequential(*stem, *blocks, *pool, head)
    return Specimen(model, pictures(5) if convolutional else blobs(16, 5), F.cross_entropy)


class HandmadeLayer(nn.Module):
    """A transformer layer written out, its norms behind the sums or in the branches."""

    def __init__(self, width: int, norm_first: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.norm_first = norm_first

    def attend(self, x: Tensor) -> Tensor:
        """Attention with one head."""
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))

    def feed(self, x: Tensor) -> Tensor:
        """Two layers for each position."""
        result: Tensor = self.down(F.gelu(self.up(x)))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, width] to the same."""
        first, second = self.norms
        if self.norm_first:
            x = x + self.attend(first(x))
            return x + self.feed(second(x))
        x = first(x + self.attend(x))
        result: Tensor = second(x + self.feed(x))
        return result


class Encoder(nn.Module):
    """Embedded tokens through a stack of layers, read out as their mean."""

    def __init__(self, layers: int, width: int, norm_first: bool, handmade: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.layers = nn.ModuleList(
            HandmadeLayer(width, norm_first)
            if handmade
            else nn.TransformerEncoderLayer(
                width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 5] of tokens [B, L]."""
        h = self.tokens(x)
        for layer in self.layers:
            h = layer(h)
        logits: Tensor = self.head(self.norm(h).mean(1))
        return logits


@specimen
def encoder(
    layers: int = 12, width: int = 32, norm_first: bool = False, handmade: bool = False,
    steps: int = 0, rate: float = 1e-3,
) -> Specimen:  # fmt: skip
    """A transformer encoder, fresh or after ``steps`` of Adam at ``rate`` without warm-up."""
    model = Encoder(layers, width, norm_first, handmade)
    data = sentences(5, length=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for number in range(steps):
        x, y = data[number % len(data)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    return Specimen(model, data, F.cross_entropy)


class Regressor(nn.Module):
    """A regression whose output may pass an activation."""

    def __init__(self, output: str, offset: float, handmade: bool, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, outputs)
        nn.init.constant_(self.last.bias, offset)
        self.out = ACTIVATIONS[output]() if output != "none" else nn.Identity()
        self.handmade = handmade

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs]."""
        x = F.relu(self.first(x))
        result: Tensor = F.relu(self.last(x)) if self.handmade else self.out(self.last(x))
        return result


def _regression(targets: str, source: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 16, generator=source)
    y = x[:, :1] + 0.5 * x[:, 1:2]
    return x, y.abs() if targets == "positive" else y


@specimen
def regressor(
    output: str = "none", offset: float = 0.0, handmade: bool = False, targets: str = "any",
    outputs: int = 1,
) -> Specimen:  # fmt: skip
    """A regression with an activation behind its last layer; ``offset`` is that layer's bias."""
    model = Regressor(output, offset, handmade, outputs)
    data = [_regression(targets) for _ in range(4)]
    return Specimen(model, [(x, y.expand(-1, outputs)) for x, y in data], F.mse_loss)


@specimen
def rectified_logits(pooled: bool = False, classes: int = 5) -> Specimen:
    """A classifier whose logits pass a ReLU; ``pooled`` averages them afterwards, as SqueezeNet."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    if pooled:
        layers += [nn.Conv2d(16, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    else:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes), nn.ReLU()]
    return Specimen(nn.Sequential(*layers), pictures(classes), F.cross_entropy)


# -- trainings


@training
def begun_training(init: str = "default", activation: str = "relu", steps: int = 60) -> Training:
    """The same weights set by hand, in training."""
    model = Begun(3, 32, activation, 16, 4, 0.0, False)
    begin(model, init)
    optimizer = make_optimizer("Adam", model, 3e-3)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


@training
def fixup(depth: int = 6, steps: int = 60) -> Training:
    """Residual branches and a head that all begin at zero: they move one after the other."""
    blocks = [Branch(32, "relu", "fixup", None, 1.0, False, depth) for _ in range(depth)]
    head = nn.Linear(32, 4)
    nn.init.zeros_(head.weight)
    model = nn.Sequential(nn.Linear(16, 32), *blocks, head)
    optimizer = make_optimizer("Adam", model, 3e-3)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


@training
def bounded_regression(
    output: str = "none", offset: float = 0.0, targets: str = "any", steps: int = 80
) -> Training:
    """A regression in training, with an activation behind its last layer."""
    model = Regressor(output, offset, False, 1)
    optimizer = make_optimizer("Adam", model, 3e-3)
    source = draws()

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = _regression(targets, source)
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps)
