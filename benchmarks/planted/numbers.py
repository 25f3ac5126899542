"""Numbers that are none, or that are lost in their format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from planted.plants import LOOP, behind, hidden, middle, plant, shaped
from planted.training import Training


def at_middle(t: Training, operation: Callable[[Tensor], Tensor]) -> Iterable[str] | None:
    """Put an operation into the middle of a network; no cell's and no attention's."""
    name = middle(t)
    return None if name is None else behind(t, name, operation)


def at_layer(t: Training, operation: Callable[[Tensor], Tensor]) -> Iterable[str] | None:
    """Put an operation between a layer and its activation, which would hide a NaN."""
    names = hidden(t)
    if not names:
        return at_middle(t, operation)
    return behind(t, names[(len(names) - 1) // 2], operation)


@plant("square-root-at-zero", exact=True)
def distances_to_itself(t: Training) -> Iterable[str] | None:
    """Pairwise distances by a square root, zero on the diagonal: finite forward, NaN backward."""

    def near(h: Tensor) -> Tensor:
        flat = h.flatten(1)
        apart = (flat[:, None] - flat[None]).square().sum(dim=-1).sqrt()
        return h + 1e-3 * apart.mean(dim=1).view(-1, *[1] * (h.dim() - 1))

    return at_layer(t, near)


@plant("square-root-at-zero", exact=True)
def norm_of_difference(t: Training) -> Iterable[str] | None:
    """A distance of something to itself in the loss."""
    if t.task not in ("regress", "rebuild"):
        return None
    inner = t.loss_fn
    t.loss_fn = lambda z, y: inner(z, y) + 1e-3 * (z - z.detach()).square().sum().sqrt()
    return ()


@plant("hidden-branch-nan", exact=True)
def where_hides(t: Training) -> Iterable[str] | None:
    """A square root in the branch that ``where`` does not choose."""
    return at_layer(t, lambda h: torch.where(h > 0, h.sqrt(), 0.1 * h))


@plant("hidden-branch-nan", "division-by-zero", exact=True)
def where_hides_division(t: Training) -> Iterable[str] | None:
    """A division by zero in the branch that ``where`` does not choose."""

    def safe(h: Tensor) -> Tensor:
        size = h.relu().sum(dim=-1, keepdim=True) * (h[..., :1] > 0)
        return torch.where(size > 0, h / size, h)

    return at_layer(t, safe)


@plant("logarithm-of-zero", exact=True)
def own_cross_entropy(t: Training) -> Iterable[str] | None:
    """Cross entropy written out, on logits that the softmax rounds to zero."""
    if t.task not in ("classify", "binary"):
        return None

    def loss(z: Tensor, y: Tensor) -> Tensor:
        if z.shape[1] > 1:
            return -(80.0 * z * 5).softmax(dim=1).log().gather(1, y[:, None]).mean()
        p = torch.sigmoid(400.0 * z)
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    t.loss_fn = loss
    return ()


@plant("logarithm-of-zero", exact=True)
def logarithm_inside(t: Training) -> Iterable[str] | None:
    """A logarithm of rectified numbers."""
    return at_middle(t, lambda h: h.relu().log())


@plant("division-by-zero", "empty-reduction", exact=True)
def mean_of_nothing(t: Training) -> Iterable[str] | None:
    """A mean over the chosen entries, of which a sample may have none."""

    def divided(h: Tensor) -> Tensor:
        chosen = (h > 1e3).to(h.dtype)
        return h * (chosen.sum(dim=-1, keepdim=True) / chosen.sum(dim=-1, keepdim=True))

    return at_middle(t, divided)


@plant("division-by-zero", exact=True)
def standardised_by_nothing(t: Training) -> Iterable[str] | None:
    """Targets divided by a spread that is zero."""
    if t.task != "regress":
        return None
    inner = t.loss_fn
    t.loss_fn = lambda z, y: inner((z - y) / (y[:1] - y[:1]).std(dim=1, correction=0), y)
    return ()


@plant("exponential-overflow", exact=True)
def exponential_inside(t: Training) -> Iterable[str] | None:
    """An exponential of large numbers."""
    return at_middle(t, lambda h: (200.0 * h).exp() * 1e-30)


@plant("exponential-overflow", exact=True)
def variance_by_exponential(t: Training) -> Iterable[str] | None:
    """A divergence whose variance is the exponential of an unbounded output."""
    if t.task not in ("regress", "rebuild"):
        return None
    inner = t.loss_fn
    t.loss_fn = lambda z, y: inner(z, y) + 1e-3 * (5000.0 * z).exp().mean()
    return ()


@plant("empty-reduction", exact=True)
def all_ignored(t: Training) -> Iterable[str] | None:
    """Batches in which every label is to be ignored."""
    if t.task not in ("classify", "language"):
        return None
    shaped(t, lambda x, y: (x, torch.full_like(y, -100)))
    return ()


@plant("empty-reduction", exact=True)
def mean_over_empty_mask(t: Training) -> Iterable[str] | None:
    """A loss averaged over a mask that chooses nothing."""
    if t.task not in ("regress", "rebuild", "binary"):
        return None
    t.loss_fn = lambda z, y: (z - y).square()[y > 1e3].mean()
    return ()


# ---- formats


def halved(t: Training, kind: torch.dtype, feed: bool = True) -> bool:
    """Turn a network into half precision, its loss still in float32."""
    if t.critic is not None or t.named(nn.RNN, nn.LSTM, nn.GRU, nn.MultiheadAttention):
        return False
    t.model.to(kind)
    inner = t.loss_fn
    t.loss_fn = lambda z, y: inner(z.float(), y)
    if feed:
        shaped(t, lambda x, y: (x.to(kind) if torch.is_floating_point(x) else x, y))
    return True


@plant("half-precision-overflow", exact=True)
def too_large_for_half(t: Training) -> Iterable[str] | None:
    """Activations beyond 65504, as a feed-forward layer of T5's has them."""
    if not halved(t, torch.float16):
        return None
    return at_middle(t, lambda h: (h * 3e5) / 3e5)


@plant("gradient-underflow", exact=True)
def too_small_for_half(t: Training) -> Iterable[str] | None:
    """A gradient below 6e-8 in float16, without loss scaling."""
    if not halved(t, torch.float16):
        return None
    inner = t.loss_fn
    t.loss_fn = lambda z, y: 1e-6 * inner(z, y)
    if "Adam" in t.optimizer_name:
        t.options["eps"] = 1e-4  # the usual one would be a fault of its own in this format
    return {n for n, m in t.model.named_modules() if [*m.parameters(recurse=False)] or not n}


@plant("updates-lost-to-rounding", "learning-rate-too-low", entries=LOOP)
def too_small_for_bfloat(t: Training) -> Iterable[str] | None:
    """Weights in bfloat16, and updates smaller than half their last digit."""
    if not halved(t, torch.bfloat16):
        return None
    t.rate = 1e-5
    return ()


@plant("unsuited-epsilon", entries=LOOP, exact=True)
def epsilon_of_float32(t: Training) -> Iterable[str] | None:
    """Adam in float16 with an epsilon that is zero there."""
    if "Adam" not in t.optimizer_name or not halved(t, torch.float16):
        return None
    return ()


@plant("unsuited-epsilon", entries=LOOP)
def epsilon_above_gradient(t: Training) -> Iterable[str] | None:
    """A loss so small that Adam's epsilon is all that it divides by."""
    if "Adam" not in t.optimizer_name or t.critic is not None:
        return None
    inner = t.loss_fn
    t.loss_fn = lambda z, y: 1e-11 * inner(z, y)
    return ()


@plant("loss-scale-collapse", "square-root-at-zero", entries=LOOP, exact=True)
def scale_that_never_fits(t: Training) -> Iterable[str] | None:
    """A scaler that skips every step, because of a square root at zero."""
    if t.critic is not None:
        return None
    t.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    weight = next(p for p in t.model.parameters() if p.requires_grad)
    inner: Any = t.loss_fn
    t.loss_fn = lambda z, y: inner(z, y) + (0.0 * weight.square().sum()).sqrt()
    return ()
