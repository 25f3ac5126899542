"""Specimens whose forward pass is a loop, and those with one loud or gating layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from gradmend.zoo.networks import blobs
from gradmend.zoo.specimen import Specimen, specimen


class Unrolled(nn.Module):
    """A recurrence written by hand: the same two layers at each time step."""

    def __init__(self, features: int, width: int, classes: int, gain: float, relu: bool) -> None:
        super().__init__()
        self.width, self.relu = width, relu
        self.reads = nn.Linear(features, width)
        self.keeps = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)
        nn.init.orthogonal_(self.keeps.weight, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of series [B, T, features]."""
        h = x.new_zeros(len(x), self.width)
        for step in x.unbind(1):
            h = self.reads(step) + self.keeps(h)
            h = F.relu(h) if self.relu else torch.tanh(h)
        result: Tensor = self.head(h)
        return result


@specimen
def unrolled(
    gain: float = 1.0, activation: str = "tanh", length: int = 16, width: int = 32, classes: int = 5
) -> Specimen:
    """A hand-written recurrence of tanh or ReLU with orthogonal recurrent weights."""
    model = Unrolled(8, width, classes, gain, activation == "relu")
    batches = [(x.view(len(x), length, 8), y) for x, y in blobs(8 * length, classes)]
    return Specimen(model, batches, F.cross_entropy)


class Gated(nn.Module):
    """Two layers, of which a sigmoid lets each unit through or not."""

    def __init__(self, features: int, width: int, classes: int, gate_bias: float) -> None:
        super().__init__()
        self.value = nn.Linear(features, width)
        self.gate = nn.Linear(features, width)
        self.head = nn.Linear(width, classes)
        nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        result: Tensor = self.head(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x)))
        return result


@specimen
def gated(gate_bias: float = 0.0, width: int = 32, classes: int = 10) -> Specimen:
    """A gated layer, as of a highway or GLU; a large bias opens it."""
    return Specimen(Gated(32, width, classes, gate_bias), blobs(32, classes), F.cross_entropy)


@specimen
def loud_logits(std: float = 0.1, width: int = 64, classes: int = 10) -> Specimen:
    """A healthy ReLU net whose last layer's weights are drawn with this deviation."""
    layers: list[nn.Module] = []
    for fan_in in (32, width, width):
        layers += [nn.Linear(fan_in, width), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
    head = nn.Linear(width, classes)
    nn.init.normal_(head.weight, std=std)
    return Specimen(nn.Sequential(*layers, head), blobs(32, classes), F.cross_entropy)
