"""Networks that cut their own graph, for one look, and healthy ones beside them."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradmend.zoo.networks import blobs
from gradmend.zoo.specimen import Specimen, specimen


class _Cut(nn.Module):
    def __init__(self, fault: str, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.fault = fault
        self.stem = nn.Linear(features, width)
        self.teacher = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, width))
        self.encoder = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.student = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, width))
        self.head = nn.Linear(width, classes)
        if fault == "frozen":
            self.stem.requires_grad_(False)
            self.encoder.requires_grad_(False)
        if fault == "reentrant_checkpoint":
            self.stem.requires_grad_(False)
        if fault != "teacher":
            del self.teacher, self.student

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "teacher":
            with torch.no_grad():
                wanted = self.teacher(x)
            h = self.student(x)
            return torch.cat([self.head(torch.tanh(h)), h - wanted], dim=1)
        h = self.stem(x)
        if self.fault in ("no_grad", "frozen"):
            with torch.no_grad():
                h = self.encoder(h)
        elif self.fault == "inference":
            with torch.inference_mode():
                h = self.encoder(h)
            h = h.clone()
        elif "checkpoint" in self.fault or self.fault == "reentrant_behind":
            with warnings.catch_warnings(action="ignore"):
                reentrant = self.fault.startswith("reentrant")
                h = checkpoint(self.encoder, h, use_reentrant=reentrant)
        else:
            h = self.encoder(h)
        if self.fault == "detach":
            h = h.detach()
        elif self.fault == "numpy":
            h = torch.from_numpy(h.detach().numpy())
        logits: Tensor = self.head(torch.tanh(h))
        return logits


@specimen
def cut_network(fault: str = "", features: int = 8, width: int = 12, classes: int = 4) -> Specimen:
    """A stem, an encoder and a head; the encoder's gradient is cut off.

    Args:
        fault: ``no_grad``, ``inference``, ``detach``, ``numpy``, ``reentrant_checkpoint`` (behind a
            frozen stem); harmless are ``checkpoint``, ``reentrant_behind`` (a trainable stem),
            ``frozen`` and ``teacher`` (a copy that is not trained by the loss).
        features: Of a sample.
        width: Of the hidden layers.
        classes: To tell apart.
    """
    model = _Cut(fault, features, width, classes)
    loss = _distilled if fault == "teacher" else F.cross_entropy
    return Specimen(model, blobs(features, classes), loss)


def _distilled(output: Tensor, y: Tensor) -> Tensor:
    classes = int(y.max()) + 1
    return F.cross_entropy(output[:, :classes], y) + output[:, classes:].square().mean()
