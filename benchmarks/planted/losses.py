"""Losses that read something else than they should."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from planted.plants import LOOP, behind, plant, rate_of, shaped
from planted.training import Training


def _last(t: Training) -> int:
    """The dimension of the classes."""
    return 1 if t.task == "classify" else -1


@plant("doubled-softmax", exact=True)
def softmax_in_model(t: Training) -> Iterable[str] | None:
    """A softmax as the model's last operation, before cross entropy."""
    if t.task not in ("classify", "language"):
        return None
    return {*behind(t, t.layers[-1], lambda z: z.softmax(dim=_last(t))), ""}


@plant("doubled-softmax", exact=True)
def softmax_in_loss(t: Training) -> Iterable[str] | None:
    """The same, written into the loss."""
    if t.task not in ("classify", "language"):
        return None
    inner = t.loss_fn
    t.loss_fn = lambda z, y: inner(z.softmax(dim=_last(t)), y)
    return ()


@plant("missing-logarithm", exact=True)
def nll_of_probabilities(t: Training) -> Iterable[str] | None:
    """``nll_loss`` of a softmax."""
    if t.task != "classify":
        return None
    t.loss_fn = lambda z, y: F.nll_loss(z.softmax(dim=1), y)
    return ()


@plant("missing-logarithm", exact=True)
def nll_of_logits(t: Training) -> Iterable[str] | None:
    """``nll_loss`` of logits: it falls without end."""
    if t.task != "classify":
        return None
    t.loss_fn = lambda z, y: F.nll_loss(z, y)
    return ()


@plant("doubled-sigmoid", exact=True)
def sigmoid_in_model(t: Training) -> Iterable[str] | None:
    """A sigmoid as the model's last operation, before a loss on logits."""
    if t.task != "binary":
        return None
    return {*behind(t, t.layers[-1], torch.sigmoid), ""}


@plant("doubled-sigmoid", exact=True)
def sigmoid_twice(t: Training) -> Iterable[str] | None:
    """Two sigmoids and a loss on probabilities."""
    if t.task != "binary":
        return None
    guilty = behind(t, t.layers[-1], torch.sigmoid)
    t.loss_fn = lambda z, y: F.binary_cross_entropy(torch.sigmoid(z), y)
    return {*guilty, ""}


@plant("one-unit-softmax", exact=True)
def softmax_of_one(t: Training) -> Iterable[str] | None:
    """A softmax over a single output."""
    if t.task != "binary":
        return None
    guilty = behind(t, t.layers[-1], lambda z: z.softmax(dim=1))
    t.loss_fn = F.binary_cross_entropy
    return {*guilty, ""}


@plant("broadcast-loss", exact=True)
def row_against_column(t: Training) -> Iterable[str] | None:
    """Outputs [N, 1] against targets [N]."""
    if t.task != "regress":
        return None
    t.loss_fn = lambda z, y: ((z - y.squeeze(1)) ** 2).mean()
    return ()


@plant("negated-loss", exact=True)
def wrong_sign(t: Training) -> Iterable[str] | None:
    """A minus too many."""
    if t.critic is not None:
        return None
    inner = t.loss_fn
    t.loss_fn = lambda z, y: -inner(z, y)
    return ()


@plant("negated-loss", exact=True)
def likelihood_minimised(t: Training) -> Iterable[str] | None:
    """A log-likelihood without its minus."""
    if t.task != "classify":
        return None
    t.loss_fn = lambda z, y: z.log_softmax(dim=1).gather(1, y[:, None]).mean()
    return ()


@plant("clamped-loss")
def clamped_error(t: Training) -> Iterable[str] | None:
    """The error clamped before it is squared: no gradient where it is large."""
    if t.task not in ("regress", "rebuild"):
        return None
    t.loss_fn = lambda z, y: (z - y).clamp(-0.1, 0.1).square().mean()
    return ()


@plant("clamped-loss")
def clamped_probability(t: Training) -> Iterable[str] | None:
    """Probabilities clamped to where they are from the beginning."""
    if t.task != "classify":
        return None

    def loss(z: Tensor, y: Tensor) -> Tensor:
        chosen = z.softmax(dim=1).gather(1, y[:, None])
        return -chosen.clamp(min=0.5).log().mean()

    t.loss_fn = loss
    return ()


@plant("summed-loss", "learning-rate-too-high", entries=LOOP)
def sum_over_batch(t: Training) -> Iterable[str] | None:
    """A sum where the rate was found for a mean."""
    if t.task not in ("regress", "rebuild") or t.optimizer_name not in ("SGD", "momentum"):
        return None
    t.loss_fn = lambda z, y: F.mse_loss(z, y, reduction="sum")
    t.rate = 2 * rate_of(t)
    return ()


@plant("saturated-adversarial-loss", entries=LOOP)
def minimax(t: Training) -> Iterable[str] | None:
    """log(1 - D) against a critic that is sure of itself."""
    critic = t.critic
    if critic is None:
        return None
    t.loss_fn = lambda made, real: -F.softplus(critic(made)).mean()
    draw = t.draw

    def far() -> tuple[Tensor, Tensor]:
        noise, real = draw()
        return noise, real + 12.0

    t.draw = far
    return ()


@plant("loss-unfit-for-target", exact=True)
def signs_as_labels(t: Training) -> Iterable[str] | None:
    """Labels -1 and 1 for a loss that wants 0 and 1."""
    if t.task != "binary":
        return None
    shaped(t, lambda x, y: (x, 2 * y - 1))
    return ()


@plant("loss-unfit-for-target", exact=True)
def numbers_as_probabilities(t: Training) -> Iterable[str] | None:
    """A binary cross entropy for targets that are no probabilities."""
    if t.task not in ("regress", "rebuild"):
        return None
    t.loss_fn = lambda z, y: F.binary_cross_entropy_with_logits(z, 3.0 * y)
    return ()


@plant("output-range-unfit-for-target", "saturated-activation")
def sigmoid_for_numbers(t: Training) -> Iterable[str] | None:
    """A sigmoid at the end, and targets from -2 to 2."""
    if t.task not in ("regress", "rebuild"):
        return None
    return {*behind(t, t.layers[-1], torch.sigmoid), ""}


@plant("output-range-unfit-for-target", "unscaled-target", "saturated-activation")
def tanh_for_large_numbers(t: Training) -> Iterable[str] | None:
    """A tanh at the end, and targets of some tens."""
    if t.task != "regress":
        return None
    shaped(t, lambda x, y: (x, 30 * y))
    return {*behind(t, t.layers[-1], torch.tanh), ""}
