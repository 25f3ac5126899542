"""A training that a plant can change: model, data, loss, optimizer and loop, all in reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Batch = tuple[Any, Any]
Act = Callable[["Training"], None]

WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
BENDS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
RATES = {"SGD": 0.1, "momentum": 0.03, "Adam": 3e-3, "AdamW": 3e-3, "RMSprop": 1e-3}
STEPS = 120


@dataclass
class Training:
    """One training as people write it, before it runs.

    A plant changes any of these fields, or the modules of ``model``; ``step`` reads them all.
    """

    name: str
    """Of the architecture."""
    task: str
    """``classify``, ``binary``, ``regress``, ``rebuild``, ``language`` or ``adversarial``."""
    model: nn.Module
    draw: Callable[[], Batch]
    loss_fn: Callable[[Any, Any], Tensor]
    optimizer_name: str = "Adam"
    rate: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    held: Callable[[nn.Module], Iterable[Any]] = lambda model: (
        p for p in model.parameters() if p.requires_grad
    )
    """What the optimizer is built with."""
    clear: bool = True
    accumulate: int = 1
    divide: bool = True
    scaler: torch.amp.GradScaler | None = None
    schedule: Callable[[int], float] | None = None
    """Factor on the rate."""
    before: list[Act] = field(default_factory=list)
    """At the beginning of each iteration."""
    after_backward: list[Act] = field(default_factory=list)
    after_step: list[Act] = field(default_factory=list)
    steps: int = STEPS
    number: int = 0
    optimizers: list[Optimizer] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    critic: nn.Module | None = None
    """The adversary, where there is one."""

    # ---- names, in forward order

    def named(self, *kinds: type[nn.Module]) -> list[str]:
        """Modules of some kinds that a plant may change; none inside attention or a cell."""
        inside = [
            f"{name}."
            for name, module in self.model.named_modules()
            if isinstance(module, nn.MultiheadAttention | nn.RNNBase)
        ]
        return [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, kinds)
            and not any(name.startswith(prefix) for prefix in inside)
            and any(p.requires_grad for p in module.parameters()) >= isinstance(module, WEIGHTS)
        ]

    @property
    def layers(self) -> list[str]:
        """Linear and convolutional layers that train, the output last."""
        return self.named(*WEIGHTS)

    @property
    def bends(self) -> list[str]:
        """Activation modules."""
        return self.named(*BENDS)

    def at(self, name: str) -> Any:
        """The module of that name."""
        return self.model.get_submodule(name)

    def put(self, name: str, module: nn.Module) -> None:
        """Replace the module of that name."""
        parent, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, module)

    # ---- the loop

    def begin(self) -> None:
        """Build the optimizer; after the plant, before the first step."""
        self.optimizers = [self.make_optimizer(self.held(self.model))]
        if self.critic is not None:
            self.optimizers.append(self.make_optimizer(self.critic.parameters()))

    def make_optimizer(self, held: Iterable[Any]) -> Optimizer:
        """The optimizer by name over what it is to hold."""
        rate = RATES[self.optimizer_name] if self.rate is None else self.rate
        options = dict(self.options)
        if self.optimizer_name == "momentum":
            return torch.optim.SGD(list(held), lr=rate, momentum=0.9, **options)
        if self.critic is not None and "Adam" in self.optimizer_name:
            options.setdefault("betas", (0.5, 0.999))
        made: Optimizer = getattr(torch.optim, self.optimizer_name)(list(held), lr=rate, **options)
        return made

    @property
    def models(self) -> list[nn.Module]:
        """What is watched."""
        return [self.model] if self.critic is None else [self.model, self.critic]

    def step(self) -> None:
        """One iteration."""
        for act in self.before:
            act(self)
        if self.schedule is not None:
            factor = self.schedule(self.number)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = factor * group.setdefault("first_lr", group["lr"])
        if self.critic is None:
            self.descend()
        else:
            self.play()
        self.number += 1

    def descend(self) -> None:
        """Forward, backward, step."""
        (optimizer,) = self.optimizers
        if self.clear:
            optimizer.zero_grad()
        for _ in range(self.accumulate):
            x, y = self.draw()
            loss = self.loss_fn(self.model(x), y)
            if self.divide and self.accumulate > 1:
                loss = loss / self.accumulate
            self.backward(loss)
        self.losses.append(float(loss.detach()))
        self.finish(optimizer)

    def play(self) -> None:
        """The critic's step, then the maker's."""
        assert self.critic is not None
        noise, real = self.draw()
        makers, critics = self.optimizers
        made = self.model(noise)
        critics.zero_grad()
        soft = nn.functional.softplus
        sure = soft(-self.critic(real)).mean() + soft(self.critic(made.detach())).mean()
        sure.backward()  # type: ignore[no-untyped-call]
        critics.step()
        if self.clear:
            makers.zero_grad()
        loss = self.loss_fn(made, real)
        self.backward(loss)
        self.losses.append(float(loss.detach()))
        self.finish(makers)

    def backward(self, loss: Tensor) -> None:
        """Of one loss, scaled where that is asked for."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def finish(self, optimizer: Optimizer) -> None:
        """What follows the backward pass."""
        for act in self.after_backward:
            act(self)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        for act in self.after_step:
            act(self)

    def run(self) -> None:
        """All steps."""
        while self.number < self.steps:
            self.step()


def judged(trained: Training, batches: list[Batch], healthy: Training) -> float:
    """The healthy loss of a trained model on some batches; infinite where it is no number.

    Samples, for a maker, whose loss means nothing alone: how far the means and spreads of what
    it makes lie from the real ones.
    """
    model = trained.model
    mode = {m: m.training for m in model.modules()}
    total = 0.0
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it reads modules that a plant has wrapped
    try:
        model.eval()
        kind = next(model.parameters()).dtype
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for x, y in batches:
                out = model(x.to(kind) if torch.is_floating_point(x) else x).float()
                if healthy.critic is None:
                    total += float(healthy.loss_fn(out, y))
                    continue
                for ours, real in ((out.mean(0), y.mean(0)), (out.std(0), y.std(0))):
                    total += float((ours - real).square().mean())
    except (RuntimeError, ValueError, IndexError):
        return math.inf
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in mode.items():
            module.training = training
    total /= len(batches)
    return total if math.isfinite(total) else math.inf
