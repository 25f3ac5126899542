"""What a published fault is, the data they learn from, and small nets to build them with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from planted.training import Training
from torch import Tensor, nn

Draw = Callable[[], tuple[Tensor, Tensor]]
Make = Callable[[bool], Training]


@dataclass(frozen=True)
class Fault:
    """A training that somebody had trouble with, and what the trouble was."""

    name: str
    number: int
    """Place in the list: even ones may be tuned on."""
    source: str
    cause: str
    also: tuple[str, ...]
    """Other names that a person would accept."""
    advice: str
    """Why no edit can mend it, only its author; empty where one can."""
    family: str
    make: Make
    """Sick or not -> the training, its weights from torch's generator, its data always alike."""

    @property
    def split(self) -> str:
        """Which half it is in."""
        return "report" if self.number % 2 else "fit"


FAULTS: dict[str, Fault] = {}


def fault(source: str, cause: str, *also: str, advice: str = "") -> Callable[[Make], Make]:
    """Put a fault into the list, by the name of its function."""

    def add(make: Make) -> Make:
        name = make.__name__.replace("_", "-")
        if name in FAULTS:
            raise ValueError(f"two faults are called {name}")
        family = make.__module__.rpartition(".")[2]
        FAULTS[name] = Fault(name, len(FAULTS), source, cause, also, advice, family, make)
        return make

    return add


# ---- data, the same for every seed of the weights


def stream(seed: int) -> torch.Generator:
    """Numbers of their own."""
    return torch.Generator().manual_seed(seed)


def blobs(classes: int = 3, features: int = 2, batch: int = 32) -> Draw:
    """Gaussian heaps, as AutoTrainer's Blob."""
    draw = stream(1)
    centres = 2.5 * torch.randn(classes, features, generator=draw)

    def batches() -> tuple[Tensor, Tensor]:
        y = torch.randint(classes, (batch,), generator=draw)
        return centres[y] + 0.8 * torch.randn(batch, features, generator=draw), y

    return batches


def circles(batch: int = 32) -> Draw:
    """A ring in a ring, as AutoTrainer's Circle; labels 0.0 and 1.0, [batch, 1]."""
    draw = stream(2)

    def batches() -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (batch,), generator=draw)
        angle = 6.2832 * torch.rand(batch, generator=draw)
        radius = 1.4 - 0.9 * y + 0.1 * torch.randn(batch, generator=draw)
        x = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
        return x, y.float()[:, None]

    return batches


def exclusive_or(batch: int = 16) -> Draw:
    """The four corners, a little blurred; labels [batch, 1]."""
    draw = stream(3)

    def batches() -> tuple[Tensor, Tensor]:
        corner = torch.randint(2, (batch, 2), generator=draw)
        x = corner + 0.05 * torch.randn(batch, 2, generator=draw)
        return x, (corner.sum(1) % 2).float()[:, None]

    return batches


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from gradmend.zoo.digits import load_digits

    x, y = load_digits().train
    x = nn.functional.avg_pool2d(x.view(-1, 1, 28, 28), 2)
    return (x - x.mean()) / x.std(), y


def digits(batch: int = 32, flat: bool = True) -> Draw:
    """Handwritten digits of 14 by 14 pixels, mean zero, deviation one."""
    draw = stream(4)
    x, y = _digits()

    def batches() -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (batch,), generator=draw)
        return (x[rows].flatten(1) if flat else x[rows]), y[rows]

    return batches


def pictures(classes: int = 5, batch: int = 16, size: int = 10) -> Draw:
    """Coloured patterns under noise, in the place of CIFAR-10."""
    draw = stream(5)
    patterns = torch.randn(classes, 3, size // 2, size // 2, generator=draw)
    patterns = nn.functional.interpolate(patterns, scale_factor=2)

    def batches() -> tuple[Tensor, Tensor]:
        y = torch.randint(classes, (batch,), generator=draw)
        return 0.7 * patterns[y] + 0.7 * torch.randn(batch, 3, size, size, generator=draw), y

    return batches


def houses(features: int = 8, batch: int = 32) -> Draw:
    """A bent function of table rows, mean about zero, spread about one, [batch, 1]."""
    draw = stream(6)
    slope = torch.randn(features, generator=draw) / features**0.5

    def batches() -> tuple[Tensor, Tensor]:
        x = torch.randn(batch, features, generator=draw)
        y = x @ slope + 0.5 * torch.sin(2 * x[:, 0]) + 0.1 * torch.randn(batch, generator=draw)
        return x, y[:, None]

    return batches


def recall(length: int, classes: int = 4, features: int = 5, batch: int = 32) -> Draw:
    """The first steps show a class, noise follows: what was it?"""
    draw = stream(7)
    centres = 2.0 * torch.randn(classes, features, generator=draw)

    def batches() -> tuple[Tensor, Tensor]:
        y = torch.randint(classes, (batch,), generator=draw)
        x = 0.3 * torch.randn(batch, length, features, generator=draw)
        x[:, :3] += centres[y][:, None]
        return x, y

    return batches


def waves(length: int = 20, batch: int = 32) -> Draw:
    """A noisy sine, [batch, length, 1], and its next value."""
    draw = stream(8)

    def batches() -> tuple[Tensor, Tensor]:
        phase = 6.2832 * torch.rand(batch, 1, generator=draw)
        pace = 0.2 + 0.3 * torch.rand(batch, 1, generator=draw)
        t = torch.arange(length + 1)
        values = torch.sin(phase + pace * t)
        x = values[:, :-1] + 0.05 * torch.randn(batch, length, generator=draw)
        return x[:, :, None], values[:, -1:]

    return batches


def changed(draw: Draw, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Draw:
    """Every batch changed."""
    return lambda: change(*draw())


# ---- nets


def mlp(
    sizes: list[int],
    act: Callable[[], nn.Module] = nn.ReLU,
    end: nn.Module | None = None,
) -> nn.Sequential:
    """Linear layers with an activation between, and perhaps something at the end."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [act()] if number else []
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers, *([end] if end is not None else []))


def weights(model: nn.Module) -> list[nn.Module]:
    """Linear and convolutional layers in order."""
    return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def drawn(model: nn.Module, how: Callable[[Tensor], object], last: bool = True) -> nn.Module:
    """Weights by a function of ``torch.nn.init``, biases zero; without the output if told so."""
    layers = weights(model)
    for layer in layers if last else layers[:-1]:
        how(layer.weight)  # type: ignore[arg-type]
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model


def he(weight: Tensor) -> object:
    """He's uniform initialisation, for rectifiers."""
    return nn.init.kaiming_uniform_(weight, nonlinearity="relu")


class Exponential(nn.Module):
    """Keras's ``exponential``."""

    def forward(self, x: Tensor) -> Tensor:
        """e^x."""
        return x.exp()
