"""Watching a whole process: whatever it builds and however it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

from typing_extensions import override

from gradmend.engine.watching.discovery import DiscoveringObserver
from gradmend.engine.watching.watch import Watch
from gradmend.errors import GradmendError
from gradmend.records.history import Event


class ScriptWatch(Watch):
    """Watches every optimizer of a process, from before the first module is built.

    Args:
        folder: Makes the run's folder when the first step has been taken, so that a script that
            never trains leaves none; ``None`` writes nothing.
        budget, looks, stop_when_dead, name, command: As for :class:`Watch`.
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
    ) -> None:
        super().__init__(
            budget=budget, looks=looks, stop_when_dead=stop_when_dead, name=name, command=command
        )
        self._make_folder = folder

    @override
    def __enter__(self) -> Self:
        self.taps.open(constructions=True)
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
        self._discovery.look_around()
        super()._after_iteration(step)

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
