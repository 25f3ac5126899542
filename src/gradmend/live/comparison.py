"""Several runs side by side: their figures overlaid, their verdicts in columns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from gradmend.live import views
from gradmend.live.follower import Follower
from gradmend.live.gallery import Gallery
from gradmend.live.shelf import Pulse, pulse
from gradmend.live.source import POLL, Source
from gradmend.live.views import Body
from gradmend.live.work import Desk, aside

_UNREADABLE = ("gone", "damaged")


class Comparison(Source):
    """Some runs, followed together.

    Args:
        runs: In the order asked for; the first has the first colour.
        figures: Where figures are built.
    """

    def __init__(self, runs: Sequence[Follower], figures: Desk) -> None:
        super().__init__()
        self.runs = tuple(runs)
        self._gallery = Gallery(
            figures, lambda name: views.compared_figure(self._folders(), name), self._pulse
        )

    async def page(self, source: str) -> str:
        """The page."""
        return await aside(views.compare_page, await self._columns(), self._folders(), source)

    async def figure(self, name: str) -> Body | None:
        """One figure; None where no run holds anything of it.

        Raises:
            UnknownName: If there is none of that name.
        """
        return await self._gallery.get(name, live=bool(self.listeners))

    async def follow(self) -> None:
        """Follow each, and put together what they say."""
        seen: list[object] = []
        async with AsyncExitStack() as stack:
            for one in self.runs:
                await stack.enter_async_context(one.listening())
            while True:
                for failure in filter(None, (one.failure() for one in self.runs)):
                    raise failure
                state = joint_state(one.snapshot.state for one in self.runs)
                if state and state != self.snapshot.state:
                    self.publish(state=state)
                sections = [one.snapshot.sections for one in self.runs]
                if len(seen) != len(sections) or any(
                    new is not old for new, old in zip(sections, seen, strict=True)
                ):
                    seen = list(sections)
                    html = await aside(
                        views.compare_sections, await self._columns(), self._folders()
                    )
                    self.publish(sections=html)
                if self._gallery.announce(views.COMPARED):
                    self.publish(figures=self._gallery.versions)
                await asyncio.sleep(POLL)

    def _pulse(self, name: str) -> Pulse:
        del name  # unused: each is made of all runs
        return tuple(part for one in self.runs for part in pulse(one.run.folder))

    def _folders(self) -> dict[str, Path]:
        return {one.run.name: one.run.folder for one in self.runs}

    async def _columns(self) -> list[tuple[str, views.Material]]:
        return [(one.run.name, await one.material()) for one in self.runs]


def joint_state(states: Iterable[Any]) -> dict[str, Any]:
    """The furthest step, the newest writing; running as long as one runs."""
    known = [state for state in states if state]
    if not known:
        return {}
    ranked = sorted(known, key=lambda s: (s["status"] != "running", s["status"] in _UNREADABLE))
    steps = [state["step"] for state in known if state["step"] is not None]
    times = [state["written"] for state in known if state["written"] is not None]
    return {
        "status": ranked[0]["status"],
        "step": max(steps, default=None),
        "written": max(times, default=None),
        "running": sum(state["status"] == "running" for state in known),
        "runs": len(known),
    }
