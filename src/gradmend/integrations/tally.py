"""What a trial reads off a script: its losses, its evaluations, and when the next step begins."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.engine.watching.discovery import DiscoveringObserver
from gradmend.engine.watching.script import ScriptWatch

Losses = list[list[tuple[int, float]]]
"""For each optimizer, in the order of their first steps: (step, loss)."""


class Evaluations:
    """Values of loss functions that nobody descends on, averaged over what follows one step.

    Counted are calls without gradients, and calls on a model in evaluation mode that no backward
    follows: an evaluation that forgot ``no_grad``.
    """

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self._step = 0
        self._sums: dict[str, tuple[float, int]] = {}
        self._graded: list[tuple[str, float]] = []

    def heard(self, step: int, name: str, value: Tensor, *, evaluating: bool) -> None:
        """A loss function has returned, after so many steps."""
        if value.requires_grad and not evaluating:
            return
        number = float(value.detach().float().mean()) if value.numel() else math.nan
        self._at(step)
        if value.requires_grad:
            self._graded.append((name, number))
        else:
            self._add(name, number)

    def descended(self, *, evaluating: bool) -> None:
        """Backward begins: a model that trains in evaluation mode was no evaluation."""
        if evaluating:
            self._graded.clear()

    def _at(self, step: int) -> None:
        if step != self._step:
            self.flush()
            self._step = step

    def _add(self, name: str, value: float) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, count + 1)

    def flush(self) -> None:
        """Close the block that is open."""
        for name, value in self._graded:
            self._add(name, value)
        for name, (total, count) in self._sums.items():
            self.done.append({"name": name, "value": total / count, "step": self._step})
        self._graded, self._sums = [], {}

    def take(self) -> list[dict[str, Any]]:
        """Those since the last time."""
        self.flush()
        done, self.done = self.done, []
        return done


class TallyingObserver(DiscoveringObserver):
    """Also keeps every step's loss, and calls ``begins`` when a training step begins."""

    begins: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: Losses = []
        self.evaluations = Evaluations()
        self.last_called: weakref.ref[nn.Module] | None = None

    @property
    def sleeps(self) -> int:
        """None: every step's loss is wanted."""
        return 0

    @sleeps.setter
    def sleeps(self, steps: int) -> None:
        del steps  # unused

    @property
    def _evaluating(self) -> bool:
        root = self.last_called() if self.last_called is not None else None
        return root is not None and not root.training

    def _begins(self) -> None:
        """A training step begins; what is waited for now is no time of the training."""
        began = time.perf_counter()
        self.begins()
        if self._last_end is not None:
            self._last_end += time.perf_counter() - began

    @override
    def root_begins(
        self, root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.last_called = weakref.ref(root)
        if torch.is_grad_enabled() and (root.training or self._in_eval):
            self._begins()
        super().root_begins(root, args, kwargs)

    @override
    def backward_begins(self, losses: tuple[Tensor, ...]) -> None:
        self.evaluations.descended(evaluating=self._evaluating)
        self._begins()
        super().backward_begins(losses)

    @override
    def step_begins(self, optimizer: Optimizer, has_closure: bool) -> None:
        self._begins()
        super().step_begins(optimizer, has_closure)
        # A second step of the same optimizer has ended the iteration just now.
        self._begins()

    @override
    def loss_made(self, name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            return
        self.evaluations.heard(self.step, name, value, evaluating=self._evaluating)

    @override
    def _stepped_by(self, optimizer: Optimizer, *, skipped: bool) -> None:
        at, step = self.roster.optimizer(optimizer), self.step
        heard = [self.handed_loss] if self.handed_loss is not None else self.backward_losses
        while len(self.losses) <= at:
            self.losses.append([])
        if heard:
            fine = all(map(math.isfinite, heard))
            self.losses[at].append((step, math.fsum(heard) if fine else sum(heard)))
        super()._stepped_by(optimizer, skipped=skipped)

    def take_losses(self) -> Losses:
        """Those since the last time."""
        taken, self.losses = self.losses, [[] for _ in self.losses]
        return taken


class TallyingWatch(ScriptWatch):
    """Watches a script for a trial: every loss is kept, and steps can be waited at."""

    _kind = TallyingObserver

    def __init__(self, *, in_full: bool) -> None:
        super().__init__(
            folder=None,
            budget="all" if in_full else "2%",
            looks=in_full,
            stop_when_dead=False,
            name="",
            command="",
            beginnings=in_full,
        )

    @property
    def tally(self) -> TallyingObserver:
        """What it has counted."""
        assert isinstance(self.observer, TallyingObserver)
        return self.observer
