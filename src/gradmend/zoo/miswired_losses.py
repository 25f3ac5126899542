"""Trainings whose loss reads something else than it should, and healthy ones beside them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gradmend.zoo.miswired_trainings import descend, mlp, samples, truth
from gradmend.zoo.training import Training, training


def _classes(x: Tensor, classes: int) -> Tensor:
    return x[:, :classes].argmax(dim=1) if classes > 1 else torch.zeros(len(x), dtype=torch.long)


@training
def classifier(*, head: str = "", classes: int = 4) -> Training:
    """A classifier of blobs with something between its last layer and its cross entropy.

    Args:
        head: ``softmax``, ``nll_of_softmax``, ``relu``, ``tanh``, ``negated``, ``log_likelihood``,
            ``nll_over_samples``, ``by_hand_over_samples``, ``nll_of_logits``;
            harmless are ``log_softmax``, ``nll``, ``by_hand``, ``soft_cap``, ``pooled``,
            ``safety_clamp``, ``maximised``.
        classes: How many; with one there is nothing to learn.
    """
    model = mlp(classes if head != "pooled" else classes * 4)
    maximise = head == "maximised"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=maximise)
    data = samples()
    between: dict[str, Callable[[Tensor], Tensor]] = {
        "softmax": lambda z: z.softmax(dim=1),
        "log_softmax": lambda z: z.log_softmax(dim=1),
        "relu": torch.relu,
        "tanh": torch.tanh,
        "soft_cap": lambda z: 30 * torch.tanh(z / 30),
        "pooled": lambda z: z.relu().view(len(z), classes, 4).mean(dim=2),
        "safety_clamp": lambda z: z.clamp(-50, 50),
    }

    def loss_of(z: Tensor, y: Tensor) -> Tensor:
        chosen = y.unsqueeze(1)
        if head in between:
            return functional.cross_entropy(between[head](z), y)
        if head == "nll":
            return functional.nll_loss(z.log_softmax(dim=1), y)
        if head == "nll_over_samples":
            return functional.nll_loss(z.log_softmax(dim=0), y)
        if head == "by_hand_over_samples":
            return -torch.log(z.softmax(dim=0).gather(1, chosen) + 1e-9).mean()
        if head == "nll_of_logits":
            return functional.nll_loss(z, y)
        if head == "nll_of_softmax":
            return functional.nll_loss(z.softmax(dim=1), y)
        if head == "by_hand":
            return -torch.log(z.softmax(dim=1).gather(1, chosen) + 1e-9).mean()
        if head == "log_likelihood":
            return z.log_softmax(dim=1).gather(1, chosen).mean()
        if head in ("negated", "maximised"):
            return -functional.cross_entropy(z, y)
        return functional.cross_entropy(z, y)

    def step(number: int) -> None:
        x = next(data)
        descend(optimizer, loss_of(model(x), _classes(x, classes)))

    return Training(model, optimizer, step, steps=60)


@training
def binary_classifier(*, head: str = "") -> Training:
    """Two classes from one output.

    Args:
        head: ``sigmoid``, ``sigmoid_twice``, ``relu``, ``one_unit_softmax``; harmless are
            ``probability`` (one sigmoid) and ``over_samples`` (a softmax over the batch).
    """
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = samples()

    def loss_of(z: Tensor, y: Tensor) -> Tensor:
        if head == "sigmoid":
            return functional.binary_cross_entropy_with_logits(z.sigmoid().squeeze(1), y)
        if head == "sigmoid_twice":
            return functional.binary_cross_entropy(z.sigmoid().sigmoid().squeeze(1), y)
        if head == "relu":
            return functional.binary_cross_entropy_with_logits(z.relu().squeeze(1), y)
        if head == "one_unit_softmax":
            return functional.binary_cross_entropy(z.softmax(dim=1).squeeze(1), y)
        if head == "probability":
            return functional.binary_cross_entropy(z.sigmoid().squeeze(1), y)
        if head == "over_samples":
            return -(z.softmax(dim=0).squeeze(1) * y).sum()
        return functional.binary_cross_entropy_with_logits(z.squeeze(1), y)

    def step(number: int) -> None:
        x = next(data)
        descend(optimizer, loss_of(model(x), (truth(x) > 0).float()))

    return Training(model, optimizer, step, steps=60)


@training
def regression(
    *, head: str = "", loss: str = "mse", target: str = "", rate: float = 0.05
) -> Training:
    """A regression with one output.

    Args:
        head: ``relu`` puts one behind the last layer.
        loss: ``mse``, ``by_hand``, ``l1``, ``summed``, ``summed_over_batch``, ``weighted``,
            ``pairwise``, ``hinge``, ``gaussian``, ``clamped_error``, ``clamped``, ``negated``.
        target: ``column`` hands targets [N] to outputs [N, 1], ``row`` targets [N, 1] to outputs
            [N]; ``far`` lies 50 away, ``negative`` below zero.
        rate: Learning rate.
    """
    model = mlp(outputs=2 if loss == "gaussian" else 1)
    if target == "negative":
        with torch.no_grad():
            model[4].bias.fill_(-2.0)  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    data = samples()
    shift = {"far": 50.0, "negative": -10.0}.get(target, 3.0 if head else 0.0)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mse": functional.mse_loss,
        "l1": functional.l1_loss,
        "by_hand": lambda z, y: ((z - y) ** 2).mean(),
        "summed": lambda z, y: ((z - y) ** 2).sum(),
        "summed_over_batch": lambda z, y: ((z - y) ** 2).sum() / len(z),
        "weighted": lambda z, y: (torch.linspace(0.5, 1.5, len(z)) * (z - y) ** 2).mean(),
        "clamped_error": lambda z, y: ((z - y).clamp(-4, 4) ** 2).mean(),
        "clamped": lambda z, y: ((z - y) ** 2).clamp(max=100.0).mean(),
        "negated": lambda z, y: -functional.mse_loss(z, y),
    }

    def loss_of(z: Tensor, y: Tensor) -> Tensor:
        if target in ("column", "row"):
            with warnings.catch_warnings(action="ignore"):  # torch warns of some of these
                return losses[loss](
                    z if target == "column" else z.squeeze(1),
                    y if target == "column" else y[:, None],
                )
        if loss == "gaussian":
            mean, log_variance = z.unbind(dim=1)
            return (0.5 * log_variance + 0.5 * (mean - y) ** 2 / log_variance.exp()).mean() - 5.0
        if loss == "pairwise":
            z = z.squeeze(1)
            return functional.softplus(
                -(z[:, None] - z[None, :]) * (y[:, None] - y[None, :]).sign()
            ).mean()
        if loss == "hinge":
            return (1.0 - z.squeeze(1) * y.sign()).clamp(min=0.0).mean()
        return losses[loss](z.squeeze(1), y)

    def step(number: int) -> None:
        x = next(data)
        z = model(x)
        descend(optimizer, loss_of(z.relu() if head == "relu" else z, truth(x) + shift))

    return Training(model, optimizer, step, steps=60)
