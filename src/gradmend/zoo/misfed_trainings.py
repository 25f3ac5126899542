"""Trainings that are fed the wrong numbers, and healthy ones beside them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn
from torch.optim import Optimizer

from gradmend.zoo.healthy_trainings import make_optimizer
from gradmend.zoo.misfed_models import (
    FEATURES,
    REGRESSIONS,
    class_loss,
    hands,
    labels_of,
    tower,
    truth_of,
)
from gradmend.zoo.miswired_trainings import descend, own_generator
from gradmend.zoo.networks import ACTIVATIONS
from gradmend.zoo.training import Training, training

ODD = 70
"""The step whose batch is odd."""


@training
def fed_regression(
    *,
    scale: float = 1.0,
    shift: float = 0.0,
    inputs: float = 1.0,
    offset: float = 0.0,
    head: str = "",
    loss: str = "mse",
    bad: str = "",
    outlier: str = "",
    optimizer: str = "SGD",
    rate: float = 0.02,
    norm: bool = False,
    steps: int = 140,
) -> Training:
    """A regression on batches of any scale, with an odd one among them.

    Args:
        scale: Deviation of the targets.
        shift: Mean of the targets.
        inputs: Scale of the inputs.
        offset: Mean of the inputs, in units of their scale.
        head: As in the zoo's regressor.
        loss: As there.
        bad: ``input`` or ``target`` of one batch hold a NaN; ``skipped``: with a loop that leaves
            such gradients out; ``masked``: the loss leaves the target out.
        outlier: ``input``, ``target`` or a ``sample`` of one batch is far from the others;
            harmless are ``mild`` and ``heavy_tails``; ``rate`` has one huge step.
        optimizer: By name.
        rate: Learning rate.
        norm: Whether a batch normalisation follows the first layer.
        steps: How many.
    """
    layers = tower(1)
    if norm:
        layers.insert(1, nn.BatchNorm1d(32))
    model = nn.Sequential(*layers, *hands(head, scale, shift))
    made = make_optimizer(optimizer, model, rate)
    draw = own_generator()
    of = REGRESSIONS[loss]

    def batch(number: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(32, FEATURES, generator=draw)
        y = truth_of(x) * scale + shift
        odd = number == ODD
        if outlier == "heavy_tails":
            width = torch.randn(32, 3, generator=draw).square().mean(1, keepdim=True).sqrt()
            y = y + 0.3 * torch.randn(32, 1, generator=draw) / width  # Student's t, 3 degrees
        if odd and outlier == "input":
            x = x * 300.0
        if odd and outlier == "target":
            y = y + 1000.0
        if odd and outlier == "sample":
            x[4] *= 3000.0
        if odd and outlier == "mild":
            x = x * 3.0
        if odd and bad in ("input", "skipped"):
            x[3, 2] = math.nan
        if (odd and bad == "target") or bad == "masked":
            y[5] = math.nan
        return (x + offset) * inputs, y

    def step(number: int) -> None:
        x, y = batch(number)
        if outlier == "rate":
            made.param_groups[0]["lr"] = 50.0 if number == ODD else rate
        z = model(x)
        seen = ~y.isnan() if bad == "masked" else slice(None)
        made.zero_grad()
        of(z[seen], y[seen]).backward()  # type: ignore[no-untyped-call]
        if bad == "skipped":
            for weight in model.parameters():
                if weight.grad is not None:
                    weight.grad.nan_to_num_(0.0)
        made.step()

    return Training(model, made, step, steps)


@training
def fed_classifier(
    *,
    loss: str = "",
    labels: str = "",
    classes: int = 4,
    inputs: float = 1.0,
    activation: str = "relu",
    optimizer: str = "SGD",
    rate: float = 0.1,
    width: int = 32,
    steps: int = 120,
) -> Training:
    """A classifier of clusters with labels and a loss that fit, or do not.

    Args:
        loss: As in the zoo's labelled classifier.
        labels: As there; also ``sorted`` (one class a batch), ``shuffled`` (without a relation to
            the inputs), and the harmless ``contrast`` (each with others, its own first).
        classes: How many.
        inputs: Scale of the inputs.
        activation: Of the hidden layers.
        optimizer: By name.
        rate: Learning rate.
        width: Of the hidden layers.
        steps: How many.
    """
    outputs, of = class_loss(loss, classes)
    layers = tower(outputs if labels != "contrast" else 16, width=width)
    model = nn.Sequential(
        *(ACTIVATIONS[activation]() if isinstance(each, nn.ReLU) else each for each in layers)
    )
    made = make_optimizer(optimizer, model, rate)
    draw = own_generator()
    seen = 2 if outputs == 1 and loss != "class_indices" else classes
    centres = torch.randn(seen, FEATURES, generator=draw)

    def step(number: int) -> None:
        y = torch.randint(seen, (32,), generator=draw)
        if labels == "sorted":
            y = torch.full_like(y, (number // 4) % seen)
        x = inputs * (centres[y] + torch.randn(32, FEATURES, generator=draw)) / math.sqrt(2)
        if labels == "contrast":
            near = model(x + 0.1 * torch.randn(32, FEATURES, generator=draw))
            far = model(torch.randn(64, FEATURES, generator=draw))
            anchor = model(x)
            logits = torch.cat([(anchor * near).sum(1, keepdim=True), anchor @ far.T], dim=1)
            descend(made, F.cross_entropy(logits, torch.zeros(32, dtype=torch.long)))
            return
        if labels == "shuffled":
            y = y[torch.randperm(32, generator=draw)]
        descend(made, of(model(x), labels_of(y, labels)))

    return Training(model, made, step, steps)


@training
def accumulated(
    *,
    micro: int = 8,
    divided: bool = True,
    optimizer: str = "SGD",
    rate: float = 0.05,
    steps: int = 80,
) -> Training:
    """A regression that adds up the gradients of several batches before each step.

    Args:
        micro: Batches per step.
        divided: Whether their losses are divided by that number.
        optimizer: By name.
        rate: Learning rate.
        steps: How many.
    """
    model = nn.Sequential(*tower(1))
    made: Optimizer = make_optimizer(optimizer, model, rate)
    draw = own_generator()
    mse: Callable[[Tensor, Tensor], Tensor] = nn.MSELoss()

    def step(number: int) -> None:
        del number  # unused: every step is alike
        made.zero_grad()
        for _ in range(micro):
            x = torch.randn(16, FEATURES, generator=draw)
            loss = mse(model(x), truth_of(x) * 2.0)
            if divided:
                loss = loss / micro
            loss.backward()  # type: ignore[no-untyped-call]
        made.step()

    return Training(model, made, step, steps)
