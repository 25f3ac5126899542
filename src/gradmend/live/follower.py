"""Follows one run while somebody looks at it, as cheaply as the training beside it deserves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

from gradmend.errors import BadInput, UnknownName
from gradmend.live import views
from gradmend.live.gallery import Gallery
from gradmend.live.shelf import Pulse, Shown, pulse, written_at
from gradmend.live.source import POLL, Source
from gradmend.live.views import Body, Material
from gradmend.live.work import Desk, aside
from gradmend.records.history import RunFacts
from gradmend.renderers.page.figure import Figure
from gradmend.store import manifest
from gradmend.store.reader import open_run

REPORTS = 2.0
"""Seconds between reports at least: findings do not change faster (our choice)."""
PROOF = 2.0
"""Seconds after which a run that writes nothing is asked whether its writer still lives."""


class Follower(Source):
    """One run.

    Args:
        run: Which.
        reports: Where reports are made, one at a time for all runs.
        figures: Where figures are built, likewise.
    """

    def __init__(self, run: Shown, reports: Desk, figures: Desk) -> None:
        super().__init__()
        self.run = run
        self._reports = reports
        self._material: Material | None = None
        self._reported_at = -REPORTS
        self._making: asyncio.Task[Material] | None = None
        self._gallery = Gallery(figures, self._draw, self._pulse)

    @property
    def made(self) -> Material | None:
        """The last report, as it is."""
        return self._material

    async def material(self) -> Material:
        """Report and sections, as new as the share of time that reports may take allows."""
        found = self._material
        if found is None:
            return await self._make()
        if found.running and self.snapshot.state.get("status") != "killed":
            await self._tell_state()
        if self._may_report() and self._stale(found, self._now()):
            return await self._make()
        return found

    async def page(self, source: str) -> str:
        """The page."""
        found = await self.material()
        return await aside(views.run_page, found, self.run.name, source)

    async def figure(self, name: str) -> Body | None:
        """One figure; None where the run holds nothing of it.

        Raises:
            UnknownName: If there is none of that name.
            BadInput: If the run cannot be read.
        """
        try:
            return await self._gallery.get(name, live=bool(self.listeners))
        except UnknownName:
            if self._material is not None:
                raise
        await self.material()  # it may be one of the report's own
        return await self._gallery.get(name, live=bool(self.listeners))

    async def follow(self) -> None:
        """Look for what was written, and publish it: state at once, the rest in its time."""
        seen: Pulse | None = None
        asked = 0.0
        while True:
            now = self._now()
            clock = time.monotonic()
            running = self.snapshot.state.get("status") == "running"
            if now != seen or (running and clock - asked > PROOF):
                asked = clock
                await self._tell_state()
                seen = now
            found = self._material
            if found is None:
                await self._make()
            elif self._idle() and self._may_report() and self._stale(found, now):
                self._making = asyncio.create_task(self._make_task())
            self._publish_material()
            if found is not None and self._gallery.announce(found.figures):
                self.publish(figures=self._gallery.versions)
            await asyncio.sleep(POLL)

    def _draw(self, name: str) -> Body | None:
        return views.figure(self.run, name, self._own)

    def _now(self) -> Pulse:
        return pulse(self.run.folder, self.run.rank)

    def _pulse(self, name: str) -> Hashable:
        """What changes with a figure: the run's files, or the looks where it is made of these."""
        found = self._material
        return found.looked if found and name in found.own else self._now()

    @property
    def _own(self) -> Mapping[str, Figure]:
        return self._material.own if self._material is not None else {}

    async def _tell_state(self) -> None:
        state = await aside(state_of, self.run)
        if state != self.snapshot.state:
            self.publish(state=state)

    def _stale(self, found: Material, now: Pulse) -> bool:
        """Whether a report tells less than there is: a killed writer changes no file."""
        return found.pulse != now or (
            found.running and self.snapshot.state.get("status") == "killed"
        )

    def _may_report(self) -> bool:
        now = self._reports.clock()
        return now >= self._reports.free_at and now >= self._reported_at + REPORTS

    def _idle(self) -> bool:
        """Whether no report is being made; raises what made the last one fail."""
        if self._making is None:
            return True
        if self._making.done():
            self._making.result()
            return True
        return False

    async def _make(self) -> Material:
        """The newest report; all who ask at a time wait for the same one."""
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make_task())
        return await asyncio.shield(self._making)

    async def _make_task(self) -> Material:
        self._reported_at = self._reports.clock()
        found = await self._reports.do(views.material, self.run)
        before = self._material
        if found.problem and before is not None and before.report is not None:
            # What was seen stays to be read; the state says that the run is gone or damaged.
            found = replace(before, pulse=found.pulse, problem=found.problem)
        self._material = found
        return found

    def _publish_material(self) -> None:
        if self._material is not None and self._material.sections is not self.snapshot.sections:
            self.publish(sections=self._material.sections)


def _facts_of_rank(run: Shown) -> RunFacts:
    """The manifest tells of the first rank; the others keep theirs in their databases."""
    return open_run(run.folder, rank=run.rank).run


def state_of(run: Shown) -> dict[str, Any]:
    """How the run stands; ``gone`` where its folder went, ``damaged`` where it cannot be read."""
    written = written_at(run.folder, run.rank)
    if written is None:
        return {"status": "gone", "step": None, "written": None, "title": run.name}
    try:
        facts = manifest.read(run.folder) if not run.rank else _facts_of_rank(run)
    except BadInput:
        return {"status": "damaged", "step": None, "written": written, "title": run.name}
    title = f"{facts.name or run.name}: {facts.status} (gradmend)"
    return {"status": facts.status, "step": facts.steps, "written": written, "title": title}
