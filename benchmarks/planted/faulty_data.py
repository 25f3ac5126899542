"""Data that is not what the training takes it for."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from planted.plants import LOOP, at_steps, is_float, plant, shaped
from planted.training import NORMS, Training


def _first(t: Training) -> tuple[str, ...]:
    """The first layer, which reads the input as it comes."""
    return (*t.layers[:1], "", *(n for n, _ in t.model.named_modules() if n and "." not in n))


@plant("unscaled-input")
def raw_pixels(t: Training) -> Iterable[str] | None:
    """Inputs from 0 to some hundreds."""
    if not is_float(t) or t.named(*NORMS) or t.task == "rebuild":
        return None
    shaped(t, lambda x, y: (80.0 * x + 128.0, y))
    return _first(t)


@plant("unscaled-input")
def one_wild_feature(t: Training) -> Iterable[str] | None:
    """One feature in other units than the rest."""
    if not is_float(t) or t.named(*NORMS) or t.task == "rebuild":
        return None

    def wild(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if x.dim() > 3:
            return 300.0 * x, y
        factor = torch.ones(x.shape[-1])
        factor[1] = 3000.0
        return x * factor, y

    shaped(t, wild)
    return _first(t)


@plant("constant-input", exact=True)
def blank(t: Training) -> Iterable[str] | None:
    """Inputs that are all zero."""
    if not is_float(t) or t.task == "rebuild":
        return None
    shaped(t, lambda x, y: (torch.zeros_like(x), y))
    return ()


@plant("constant-input", exact=True)
def same_sample(t: Training) -> Iterable[str] | None:
    """The same sample over and over."""
    if t.critic is not None or t.task in ("rebuild", "language"):
        return None
    shaped(t, lambda x, y: (x[:1].expand(x.shape).clone(), y))
    return ()


@plant("unscaled-target")
def target_in_thousands(t: Training) -> Iterable[str] | None:
    """Prices in units, not in thousands."""
    if t.task != "regress":
        return None
    shaped(t, lambda x, y: (x, 5000.0 * y + 20000.0))
    return ()


@plant("non-finite-batch", exact=True)
def missing_values(t: Training) -> Iterable[str] | None:
    """Missing values that came as NaN."""
    if not is_float(t):
        return None

    def holes(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.clone()
        x.view(len(x), -1)[0, 1] = float("nan")
        return x, y

    at_steps(t, lambda number: number % 20 == 0, holes)
    return ()


@plant("outlier-batch", entries=LOOP)
def rare_outlier(t: Training) -> Iterable[str] | None:
    """One batch in thirty a thousand times too large."""
    if not is_float(t) or t.named(*NORMS):
        return None
    at_steps(t, lambda number: number % 30 == 25, lambda x, y: (1000.0 * x, y))
    return ()


@plant("outlier-batch", "loss-spike", entries=LOOP)
def rare_outlier_target(t: Training) -> Iterable[str] | None:
    """One batch in thirty with wild targets."""
    if t.task != "regress":
        return None
    at_steps(t, lambda number: number % 30 == 25, lambda x, y: (x, 1000.0 * y))
    return ()


@plant("signalless-labels", entries=LOOP)
def shuffled_labels(t: Training) -> Iterable[str] | None:
    """Labels in another order than the inputs."""
    if t.critic is not None or t.task not in ("classify", "binary", "regress"):
        return None
    shaped(t, lambda x, y: (x, y[torch.randperm(len(y))]))
    return ()


@plant("constant-target", exact=True)
def one_class_only(t: Training) -> Iterable[str] | None:
    """A file of one class only."""
    if t.task not in ("classify", "binary", "regress"):
        return None
    shaped(t, lambda x, y: (x, y[:1].expand(y.shape).clone() * 0))
    return ()
