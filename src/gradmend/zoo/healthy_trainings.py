"""Trainings that go well, among them those that look ill to a careless eye.

Several become ill by an argument (a rate, a schedule); the default is healthy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.optim import Optimizer

from gradmend.zoo.training import Training, training

Batch = tuple[Tensor, Tensor]


def generator(seed: int = 7) -> torch.Generator:
    """A training's own source of random numbers."""
    return torch.Generator().manual_seed(seed)


def draws(seed: int | None = None) -> torch.Generator:
    """A source seeded by the zoo's seed, so that each seed has data of its own."""
    return generator(int(torch.randint(2**31, ()).item()) if seed is None else seed)


def clusters(
    source: torch.Generator, batch: int = 32, width: int = 16, classes: int = 4
) -> Callable[[], Batch]:
    """Noisy points about a centre for each class, [batch, width] and [batch]."""
    centres = torch.randn(classes, width, generator=source)

    def draw() -> Batch:
        y = torch.randint(classes, (batch,), generator=source)
        return centres[y] + 0.5 * torch.randn(batch, width, generator=source), y

    return draw


def make_optimizer(name: str, model: nn.Module, rate: float) -> Optimizer:
    """``SGD``, ``momentum``, ``Adam`` or ``AdamW`` over a model's trainable parameters."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    if name == "momentum":
        return torch.optim.SGD(wanted, lr=rate, momentum=0.9)
    optimizer: Optimizer = getattr(torch.optim, name)(wanted, lr=rate)
    return optimizer


def classify(
    model: nn.Module, optimizer: Optimizer, draw: Callable[[], Batch]
) -> Callable[[int], None]:
    """The step that most people write."""

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = draw()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def stack(depth: int = 3, width: int = 32, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """``depth`` hidden layers between 16 features and 4 classes."""
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Linear(16 if at == 0 else width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


@training
def perceptron(optimizer: str = "momentum", rate: float | None = None) -> Training:
    """A small perceptron on clusters, under any optimizer."""
    model = stack()
    usual = {"SGD": 0.1, "momentum": 0.05, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 1e-3}
    made = make_optimizer(optimizer, model, usual[optimizer] if rate is None else rate)
    return Training(model, made, classify(model, made, clusters(draws())), 150)


@training
def convolutions(steps: int = 80) -> Training:
    """Convolutions with batch norm; their biases have no gradient, and that is right."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip
    source = draws()
    patterns = torch.randn(4, 1, 8, 8, generator=source)

    def draw() -> Batch:
        y = torch.randint(4, (16,), generator=source)
        return patterns[y] + 0.5 * torch.randn(16, 1, 8, 8, generator=source), y

    optimizer = make_optimizer("momentum", model, 0.05)
    return Training(model, optimizer, classify(model, optimizer, draw), steps)


@training
def schedule(kind: str = "cosine", steps: int = 160) -> Training:
    """A rate that warms up from zero, or ends at zero; or a schedule far shorter than the run."""
    model = stack()
    optimizer = make_optimizer("AdamW", model, 3e-3)
    shapes: dict[str, Callable[[int], float]] = {
        "cosine": lambda t: min(1.0, t / 20) * 0.5 * (1 + math.cos(math.pi * t / steps)),
        "linear": lambda t: max(0.0, 1 - t / (0.8 * steps)),
        "warm-up": lambda t: min(1.0, t / (0.6 * steps)),
        "too short": lambda t: max(0.0, 1 - t / (0.1 * steps)),
    }
    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, shapes[kind])
    inner = classify(model, optimizer, clusters(draws()))

    def step(number: int) -> None:
        inner(number)
        plan.step()

    return Training(model, optimizer, step, steps)


@training
def converged(steps: int = 250) -> Training:
    """A few points learned by heart: loss and gradient go to zero, a sigmoid's end is flat."""
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
    source = draws()
    x, y = torch.randn(16, 8, generator=source), torch.randint(2, (16, 1), generator=source).float()
    optimizer = make_optimizer("Adam", model, 0.02)

    def step(number: int) -> None:
        del number  # unused: the same points at every step
        optimizer.zero_grad()
        F.binary_cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def line_fit(reduction: str = "mean", second_order: bool = False) -> Training:
    """A line through noise, its loss a mean or a sum; or by LBFGS, with a closure."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    source = draws()
    slope = torch.randn(8, 1, generator=source)
    x = torch.randn(64, 8, generator=source)
    y = x @ slope + 0.1 * torch.randn(64, 1, generator=source)
    optimizer: Optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    if not second_order:
        optimizer = make_optimizer("SGD", model, 0.05 if reduction == "mean" else 0.05 / 64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y, reduction=reduction)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def step(number: int) -> None:
        del number  # unused: the same points at every step
        if second_order:
            optimizer.step(lambda: float(closure().detach()))
        else:
            closure()
            optimizer.step()

    return Training(model, optimizer, step, 40 if second_order else 150)


@training
def noisy_rewards(steps: int = 150) -> Training:
    """Policy gradient on a bandit: a loss of both signs that is noise and means nothing."""
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3))
    source = draws()
    best = torch.randn(4, 3, generator=source)
    optimizer = make_optimizer("Adam", model, 3e-3)

    def step(number: int) -> None:
        del number  # unused: states are drawn
        state = torch.randn(16, 4, generator=source)
        scores = model(state).log_softmax(-1)
        taken = torch.multinomial(scores.detach().exp(), 1, generator=source)
        reward = (state @ best).gather(1, taken) + torch.randn(16, 1, generator=source)
        optimizer.zero_grad()
        (-(reward - reward.mean()) * scores.gather(1, taken)).mean().backward()
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def low_rank_adapter(steps: int = 80) -> Training:
    """A frozen perceptron with low-rank adapters whose second factor begins at zero."""
    model = stack(depth=2)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for at in (0, 2):
        frozen = model[at]
        assert isinstance(frozen, nn.Linear)
        model[at] = _Adapted(frozen, rank=4)
    optimizer = make_optimizer("AdamW", model, 5e-3)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


class _Adapted(nn.Module):
    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features) / math.sqrt(rank))
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.frozen(x) + x @ self.down.T @ self.up.T
        return changed


@training
def rezero(depth: int = 8, steps: int = 120) -> Training:
    """Residual branches that begin at zero, so that their weights have no gradient at first."""
    model = nn.Sequential(nn.Linear(16, 32), *(_Branch(32) for _ in range(depth)), nn.Linear(32, 4))
    optimizer = make_optimizer("SGD", model, 0.05)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


class _Branch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.outer(self.inner(x).relu())
        return added


@training
def rare_embedding(steps: int = 100) -> Training:
    """A table of which each batch uses a few rows, under Adam."""
    table = nn.Embedding(2000, 16)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(4 * 16, 32), nn.ReLU(), nn.Linear(32, 4))
    source = draws()
    sort = torch.randint(4, (2000,), generator=source)

    def draw() -> Batch:
        words = (2000 * torch.rand(32, 4, generator=source) ** 3).long()  # a few are frequent
        return words, sort[words[:, 0]]

    optimizer = make_optimizer("Adam", model, 3e-3)
    return Training(model, optimizer, classify(model, optimizer, draw), steps)


@training
def frozen_backbone(steps: int = 100) -> Training:
    """The first layers frozen on purpose, a head that learns."""
    model = stack(depth=3)
    for parameter in model[:4].parameters():
        parameter.requires_grad_(False)
    optimizer = make_optimizer("SGD", model, 0.1)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


@training
def unused_head(steps: int = 120) -> Training:
    """Two heads of which one is never used, and fades under weight decay."""
    right = nn.Linear(32, 4)
    nn.init.normal_(right.weight, std=0.02)
    model = nn.ModuleDict({"body": nn.Linear(16, 32), "left": nn.Linear(32, 4), "right": right})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3)
    draw = clusters(draws())

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = draw()
        optimizer.zero_grad()
        hidden = model["body"](x).relu()
        loss = F.cross_entropy(model["left"](hidden), y) + 0.0 * model["right"](hidden).sum()
        loss.backward()
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def variational(steps: int = 120) -> Training:
    """An autoencoder with a reparametrised middle and a divergence in its loss."""
    encoder, decoder = (
        nn.Linear(16, 8),
        nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16)),
    )
    model = nn.ModuleList([encoder, decoder])
    source = draws()
    draw = clusters(source)
    optimizer = make_optimizer("Adam", model, 3e-3)

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, _ = draw()
        mean, log_variance = encoder(x).chunk(2, -1)
        noise = torch.randn(mean.shape, generator=source)
        code = mean + noise * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        optimizer.zero_grad()
        (F.mse_loss(decoder(code), x) + 0.01 * divergence).backward()
        optimizer.step()

    return Training(model, optimizer, step, steps)
