"""Trainings that want another activation or another norm, beside the zoo's specimens."""

from collections.abc import Callable
from typing import Any

import torch
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F


def adam(model: nn.Module, batches: list[Any], rate: float = 1e-3) -> Subject:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    return Subject(model, batches, F.cross_entropy, optimizer)


def vectors(seed: int, size: int = 32, features: int = 16, classes: int = 4) -> list[Any]:
    """Noisy copies of one pattern for each class."""
    patterns = torch.randn(classes, features, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(4):
        y = torch.randint(classes, (size,), generator=generator)
        found.append((patterns[y] + 0.5 * torch.randn(size, features, generator=generator), y))
    return found


def pictures(seed: int, size: int = 32, side: int = 6, classes: int = 4) -> list[Any]:
    patterns = torch.randn(classes, 2, side, side, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(4):
        y = torch.randint(classes, (size,), generator=generator)
        noise = torch.randn(size, 2, side, side, generator=generator)
        found.append((patterns[y] + 0.5 * noise, y))
    return found


class Positions(nn.Module):
    """A deep perceptron at every position of a sequence, averaged at the end."""

    def __init__(self, depth: int, bias: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Linear(16 if number == 0 else 24, 24, bias=bias), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x).mean(dim=1))
        return result


def positions(seed: int, *, bias: bool) -> Subject:
    torch.manual_seed(seed)
    batches = [(x[:, None] + 0.3 * torch.randn(32, 5, 16), y) for x, y in vectors(seed)]
    return adam(Positions(12, bias), batches)


def convolutions(seed: int, *, activation: type[nn.Module], size: int, depth: int) -> Subject:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Conv2d(2 if number == 0 else 8, 8, 3, padding=1), activation()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))
    return adam(model, pictures(seed, size))


def dropout(seed: int) -> Subject:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(16, 48), nn.ReLU(), nn.Dropout(0.95), nn.Linear(48, 48), nn.ReLU(),
        nn.Dropout(0.9), nn.Linear(48, 4),
    )  # fmt: skip
    return adam(model, vectors(seed))


def evaluation(seed: int) -> Subject:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
    )
    return adam(model.eval(), vectors(seed))


def starved(seed: int) -> Subject:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32),
        nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip
    return adam(model, vectors(seed, size=2))


class Encoder(nn.Module):
    """Tokens, a stack of torch's own layers, and the first position's answer."""

    def __init__(self, depth: int, norm_first: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, 32)
        layer = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0.0, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder(self.tokens(x))[:, 0])
        return result


def post_norm(seed: int) -> Subject:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(4):
        x = torch.randint(30, (16, 8), generator=generator)
        batches.append((x, x[:, 1] % 4))
    return adam(Encoder(12, norm_first=False), batches, rate=1e-2)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "positions of sequences": lambda seed: positions(seed, bias=True),
    "positions without biases": lambda seed: positions(seed, bias=False),
    "sigmoids behind convolutions": lambda seed: convolutions(
        seed, activation=nn.Sigmoid, size=32, depth=8
    ),
    "convolutions on small batches": lambda seed: convolutions(
        seed, activation=nn.ReLU, size=8, depth=16
    ),
    "dropout of nearly all": dropout,
    "trained in evaluation mode": evaluation,
    "batch norm over two samples": starved,
    "post-norm encoder": post_norm,
}
