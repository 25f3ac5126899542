"""How one repair is judged: fresh models, other seeds, the same steps, unseen data.

``fix`` gets the sick training's model, optimizer, loss and pre-drawn batches. What it prescribes
is applied to freshly built models with three other seeds, which train for exactly as long as the
original does, and are judged by the *healthy* loss on batches that nobody trained on. Beside them:
the sick model as it is, the sick model with as many steps more as finding the repair took (its
better result counts), and the healthy twin.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from _repair_judge import Batch, judged
from _repair_subjects import CLEAN, Subject
from planted.cells import JUDGED_ON
from planted.training import Training
from torch import Tensor, nn

import gradmend
from gradmend.records.prescription import Prescription

STEPS = 120
"""Of a training, at most; a subject may ask for less."""
SEEDS = (101, 102, 103)
"""Added to a subject's own seed, which is the one that ``fix`` sees."""


@dataclass(frozen=True)
class Data:
    """Batches that were drawn once."""

    train: list[Batch]
    extra: list[Batch]
    """More of the same kind, for the original's extra steps."""
    unseen: list[Batch]


@dataclass(frozen=True)
class Repaired:
    """A model with a prescription applied, ready to train."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: Callable[[Any, Any], Tensor]
    train: list[Batch]
    unseen: list[Batch]


def length(subject: Subject) -> int:
    """Steps of one training."""
    return min(STEPS, subject.make(subject.seed, subject.sick).steps)


def collected(subject: Subject, sick: bool, steps: int) -> Data:
    """The batches that every training of a subject sees."""
    source = subject.make(subject.seed, sick)
    train = [source.draw() for _ in range(steps)]
    unseen = [source.draw() for _ in range(JUDGED_ON)]
    extra = [source.draw() for _ in range(2 * steps)]
    if sick and subject.what in CLEAN:
        clean = subject.make(subject.seed, False)
        unseen = [clean.draw() for _ in range(steps + JUDGED_ON)][steps:]
    return Data(train, extra, unseen)


def built(subject: Subject, seed: int, sick: bool) -> Training:
    """A training with its optimizer, before its first step."""
    training = subject.make(seed, sick)
    training.begin()
    return training


def descended(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Sequence[Batch],
    steps: int,
    seed: int,
    begin: int = 0,
) -> None:
    """Train by the plainest loop, batches in an order drawn from the seed; stop at broken weights.

    A model that raises stays where it was: it is judged as it is.
    """
    torch.manual_seed(seed)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
    for number in range(begin, begin + steps):
        x, y = batches[order[number % len(order)]]
        x = x.clone() if isinstance(x, Tensor) else x
        optimizer.zero_grad()
        try:
            loss = loss_fn(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        except (RuntimeError, ValueError, IndexError):
            return
        if not math.isfinite(float(loss.detach())) and broken(model):
            return


def broken(model: nn.Module) -> bool:
    """Whether a weight is not finite."""
    return not all(bool(p.detach().isfinite().all()) for p in model.parameters())


def applied(subject: Subject, prescription: Prescription, data: Data, seed: int) -> Repaired:
    """A prescription on a freshly built model; its loss and batches as it changes them."""
    training = built(subject, seed, subject.sick)
    optimizer = training.optimizers[0]
    every = [*data.train, *data.unseen]
    fixed = gradmend.apply(
        prescription,
        training.model,
        optimizer=optimizer,
        batches=every,
        loss_fn=training.loss_fn,
        seed=seed,
    )
    given = fixed.batches if fixed.batches is not None else every
    changed = list(given() if callable(given) else given)
    unseen = changed[-len(data.unseen) :]
    both = zip(data.unseen, unseen, strict=True)
    return Repaired(
        fixed.model,
        fixed.optimizer or optimizer,
        fixed.loss_fn or training.loss_fn,
        changed[: -len(data.unseen)],
        [(x, y if affine(old, y) else old) for (_, old), (x, y) in both],
    )


def affine(old: Tensor, new: Tensor) -> bool:
    """Whether targets were only shifted and scaled: then a regression is judged in their units."""
    if old.shape != new.shape or not torch.is_floating_point(new) or old.numel() < 3:
        return False
    pair = torch.stack([old.flatten().double(), new.flatten().double()])
    return bool(torch.corrcoef(pair)[0, 1] > 0.99999)


def outcomes(
    subject: Subject, prescription: Prescription, data: Data, healthy: Training, steps: int
) -> list[float]:
    """Unseen losses of fresh, repaired, trained models, a seed each."""
    found = []
    for seed in SEEDS:
        seed += subject.seed
        ready = applied(subject, prescription, data, seed)
        descended(ready.model, ready.optimizer, ready.loss_fn, ready.train, steps, seed)
        found.append(judged(ready.model, ready.unseen, healthy))
    return found


def plain(subject: Subject, sick: bool, data: Data, healthy: Training, steps: int) -> list[float]:
    """Unseen losses of trained models without a repair, a seed each."""
    found = []
    for seed in SEEDS:
        t = built(subject, seed + subject.seed, sick)
        descended(t.model, t.optimizers[0], t.loss_fn, data.train, steps, seed + subject.seed)
        found.append(judged(t.model, data.unseen, healthy))
    return found


def longer(
    subject: Subject, data: Data, healthy: Training, steps: int, more: int, sick: Sequence[float]
) -> list[float]:
    """The sick model given more steps on more data; the better of both lengths."""
    found = []
    for seed, before in zip(SEEDS, sick, strict=True):
        t = built(subject, seed + subject.seed, subject.sick)
        batches = [*data.train, *data.extra]
        descended(t.model, t.optimizers[0], t.loss_fn, data.train, steps, seed + subject.seed)
        descended(t.model, t.optimizers[0], t.loss_fn, batches, more, seed + subject.seed, steps)
        found.append(min(before, judged(t.model, data.unseen, healthy)))
    return found


def untrained(subject: Subject, data: Data, healthy: Training) -> float:
    """What the healthy twin begins with."""
    models = (subject.make(seed + subject.seed, False).model for seed in SEEDS)
    return statistics.fmean(judged(model, data.unseen, healthy) for model in models)
