"""Optimizer, schedule and loop."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from planted.plants import LOOP, hidden, plant, rate_of
from planted.training import Training


@plant("learning-rate-too-high", entries=LOOP)
def rate_too_high(t: Training) -> Iterable[str] | None:
    """A rate some hundred times too high."""
    t.rate = rate_of(t) * (150.0 if t.optimizer_name in ("SGD", "momentum") else 100.0)
    return ()


@plant("learning-rate-too-low", entries=LOOP)
def rate_too_low(t: Training) -> Iterable[str] | None:
    """A rate of a hundred-thousandth of the usual."""
    t.rate = rate_of(t) * 1e-5
    return ()


@plant("learning-rate-zero", entries=LOOP, exact=True)
def rate_zero(t: Training) -> Iterable[str] | None:
    """No rate at all, as an integer division leaves it."""
    t.rate = 0.0
    return ()


@plant("learning-rate-zero", entries=LOOP)
def schedule_too_short(t: Training) -> Iterable[str] | None:
    """A schedule that is over after a tenth of the run."""
    t.schedule = lambda number: max(0.0, 1.0 - number / 5)
    return ()


@plant("clip-too-tight", entries=LOOP)
def tight_clip(t: Training) -> Iterable[str] | None:
    """A norm clipped to 1e-4."""
    if t.optimizer_name not in ("SGD", "momentum"):
        return None
    t.after_backward.append(lambda now: _clip(now, 1e-4))
    return ()


def _clip(now: Training, limit: float) -> None:
    nn.utils.clip_grad_norm_(now.model.parameters(), limit)


@plant("late-clipping", entries=LOOP, exact=True)
def clip_after_step(t: Training) -> Iterable[str] | None:
    """Clipping when the step has been made."""
    t.after_step.append(lambda now: _clip(now, 0.05))
    return ()


@plant("clipping-of-scaled-gradients", entries=LOOP, exact=True)
def clip_before_unscale(t: Training) -> Iterable[str] | None:
    """Clipping gradients that are still 65,536 times too large."""
    if t.critic is not None:
        return None
    t.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    t.after_backward.append(lambda now: _clip(now, 1.0))
    return ()


@plant("parameters-without-optimizer", entries=LOOP, exact=True)
def forgotten_layers(t: Training) -> Iterable[str] | None:
    """An optimizer that holds the output layer alone, or all but the first layers."""
    names = hidden(t)
    if not names:
        return None
    left_out = names[: max(1, len(names) // 2)]
    ids = {id(p) for name in left_out for p in t.at(name).parameters()}
    t.held = lambda model: [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    return left_out


@plant("stale-optimizer", "parameters-without-optimizer", entries=LOOP, exact=True)
def optimizer_of_another(t: Training) -> Iterable[str] | None:
    """An optimizer built before the model was copied."""
    before = list(t.model.parameters())
    if t.critic is not None:
        return None
    t.model = copy.deepcopy(t.model)
    t.held = lambda model: [p for p in before if p.requires_grad]
    return {n for n, m in t.model.named_modules() if not list(m.children())}


@plant("stale-optimizer", "parameters-without-optimizer", entries=LOOP, exact=True)
def head_replaced(t: Training) -> Iterable[str] | None:
    """A new output layer after the optimizer was built."""
    name = t.layers[-1]
    old = [p for p in t.model.parameters() if p.requires_grad]
    t.put(name, copy.deepcopy(t.at(name)))
    t.at(name).reset_parameters()
    t.held = lambda model: old
    return (name,)


@plant("frozen-parameters", entries=LOOP)
def frozen_by_accident(t: Training) -> Iterable[str] | None:
    """All hidden layers frozen, on weights that have learned nothing yet."""
    names = hidden(t)
    if len(names) < 2 or t.name == "lora":
        return None
    for name in names:
        t.at(name).requires_grad_(False)
    return names


@plant("overwritten-weights", entries=LOOP, exact=True)
def reset_each_step(t: Training) -> Iterable[str] | None:
    """The checkpoint loaded again at every step."""
    start = {k: v.clone() for k, v in t.model.state_dict().items()}
    t.after_step.append(lambda now: now.model.load_state_dict(start) and None)
    return {n for n, m in t.model.named_modules() if not list(m.children())}


@plant("overwritten-weights", entries=("steps", "watch"), exact=True)
def drawn_in_forward(t: Training) -> Iterable[str] | None:
    """A layer whose weights are drawn again in every forward pass."""
    names = hidden(t)
    if not names:
        return None
    name = names[len(names) // 2]
    layer = t.at(name)

    class Redrawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                nn.init.kaiming_uniform_(self.inner.weight, a=5**0.5)
            out: torch.Tensor = self.inner(x)
            return out

    t.put(name, Redrawn())
    return name, f"{name}.inner"


@plant("weight-collapse", entries=LOOP)
def decayed_away(t: Training) -> Iterable[str] | None:
    """Weight decay of 0.5 where 0.0005 was meant, and more."""
    if t.critic is not None or t.optimizer_name == "RMSprop":
        return None
    t.options["weight_decay"] = {"SGD": 2.0, "momentum": 0.7, "Adam": 2.0}.get(
        t.optimizer_name, 0.1 / rate_of(t)
    )
    return {n for n, m in t.model.named_modules() if not list(m.children())}


@plant("gradients-not-cleared", entries=LOOP, exact=True)
def never_cleared(t: Training) -> Iterable[str] | None:
    """No ``zero_grad``."""
    t.clear = False
    return ()


@plant("undivided-accumulation", entries=LOOP)
def sum_of_micro_batches(t: Training) -> Iterable[str] | None:
    """Sixteen micro-batches whose losses are added and not averaged."""
    if t.optimizer_name not in ("SGD", "momentum") or t.critic is not None:
        return None
    t.accumulate, t.divide, t.steps = 16, False, 60
    return ()
