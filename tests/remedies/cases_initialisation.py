"""Trainings whose weights were drawn badly: all of them, one layer, or some units."""

from collections.abc import Callable

import torch
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam


def vectors(seed: int, batches: int = 8, size: int = 48) -> list[tuple[Tensor, Tensor]]:
    """Four classes, told apart by a random network."""
    generator = torch.Generator().manual_seed(2000 + seed)
    first = torch.randn(12, 16, generator=generator) * 0.5
    second = torch.randn(16, 4, generator=generator)
    x = torch.randn(batches * size, 12, generator=generator)
    y = (torch.tanh(x @ first) @ second).argmax(1)
    return list(zip(x.split(size), y.split(size), strict=True))


def pictures(seed: int, batches: int = 4, size: int = 24) -> list[tuple[Tensor, Tensor]]:
    """Three classes of pictures, each a pattern in noise."""
    generator = torch.Generator().manual_seed(3000 + seed)
    patterns = torch.randn(3, 2, 8, 8, generator=generator)
    y = torch.randint(3, (batches * size,), generator=generator)
    x = patterns[y] + torch.randn(batches * size, 2, 8, 8, generator=generator)
    return list(zip(x.split(size), y.split(size), strict=True))


def curves(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Vectors of which a smooth function is to be learned."""
    return [(x, torch.sin(x[:, :1]) + 0.5 * x[:, 1:2]) for x, _ in vectors(seed)]


def mlp(
    depth: int, act: type[nn.Module], outputs: int = 4, width: int = 32, *, he: bool = False
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Linear(width if at else 12, width), act()]
        if he:
            nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def convolutions(depth: int, act: type[nn.Module], width: int = 8) -> nn.Sequential:
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Conv2d(width if at else 2, width, 3, padding=1), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


class Residual(nn.Module):
    """Residual blocks of two convolutions, without norm."""

    def __init__(self, blocks: int = 4, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.head = nn.Linear(width, 3)
        for layer in (*self.inner, *self.outer):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            h = h + outer(F.relu(inner(h)))
        logits: Tensor = self.head(h.mean((2, 3)))
        return logits


def scale(model: nn.Module, path: str, factor: float) -> None:
    """A layer's weight and bias, times a factor."""
    with torch.no_grad():
        for parameter in model.get_submodule(path).parameters():
            parameter.mul_(factor)


def training(
    build: Callable[[], nn.Module],
    fault: Callable[[nn.Module], object],
    data: Callable[[int], list[tuple[Tensor, Tensor]]] = vectors,
    loss_fn: Callable[..., Tensor] = F.cross_entropy,
) -> Callable[[int], Subject]:
    """A builder of subjects: the model, what was done to it, its data."""

    def subject(seed: int) -> Subject:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build()
            fault(model)
        return Subject(model, data(seed), loss_fn, Adam(model.parameters(), lr=2e-3))

    return subject


@torch.no_grad()
def every_weight(model: nn.Module, fill: Callable[[Tensor], object]) -> None:
    """Do something to every matrix and kernel, and set biases to zero."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            fill(parameter)
        else:
            parameter.zero_()


def checkpoint(seed: int) -> Subject:
    """A trained network two of whose layers were rescaled against each other."""
    made = training(lambda: mlp(4, nn.ReLU, he=True), lambda model: None)(seed)
    optimizer = SGD(made.model.parameters(), lr=0.01, momentum=0.9)
    for x, y in made.batches:
        optimizer.zero_grad()
        F.cross_entropy(made.model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        made.model[2].weight.mul_(1e-4)
        made.model[2].bias.mul_(1e-4)
        made.model[4].weight.mul_(1e4)
    return Subject(made.model, made.batches, made.loss_fn, optimizer)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "all zero": training(
        lambda: mlp(4, nn.ReLU), lambda m: every_weight(m, lambda p: p.zero_())
    ),
    "equal units, a regression": training(
        lambda: mlp(2, nn.Tanh, outputs=1), lambda m: every_weight(m, lambda p: p.fill_(0.05)),
        curves, F.mse_loss,
    ),
    "one layer of residuals, a hundredfold": training(
        Residual, lambda m: scale(m, "inner.1", 100.0), pictures
    ),
    "one layer before tanh fiftyfold": training(
        lambda: mlp(8, nn.Tanh),
        lambda m: (every_weight(m, nn.init.xavier_normal_), scale(m, "6", 50.0)),
    ),
    "one layer ten thousandth": training(
        lambda: mlp(6, nn.ReLU, he=True), lambda m: scale(m, "4", 1e-4)
    ),
    "dead convolutions": training(
        lambda: convolutions(3, nn.ReLU), lambda m: nn.init.constant_(m[2].bias, -40.0), pictures
    ),
    "small weights before tanh, convolutions": training(
        lambda: convolutions(22, nn.Tanh),
        lambda m: every_weight(m, lambda p: p.normal_(0.0, 0.02)), pictures,
    ),
    "small weights before SELU": training(
        lambda: mlp(12, nn.SELU), lambda m: every_weight(m, lambda p: p.normal_(0.0, 0.03))
    ),
    "a stack of linear maps": training(
        lambda: mlp(16, nn.Identity), lambda m: every_weight(m, lambda p: p.normal_(0.0, 0.05))
    ),
    "a checkpoint, rescaled": checkpoint,
}  # fmt: skip
