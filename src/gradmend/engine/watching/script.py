"""Watching a whole process: whatever it builds and however it trains."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Self

from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.engine.watching.beginning import MOST_MODELS, Beginning, beginning_of
from gradmend.engine.watching.calls import HeldCall
from gradmend.engine.watching.discovery import DiscoveringObserver
from gradmend.engine.watching.watch import Watch
from gradmend.errors import GradmendError
from gradmend.records.history import Event
from gradmend.records.trace import Trace

TRIES = 16
"""Steps in which a model is called and no optimizer that holds it steps, until it is taken for one
that is not trained: a teacher, a critic that has its turn now and then (our choice)."""


class ScriptWatch(Watch):
    """Watches every optimizer of a process, from before the first module is built.

    Args:
        folder: Makes the run's folder when the first step has been taken, so that a script that
            never trains leaves none; ``None`` writes nothing.
        budget, looks, stop_when_dead, name, command: As for :class:`Watch`.
        beginnings: Keep how each model began, and its first batch, for
            :func:`gradmend.engine.script.cause.cause_of`; only where there are looks.
    """

    _kind = DiscoveringObserver

    def __init__(
        self,
        *,
        folder: Callable[[], Path] | None,
        budget: str | float,
        looks: bool,
        stop_when_dead: bool,
        name: str,
        command: str,
        beginnings: bool = True,
    ) -> None:
        super().__init__(
            budget=budget, looks=looks, stop_when_dead=stop_when_dead, name=name, command=command
        )
        self._make_folder = folder
        self._keeps_beginnings = beginnings and looks
        self.beginnings: list[Beginning] = []
        """How the models began that were trained, in the order of their first steps."""
        self._taken: tuple[HeldCall, Trace] | None = None
        self._tries: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._fresh: dict[int, bool] = {}
        if self._keeps_beginnings:
            self._discovery.wanted = self._wants
            self._discovery.before_step = self._note_beginnings

    @override
    def __enter__(self) -> Self:
        self.taps.open(constructions=True)
        self.observer.interventions.open()
        self._discovery.follow = self.taps.follow_roots
        return self

    @property
    def _discovery(self) -> DiscoveringObserver:
        assert isinstance(self.observer, DiscoveringObserver)
        return self.observer

    @override
    def _after_iteration(self, step: int) -> None:
        if step == 0:
            self._open_folder()
            self._note_skipped()
        self._discovery.look_around()
        super()._after_iteration(step)

    @override
    def _look(self, call: HeldCall) -> None:
        before = self.looks[-1] if self.looks else None
        super()._look(call)
        last = self.looks[-1] if self.looks else None
        self._taken = (call, last.trace) if last is not None and last is not before else None

    def _wants(self, root: nn.Module) -> bool:
        """Whether a model's first step is still to be looked at."""
        if len(self.beginnings) >= MOST_MODELS or self._tries.get(root, 0) >= TRIES:
            return False
        models = (
            self.observer.roster.models()
        )  # parts of one that are called by themselves are none
        known = any(each.root is root for each in self.beginnings)
        return not known and any(root is model for model in models)

    def _note_beginnings(self, optimizer: Optimizer) -> None:
        """Look at the models that an optimizer is about to change for the first time."""
        seen, taken, self._taken = self.observer, self._taken, None
        fresh = self._fresh.setdefault(id(optimizer), not optimizer.state)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for call in reversed([*self._discovery.awaited.values(), *seen.calls]):
            root = call.root()
            if root is None or not call.was_trained or not self._wants(root):
                continue
            if not any(id(p) in held for p in root.parameters()):
                self._tries[root] = self._tries.get(root, 0) + 1
                continue
            with seen.tier("looks"):
                self.beginnings.append(
                    beginning_of(
                        call,
                        optimizer,
                        number=seen.roster.optimizer(optimizer),
                        step=seen.step,
                        calls=seen.calls,
                        heard=seen.heard_losses,
                        losses=seen.backward_losses,
                        taken=taken[1] if taken is not None and taken[0] is call else None,
                        trained=not fresh,
                    )
                )

    def _note_skipped(self) -> None:
        """A gradient scaler left the first step out: it is looked at all the same."""
        if self._keeps_beginnings and not self.beginnings:
            for optimizer in self.observer.roster.optimizers_alive():
                self._note_beginnings(optimizer)

    def _open_folder(self) -> None:
        if self._make_folder is None:
            return
        try:
            self.folder = self._make_folder()
            self.record.open(self.folder)
        except (GradmendError, OSError) as error:
            self.folder = None
            self.record.trouble = str(error)
            self.record.event(
                Event(step=0, kind="note", text=f"the run is not written to disk: {error}")
            )
