"""Trainings whose optimizer is at fault: rates, eps, decay, what it holds, single bad batches."""

from collections.abc import Callable
from typing import Any

import torch
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

Make = Callable[[list[nn.Parameter]], Optimizer]


def perceptron(depth: int = 2, width: int = 32, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Linear(width if at else 16, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def drawn(seed: int, batches: int = 20, size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Batches of four classes, told apart by a random network."""
    generator = torch.Generator().manual_seed(1000 + seed)
    first, second = (
        torch.randn(shape, generator=generator) * scale
        for shape, scale in (((16, 24), 0.4), ((24, 4), 1.0))
    )
    x = torch.randn(batches * size, 16, generator=generator)
    y = (torch.tanh(x @ first) @ second).argmax(1)
    return list(zip(x.split(size), y.split(size), strict=True))


def classifier(
    seed: int,
    make: Make,
    model: Callable[[], nn.Module] = perceptron,
    change: Callable[[nn.Module], Any] = lambda model: None,
    held: Callable[[nn.Module], list[nn.Parameter]] = lambda model: list(model.parameters()),
    loss_fn: Callable[..., Tensor] = F.cross_entropy,
) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = model()
        change(built)
    return Subject(built, drawn(seed), loss_fn, make(held(built)))


class Repeats(nn.Module):
    """A rectified recurrent net whose recurrent weights are too large."""

    def __init__(self, gain: float, width: int = 24) -> None:
        super().__init__()
        self.cell = nn.RNN(2, width, nonlinearity="relu", batch_first=True)
        nn.init.orthogonal_(self.cell.weight_hh_l0, gain)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cell(x.reshape(len(x), 8, 2).repeat(1, 3, 1))[0][:, -1])
        return logits


def smallest(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss in units that make every gradient tiny."""
    return F.cross_entropy(outputs, targets) * 1e-4


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum")


def outliers(seed: int, every: int = 7) -> Subject:
    """Regression by plain descent in which one batch of a few has targets 100 times too large."""
    generator = torch.Generator().manual_seed(2000 + seed)
    slope = torch.randn(16, 1, generator=generator)
    batches = []
    for number in range(20):
        x = torch.randn(64, 16, generator=generator)
        y = x @ slope * (100.0 if number % every == every - 1 else 1.0)
        batches.append((x, y))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    return Subject(model, batches, F.mse_loss, SGD(model.parameters(), lr=0.02))


class Stutters(nn.Module):
    """Hands its input on, many times as large at every tenth call of a training."""

    def __init__(self, times: float = 30.0) -> None:
        super().__init__()
        self.times = times
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.calls += 1
        return x * self.times if int(self.calls) % 10 == 0 else x


def stuttering() -> nn.Module:
    """Rare steps of a large gradient, in layers whose gradients differ by decades."""
    model = nn.Sequential(*perceptron(3, 32, nn.Tanh), Stutters())
    with torch.no_grad():
        list(model.children())[-2].weight.mul_(1e-3)
    return model


def halved(seed: int) -> Subject:
    """Everything in float16, and a loss so small that its gradients round to zero."""
    made = classifier(seed, lambda p: SGD(p, lr=0.1))
    made.model.half()
    return Subject(
        made.model,
        [(x.half(), y) for x, y in made.batches],
        lambda outputs, targets: F.cross_entropy(outputs.float(), targets) * 1e-4,
        Adam(made.model.parameters(), lr=1e-3, eps=1e-4),
    )


def freeze_body(model: nn.Module) -> None:
    for module in list(model)[:-1]:
        module.requires_grad_(False)


def shrink(model: nn.Module) -> None:
    """Weights so small that the gradient loses decades, and the signal keeps some digits."""
    for module in list(model)[:-1]:
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            with torch.no_grad():
                module.weight.mul_(0.3)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "rate x 1000, SGD": lambda s: classifier(s, lambda p: SGD(p, lr=100.0)),
    "rate x 1000, Adam": lambda s: classifier(s, lambda p: Adam(p, lr=1.0)),
    "rate x 30, momentum": lambda s: classifier(s, lambda p: SGD(p, lr=1.5, momentum=0.9)),
    "deep at a shallow rate": lambda s: classifier(
        s, lambda p: Adam(p, lr=1e-2), lambda: isometric(40)
    ),
    "rate x 1e-4, Adam": lambda s: classifier(s, lambda p: Adam(p, lr=1e-7)),
    "rate x 1e-5, SGD": lambda s: classifier(s, lambda p: SGD(p, lr=1e-6)),
    "rate of zero": lambda s: classifier(s, lambda p: AdamW(p, lr=0.0)),
    "summed loss": lambda s: classifier(s, lambda p: SGD(p, lr=0.5), loss_fn=summed),
    "large eps": lambda s: classifier(s, lambda p: Adam(p, lr=1e-3, eps=1e-2), loss_fn=smallest),
    "head missing": lambda s: classifier(
        s, lambda p: Adam(p, lr=1e-3), held=lambda m: list(m.parameters())[:-2]
    ),
    "body missing": lambda s: classifier(
        s,
        lambda p: Adam(p, lr=1e-3),
        held=lambda m: list(m.parameters())[-2:],
        model=lambda: perceptron(6, 32, nn.Tanh),
    ),
    "body frozen": lambda s: classifier(
        s, lambda p: Adam(p, lr=3e-3), change=freeze_body, model=lambda: perceptron(6, 16, nn.Tanh)
    ),
    "decay of 10": lambda s: classifier(s, lambda p: Adam(p, lr=1e-2, weight_decay=10.0)),
    "decay of 2, SGD": lambda s: classifier(s, lambda p: SGD(p, lr=0.05, weight_decay=2.0)),
    "exploding through time": lambda s: classifier(
        s, lambda p: SGD(p, lr=0.05), lambda: Repeats(2.0)
    ),
    "small weights, SGD": lambda s: classifier(
        s, lambda p: SGD(p, lr=0.3), lambda: perceptron(4, 32, nn.Tanh), change=shrink
    ),
    "outlier batches": outliers,
    "rare spikes": lambda s: classifier(s, lambda p: SGD(p, lr=0.02), stuttering),
    "half precision": halved,
}


def isometric(depth: int, width: int = 32) -> nn.Module:
    """Orthogonal tanh layers, sound before the first step."""
    model = perceptron(depth, width, nn.Tanh)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, 1.05)
            nn.init.zeros_(module.bias)
    return model
