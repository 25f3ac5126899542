"""Models whose data or loss do not fit, and healthy ones beside them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from gradmend.zoo.networks import blobs
from gradmend.zoo.specimen import Batches, Specimen, specimen

FEATURES = 8


class Scaler(nn.Module):
    """Turns outputs of mean 0 and deviation 1 into the targets' units."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Shift and scale."""
        return x * self.std + self.mean


def hands(head: str, scale: float, shift: float) -> list[nn.Module]:
    """What stands behind the last linear layer."""
    made: dict[str, list[nn.Module]] = {
        "": [],
        "relu": [nn.ReLU()],
        "tanh": [nn.Tanh()],
        "sigmoid": [nn.Sigmoid()],
        "scaler": [Scaler(shift, scale)],
        "scaled_tanh": [nn.Tanh(), Scaler(0.0, 5.0 * scale)],
    }
    return made[head]


def tower(outputs: int, *, depth: int = 2, width: int = 32) -> list[nn.Module]:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    size = FEATURES
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return [*layers, nn.Linear(size, outputs)]


def truth_of(x: Tensor) -> Tensor:
    """What is to be learned, about of mean 0 and deviation 1; shape [N, 1]."""
    y = x[:, 0] - 0.5 * x[:, 1] + torch.sin(2 * x[:, 2])
    return (y / 1.3).unsqueeze(1)


REGRESSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.smooth_l1_loss,
    "by_hand": lambda z, y: ((z - y) ** 2).mean(),
}


@specimen
def fed_regressor(
    *,
    depth: int = 2,
    width: int = 32,
    scale: float = 1.0,
    shift: float = 0.0,
    inputs: float = 1.0,
    head: str = "",
    loss: str = "mse",
    bad: str = "",
) -> Specimen:
    """A regression on targets of any scale and offset.

    Args:
        depth: Hidden layers.
        width: Of them.
        scale: Deviation of the targets.
        shift: Mean of the targets.
        inputs: Deviation of the inputs.
        head: ``relu``, ``tanh``, ``sigmoid`` behind the last layer; harmless are ``scaler`` and
            ``scaled_tanh``.
        loss: ``mse``, ``l1``, ``huber``, ``by_hand``.
        bad: ``input``, ``target`` hold a NaN, ``infinite`` an infinity; ``masked`` targets are
            missing and left out of the loss.
    """
    model = nn.Sequential(*tower(1, depth=depth, width=width), *hands(head, scale, shift))
    found: Batches = []
    for _ in range(4):
        x = torch.randn(32, FEATURES)
        y = truth_of(x) * scale + shift
        if bad in ("input", "infinite"):
            x[3, 2] = math.nan if bad == "input" else math.inf
        if bad in ("target", "masked"):
            y[5] = math.nan
        found.append((x * inputs, y))
    of = REGRESSIONS[loss]
    if bad == "masked":
        return Specimen(model, found, lambda z, y: of(z[~y.isnan()], y[~y.isnan()]))
    return Specimen(model, found, of)


def labels_of(y: Tensor, labels: str) -> Tensor:
    """Class indices as people have them: ``signed``, ``counted`` from 1, ``constant``, ``rare``."""
    if labels == "signed":
        return 2 * y.clamp(max=1) - 1
    if labels == "counted":
        return y.clamp(max=1) + 1
    if labels == "constant":
        return torch.ones_like(y)
    if labels == "rare":
        return (torch.arange(len(y)) == 0).long()
    return y


def class_loss(loss: str, classes: int) -> tuple[int, Callable[[Tensor, Tensor], Tensor]]:
    """Outputs that a loss of this name needs, and the loss."""

    def hot(y: Tensor) -> Tensor:
        return F.one_hot(y, classes).float()

    known: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
        "": (classes, F.cross_entropy),
        "bce": (1, lambda z, y: F.binary_cross_entropy(z.sigmoid().squeeze(1), y.float())),
        "bce_on_logits": (
            1,
            lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(1), y.float()),
        ),
        "kl": (classes, lambda z, y: F.kl_div(z.log_softmax(1), hot(y), reduction="batchmean")),
        "kl_of_probabilities": (
            classes,
            lambda z, y: F.kl_div(z.softmax(1), hot(y), reduction="batchmean"),
        ),
        "soft_margin": (1, lambda z, y: F.soft_margin_loss(z.squeeze(1), y.float())),
        "mse_of_softmax": (classes, lambda z, y: F.mse_loss(z.softmax(1), hot(y))),
        "mse_of_outputs": (classes, lambda z, y: F.mse_loss(z, hot(y))),
        "class_indices": (1, lambda z, y: F.mse_loss(z.squeeze(1), y.float())),
        "smoothed": (classes, lambda z, y: F.cross_entropy(z, 0.9 * hot(y) + 0.1 / classes)),
        "one_unit_cross_entropy": (1, lambda z, y: F.cross_entropy(z, y.float().unsqueeze(1))),
    }
    return known[loss]


@specimen
def labelled(
    *, loss: str = "", labels: str = "", classes: int = 4, batch: int = 32, depth: int = 2
) -> Specimen:
    """A classifier of blobs with labels and a loss that fit, or do not.

    Args:
        loss: See :func:`class_loss`; empty is cross entropy.
        labels: See :func:`labels_of`; with two classes where the loss has one output.
        classes: How many.
        batch: Samples.
        depth: Hidden layers.
    """
    outputs, of = class_loss(loss, classes)
    model = nn.Sequential(*tower(outputs, depth=depth))
    seen = 2 if outputs == 1 and loss != "class_indices" else classes
    found = [(x, labels_of(y, labels)) for x, y in blobs(FEATURES, seen, size=batch, batches=4)]
    return Specimen(model, found, of)


class _Scaled(nn.Module):
    """Scales pictures itself, with a function."""

    def __init__(self, inside: str, body: nn.Module) -> None:
        super().__init__()
        self.inside, self.body = inside, body

    def forward(self, x: Tensor) -> Tensor:
        """Scale, and hand on."""
        if self.inside == "divided":
            x = x / 255.0
        elif self.inside == "standardised":
            x = (x - 127.0) / 73.0
        out: Tensor = self.body(x)
        return out


@specimen
def pixels(*, norm: bool = True, inside: str = "", width: int = 8) -> Specimen:
    """A convolutional classifier of pictures in 0 to 255.

    Args:
        norm: Whether batch normalisation follows each convolution.
        inside: ``divided`` or ``standardised`` by the model itself.
        width: Channels.
    """
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(2):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        channels = width
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    found: Batches = [
        (torch.randint(256, (16, 3, 8, 8)).float(), torch.randint(4, (16,))) for _ in range(2)
    ]
    return Specimen(_Scaled(inside, body) if inside else body, found, F.cross_entropy)


@specimen
def table(*, odd: int = 0, size: float = 5e3) -> Specimen:
    """A regression on a table of which ``odd`` features have a deviation of ``size``."""
    found: Batches = []
    for _ in range(2):
        x = torch.randn(32, FEATURES)
        y = truth_of(x)
        x[:, FEATURES - odd :] *= size
        found.append((x, y))
    return Specimen(nn.Sequential(*tower(1)), found, F.mse_loss)
