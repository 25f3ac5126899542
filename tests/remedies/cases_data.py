"""Trainings whose data are at fault: scale, wild and missing entries, rare classes."""

from collections.abc import Callable

import torch
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

SIZE, BATCHES = 64, 6


def perceptron(seed: int, outputs: int, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(12, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, outputs)
        )


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Inputs [N, 12], numbers [N, 1] and classes [N] made of them."""
    generator = torch.Generator().manual_seed(500 + seed)
    x = torch.randn(SIZE * BATCHES, 12, generator=generator)
    numbers = 2 * x[:, :1] + 3 * torch.sin(x[:, 1:2]) + x[:, 2:3] * x[:, 3:4]
    classes = (x @ torch.randn(12, 5, generator=generator)).argmax(1)
    return x, numbers, classes, generator


def cut(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(SIZE), y.split(SIZE), strict=True))


def far_targets(rate: float | None, loss_fn: Callable[..., Tensor]) -> Callable[[int], Subject]:
    def build(seed: int) -> Subject:
        x, y, _, _ = drawn(seed)
        model = perceptron(seed, 1)
        known = model.parameters()
        optimizer = Adam(known, 1e-3) if rate is None else SGD(known, rate)
        return Subject(model, cut(x, 1e3 * y + 5e3), loss_fn, optimizer)

    return build


def gaps(where: str) -> Callable[[int], Subject]:
    def build(seed: int) -> Subject:
        x, y, classes, _ = drawn(seed)
        if where != "targets":
            x[::7, 3] = torch.nan
        if where == "inputs":
            model = perceptron(seed, 5)
            return Subject(model, cut(x, classes), F.cross_entropy, Adam(model.parameters(), 1e-3))
        y[::9] = torch.nan
        model = perceptron(seed, 1)
        return Subject(model, cut(x, y), F.mse_loss, Adam(model.parameters(), 1e-3))

    return build


def scaled(how: str) -> Callable[[int], Subject]:
    def build(seed: int) -> Subject:
        x, _, classes, generator = drawn(seed)
        if how == "apart":
            x = x * torch.logspace(-2, 4, 12)
        elif how == "pixels":
            x = x * 60 + 128
        else:
            x = torch.where(torch.rand(x.shape, generator=generator) < 0.01, 1e4, x)
        model = perceptron(seed, 5)
        optimizer = Adam(model.parameters(), 1e-3)
        return Subject(model, cut(x, classes), F.cross_entropy, optimizer)

    return build


def trained_on_pixels(seed: int) -> Subject:
    """A checkpoint: its optimizer has taken steps."""
    subject = scaled("pixels")(seed)
    for x, y in subject.batches[:2]:
        subject.optimizer.zero_grad()
        subject.loss_fn(subject.model(x), y).backward()
        subject.optimizer.step()
    return subject


def images(seed: int) -> Subject:
    """Three channels of different scales, in bytes."""
    generator = torch.Generator().manual_seed(500 + seed)
    x = (
        torch.randn(SIZE, 3, 8, 8, generator=generator)
        * torch.tensor([4.0, 40.0, 90.0]).view(3, 1, 1)
        + 120
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
        )
    y = torch.randint(4, (SIZE,), generator=generator)
    return Subject(model, [(x, y)], F.cross_entropy, Adam(model.parameters(), 1e-3))


def rare(seed: int) -> Subject:
    """One sample in thirty of the second class, at a rate too small to learn that soon."""
    x, numbers, _, _ = drawn(seed)
    y = (numbers[:, 0] > numbers[:, 0].quantile(0.97)).long()
    model = perceptron(seed, 2)
    return Subject(model, cut(x, y), F.cross_entropy, SGD(model.parameters(), 1e-6))


def loud(seed: int) -> Subject:
    """An output layer that is sure before it has learned anything."""
    x, _, classes, _ = drawn(seed)
    model = perceptron(seed, 5)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(6.0)
    return Subject(model, cut(x, classes), F.cross_entropy, SGD(model.parameters(), 0.1))


def alike(seed: int) -> Subject:
    """Inputs that a loader has lost."""
    x, _, classes, _ = drawn(seed)
    model = perceptron(seed, 5)
    optimizer = Adam(model.parameters(), 1e-3)
    return Subject(model, cut(torch.zeros_like(x), classes), F.cross_entropy, optimizer)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "targets in thousands, SGD": far_targets(0.05, F.mse_loss),
    "targets in thousands, Adam": far_targets(None, F.mse_loss),
    "targets in thousands, absolute error": far_targets(None, F.l1_loss),
    "gaps in the inputs": gaps("inputs"),
    "gaps in the targets": gaps("targets"),
    "gaps in both": gaps("both"),
    "features apart": scaled("apart"),
    "pixels": scaled("pixels"),
    "wild entries": scaled("wild"),
    "trained on pixels": trained_on_pixels,
    "channels apart": images,
    "a rare class": rare,
    "a loud output": loud,
    "inputs all alike": alike,
}
