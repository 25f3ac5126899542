"""What a page listens to: a state, sections and figures that change, shared by all who look."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

SILENCE = 15.0
"""Seconds after which a comment tells whatever stands between that the stream is alive."""
POLL = 0.25
"""Seconds between two looks at whether something was written."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a page shows, at one moment."""

    state: Mapping[str, Any] = field(default_factory=dict)
    """``status``, ``step``, ``written`` (clock's time); empty where not known yet."""
    sections: Mapping[str, str] = field(default_factory=dict)
    """Inner markup by section; empty until the first report is there."""
    figures: Mapping[str, int] = field(default_factory=dict)
    """How often each has changed."""


class Source(ABC):
    """Looks at something as long as somebody listens, and tells all of them."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.listeners = 0
        self._beat = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def follow(self) -> None:
        """Look again and again, and publish what is new; cancelled when nobody listens."""

    def publish(self, **changes: Any) -> None:
        """Change the snapshot and wake those who listen."""
        self.snapshot = replace(self.snapshot, **changes)
        self._wake()

    def beat(self) -> asyncio.Event:
        """Set at the next change."""
        return self._beat

    def _wake(self) -> None:
        beat, self._beat = self._beat, asyncio.Event()
        beat.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Follow for as long as the block lasts."""
        self.listeners += 1
        try:
            if self._task is None or self._task.done():
                # What was seen last may be long ago; the page that connects is newer.
                self.snapshot = Snapshot(figures=self.snapshot.figures)
                self._task = asyncio.create_task(self.follow())
                self._task.add_done_callback(lambda _: self._wake())
            yield
        finally:
            self.listeners -= 1
            if not self.listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    def failure(self) -> BaseException | None:
        """What ended the following before its time."""
        task = self._task
        return task.exception() if task and task.done() and not task.cancelled() else None


async def messages(source: Source) -> AsyncIterator[str]:
    """Server-sent events: first everything, then what changes.

    A client that reads slowly gets fewer messages, never older ones: what it is sent is what there
    is when it can take it.
    """
    state: Mapping[str, Any] = {}
    sections: Mapping[str, str] = {}
    figures: Mapping[str, int] = {}
    yield "retry: 1000\n\n"
    async with source.listening():
        while True:
            beat, now = source.beat(), source.snapshot
            if now.state != state:
                state = now.state
                yield event("state", aged(state))
            changed = {k: html for k, html in now.sections.items() if sections.get(k) != html}
            if changed:
                sections = now.sections
                yield event("sections", changed)
            newer = [name for name, version in now.figures.items() if figures.get(name) != version]
            if newer:
                figures = now.figures
                yield event("figures", newer)
            failure = source.failure()
            if failure is not None:
                raise failure
            try:
                await asyncio.wait_for(beat.wait(), SILENCE)
            except TimeoutError:
                yield ": still here\n\n"


def aged(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state as it is told: how long ago, for no two clocks are the same."""
    told = dict(state)
    if "written" in told:
        written = told.pop("written")
        told["seconds"] = None if written is None else round(max(0.0, time.time() - written), 3)
    return told


def event(name: str, value: Any) -> str:
    """One message; JSON has no line breaks."""
    return f"event: {name}\ndata: {json.dumps(value, ensure_ascii=True)}\n\n"
