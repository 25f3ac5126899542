"""Activations that give nothing, or nothing more; norms and modes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from planted.plants import (
    LOOP,
    around,
    behind,
    features,
    hidden,
    plant,
    rebuilt,
    scaled_weights,
    shaped,
)
from planted.training import Training


@plant("dead-relu")
def born_dead(t: Training) -> Iterable[str] | None:
    """A bias so negative that a layer's rectifier never opens."""
    relus = t.named(nn.ReLU)
    names = [n for n in hidden(t) if around(n, t) & set(relus)]
    if not names:
        return None
    name = names[len(names) // 2]
    with torch.no_grad():
        t.at(name).bias.fill_(-30.0)
    return around(name, t)


@plant("dead-relu", "learning-rate-too-high", entries=LOOP)
def killed_by_a_step(t: Training) -> Iterable[str] | None:
    """One step of a thousand times the rate, after which no rectifier opens."""
    if not t.named(nn.ReLU) or t.critic is not None:
        return None
    t.schedule = lambda number: 3e4 if number == 12 else 1.0
    return ()


@plant("saturated-activation", "init-gain-too-large")
def saturated_tanh(t: Training) -> Iterable[str] | None:
    """Tanh, with weights far too wide for it."""
    names = hidden(t)
    if len(t.bends) < 2 or len(names) < 2:
        return None
    for name in t.bends:
        t.put(name, nn.Tanh())
    scaled_weights(t, names, 40.0)
    return {*names, *t.bends}


@plant("excessive-dropout")
def dropout_near_one(t: Training) -> Iterable[str] | None:
    """Dropout of 0.97 where 0.03 was meant."""
    places = t.bends or t.named(nn.LayerNorm)
    if not places:
        return None
    name = places[len(places) // 2]
    t.put(name, nn.Sequential(t.at(name), nn.Dropout(0.97)))
    return name, f"{name}.1"


@plant("rectified-output", "dead-relu", "output-range-unfit-for-target")
def rectifier_at_the_end(t: Training) -> Iterable[str] | None:
    """A ReLU behind the output of a regression."""
    if t.task not in ("regress", "rebuild"):
        return None
    return behind(t, t.layers[-1], torch.relu)


@plant("rectified-output", "dead-relu", "output-range-unfit-for-target")
def rectifier_module_at_the_end(t: Training) -> Iterable[str] | None:
    """The same as a module, with targets below zero."""
    if t.task != "regress":
        return None
    name = t.layers[-1]
    shaped(t, lambda x, y: (x, y - 2.0))
    t.put(name, nn.Sequential(t.at(name), nn.ReLU()))
    return name, f"{name}.1", f"{name}.0"


@plant("bounded-logits", "rectified-output")
def rectified_logits(t: Training) -> Iterable[str] | None:
    """A ReLU behind the logits."""
    if t.task not in ("classify", "binary", "language"):
        return None
    return behind(t, t.layers[-1], torch.relu)


@plant("bounded-logits")
def squashed_logits(t: Training) -> Iterable[str] | None:
    """A tanh behind the logits."""
    if t.task not in ("classify", "binary", "language"):
        return None
    return behind(t, t.layers[-1], torch.tanh)


@plant("evaluation-mode-in-training", exact=True)
def evaluation_mode(t: Training) -> Iterable[str] | None:
    """``model.eval()`` and no way back."""
    names = t.named(nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)
    if not any(isinstance(t.at(n), nn.BatchNorm1d | nn.BatchNorm2d) for n in names):
        return None
    t.model.eval()
    return {*names, ""}


@plant("evaluation-mode-in-training", entries=LOOP, exact=True)
def evaluation_mode_later(t: Training) -> Iterable[str] | None:
    """A validation after ten steps that leaves dropout and norms in evaluation mode."""
    if not t.bends or not t.layers[:-1]:
        return None
    name = t.bends[0]
    t.put(name, nn.Sequential(t.at(name), nn.Dropout(0.2)))

    def validate(now: Training) -> None:
        if now.number == 10:
            now.model.eval()
            with torch.no_grad():
                now.model(now.draw()[0])

    t.before.append(validate)
    return {f"{name}.1", "", *t.named(nn.BatchNorm1d, nn.BatchNorm2d)}


def batch_normed(t: Training, depth: int) -> nn.Sequential:
    """Rectified layers with batch norm between, and no skip."""
    inputs, outputs = features(t)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(24 if number else inputs, 24), nn.BatchNorm1d(24), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(24, outputs))


@plant("starved-batch-norm")
def pairs(t: Training) -> Iterable[str] | None:
    """Batch norm over two samples."""
    if not rebuilt(t, lambda: batch_normed(t, 3)):
        return None
    shaped(t, lambda x, y: (x[:2], y[:2]))
    return t.named(nn.BatchNorm1d)


@plant("batch-norm-explosion")
def deep_batch_norm(t: Training) -> Iterable[str] | None:
    """Fifty rectified layers with batch norm and no skip."""
    if not rebuilt(t, lambda: batch_normed(t, 50)):
        return None
    t.steps = 60
    return t.named(nn.BatchNorm1d)


class Adding(nn.Module):
    """x + f(x) without a norm."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        for layer in (self.up, self.down):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        out: torch.Tensor = x + self.down(F.relu(self.up(x)))
        return out


@plant("residual-growth")
def unscaled_residuals(t: Training) -> Iterable[str] | None:
    """Twenty residual blocks without norm, each as large as what it is added to."""
    inputs, outputs = features(t)

    def model() -> nn.Module:
        blocks = [Adding(24, 1.5) for _ in range(20)]
        return nn.Sequential(nn.Linear(inputs, 24), *blocks, nn.Linear(24, outputs))

    if not rebuilt(t, model):
        return None
    t.steps = 80
    return [n for n, _ in t.model.named_modules() if n and n not in ("0", "21")]


@plant("residual-growth", "init-gain-too-large")
def norms_removed(t: Training) -> Iterable[str] | None:
    """A residual network whose norms were taken out, and its branches as wide as before."""
    if t.name not in ("resnet", "decoder", "encoder"):
        return None
    for name in t.named(nn.BatchNorm2d, nn.LayerNorm):
        t.put(name, nn.Identity())
    names = [
        n for n in t.layers if n.endswith(("conv1", "conv2", "linear1", "linear2", "down", "up"))
    ]
    scaled_weights(t, names, 6.0)
    return [n for n, m in t.model.named_modules() if any(n in k for k in names)] + names


@plant("post-norm-without-warm-up", "learning-rate-too-high", entries=("watch",))
def post_norm(t: Training) -> Iterable[str] | None:
    """Twelve encoder layers with the norm behind the sum, a usual rate and no warm-up."""
    if t.name != "encoder":
        return None
    width = t.at("head").in_features
    layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
    t.put("encoder", nn.TransformerEncoder(layer, 12, enable_nested_tensor=False))
    t.optimizer_name, t.rate, t.steps = "Adam", 5e-3, 60
    return [n for n, _ in t.model.named_modules() if n.startswith("encoder")]
