"""A rehearsal: a few watched training steps on copies of a model's tensors.

One look cannot see what only a step shows: which softmax the loss applies, whether a gradient
that is balanced now is gone after fifty steps, whether the loss falls at all on one batch. So
the steps are taken, on copies, and watched as a real training is.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.engine.watching.observer import Observer
from gradmend.engine.watching.schedule import Schedule, Tier
from gradmend.engine.watching.watch import Watch
from gradmend.probe import kernels
from gradmend.probe.batch import Batch, Feeder, check_fit, check_loss, map_tensors
from gradmend.probe.shadow import make_shadow, untouched
from gradmend.records.history import History
from gradmend.records.layout import Rehearsed

LEARNING_RATE = 1e-3
"""Of the Adam that takes the steps where no optimizer is given: its authors' default."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a few steps showed."""

    steps: int
    losses: tuple[float, ...]
    history: History
    shadow: Mapping[int, Tensor]
    """The trained copies, by ``id`` of the original tensor."""


def rehearse(
    model: nn.Module,
    batch: Batch,
    feeder: Feeder,
    *,
    steps: int,
    optimizer: Optimizer | None = None,
    learning_rate: float = LEARNING_RATE,
    shadow: Mapping[int, Tensor] | None = None,
    more: Sequence[Batch] = (),
) -> Rehearsal:
    """Train copies of the model's tensors on a batch, watched; the model itself is left alone.

    Args:
        model: The model to copy from.
        batch: The batch of every step.
        feeder: How batch and model make a loss.
        steps: Steps to take.
        optimizer: The user's own, copied with its state; Adam where not given or not copied.
        learning_rate: Of that Adam.
        shadow: Tensors to begin from instead of the model's own, by ``id`` of the original.
        more: Batches to take in turns with it. On one alone, a model that cannot learn the task
            learns the samples by heart, and its loss falls all the same.

    Returns:
        The history of the steps, and the tensors after them.
    """
    model = getattr(model, "_orig_mod", model)
    check_fit(model, batch)
    owners = feeder.owners(model)
    copies = make_shadow(owners, None)
    for key, tensor in (shadow or {}).items():
        copies[key] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    losses: list[float] = []
    with untouched(owners, copies), torch.enable_grad(), kernels.interpreted():
        stepper = _on_copies(optimizer, copies, learning_rate)
        watch = _Watched(model, stepper, budget="all", looks=False, name="rehearsal")
        with watch:
            watch.record.run = replace(watch.record.run, rehearsal=optimizer is None)
            turns = (batch, *more)
            for step in range(steps):
                stepper.zero_grad(set_to_none=True)
                fed = map_tensors(turns[step % len(turns)], lambda tensor: tensor.detach().clone())
                loss = check_loss(feeder.loss(model, fed))
                loss.backward()  # type: ignore[no-untyped-call]
                stepper.step()
                losses.append(float(loss.detach()))
        history = watch.history()
    return Rehearsal(
        steps=len(losses),
        losses=tuple(losses),
        history=history,
        shadow={
            key: tensor.detach().requires_grad_(tensor.requires_grad)
            for key, tensor in copies.items()
        },
    )


def rehearsed_of(rehearsal: Rehearsal) -> Rehearsed:
    """What remedies read of it."""
    norms = rehearsal.history["step"]["log10_norm"]
    return Rehearsed(
        losses=rehearsal.losses,
        log10_norms=tuple(float(value) for value in norms[:, 0]) if norms.size else (),
        own_optimizer=not rehearsal.history.run.rehearsal,
    )


class _Watched(Watch):
    """Every measurement at every step: there are only a few."""

    @override
    def _observer(
        self, everything: bool, share: float, optimizers: list[Optimizer] | None
    ) -> Observer:
        observer = super()._observer(everything, share, optimizers)
        once_at_the_end = {"looks": 1_000_000, "histograms": 1_000_000, "rules": 1_000_000}
        observer.schedule = Schedule(
            share,
            {
                name: _with_stride(tier, once_at_the_end.get(name, 1))
                for name, tier in observer.schedule.tiers.items()
            },
        )
        return observer

    @override
    def _judge(self) -> list[Any]:
        return []  # the engine asks the rules once, when the look is known too


def _with_stride(tier: Tier, stride: int) -> Tier:
    """The tier, measured at another stride."""
    return replace(tier, stride=stride)


def _on_copies(
    optimizer: Optimizer | None, copies: Mapping[int, Tensor], learning_rate: float
) -> Optimizer:
    """An optimizer over the copies: the user's own with its state, or Adam."""
    if optimizer is None or not can_be_copied(optimizer):
        trained = [tensor for tensor in copies.values() if tensor.requires_grad]
        # Adam's own 1e-8 is zero in float16, and its steps then are NaN: our doing alone.
        half = any(tensor.dtype == torch.float16 for tensor in trained)
        return torch.optim.Adam(trained, lr=learning_rate, eps=1e-4 if half else 1e-8)
    # Not type(optimizer)(**defaults): AdamW raises, and groups have settings of their own.
    twin = copy.copy(optimizer)
    # A scheduler puts its own step() on the instance, which steps the original.
    vars(twin).pop("step", None)
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(twin, hooks, OrderedDict())
    # Parameters of other models stay out: these steps must not reach them.
    twin.param_groups = [
        {**group, "params": [copies[id(p)] for p in group["params"] if id(p) in copies]}
        for group in optimizer.param_groups
    ]
    twin.state = defaultdict(
        dict,
        {copies[id(p)]: copy.deepcopy(s) for p, s in optimizer.state.items() if id(p) in copies},
    )
    return twin


def can_be_copied(optimizer: Optimizer) -> bool:
    """Whether its steps can be taken on copies: torch's own, stepping without a closure."""
    return type(optimizer).__module__.startswith("torch.optim") and not isinstance(
        optimizer, torch.optim.LBFGS
    )
