"""The verdicts of the list: for each run the sentence on its own page, from the same report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from gradmend.errors import BadInput
from gradmend.live.shelf import Pulse, Row, Shown, pulse
from gradmend.live.work import Desk

if TYPE_CHECKING:  # whose page names the list's own addresses
    from gradmend.live.follower import Follower
    from gradmend.live.views import Material

FIRST_FIGURES = 6
"""Figures of the newest run that are built before somebody asks: what stands on the first screens
(our choice)."""
LOOK = 0.05
"""Seconds between two looks at whether a desk is free."""


class Judge:
    """Asks for the reports of the runs in a list, the newest run's first, one at a time.

    What the watcher noted while it trained is another judgement: each finding when it began, with
    what was known then. A page judges the whole run as it stands, and by the rules of today. So the
    list says what the page says, and nothing before there is a report.

    Args:
        reports: Where reports are made; the next one waits until the last has had its share.
        find: The follower of a run, made where there is none; ``None`` where the run is gone.
        known: The followers there are.
    """

    def __init__(
        self,
        reports: Desk,
        find: Callable[[str], Follower | None],
        known: Mapping[Shown, Follower],
    ) -> None:
        self._reports, self._find, self._followers = reports, find, known
        self._said: dict[str, tuple[Pulse, str]] = {}

    def verdicts(self, rows: Sequence[Row]) -> dict[str, str]:
        """What is known so far, by the run's name."""
        for row in rows:
            run = Shown(row.summary.name, row.summary.path)
            found = self._followers[run].made if run in self._followers else None
            if found is not None:
                self._note(run.name, found)
        names = {row.summary.name for row in rows}
        self._said = {name: said for name, said in self._said.items() if name in names}
        return {name: sentence for name, (_, sentence) in self._said.items()}

    async def catch_up(self, rows: Sequence[Row]) -> None:
        """Make a report of each run that was written since its last one."""
        for row in rows:
            name, folder = row.summary.name, row.summary.path
            known = self._said.get(name)
            if row.summary.problem or (known is not None and known[0] == pulse(folder)):
                continue
            while self._reports.clock() < self._reports.free_at:
                await asyncio.sleep(LOOK)
            follower = self._find(name)
            if follower is not None:
                self._note(name, await follower.material())

    async def prepare(self, rows: Sequence[Row]) -> None:
        """The same before anybody asks, and what the newest run's page shows first."""
        for row in rows[:1]:
            follower = self._find(row.summary.name)
            if follower is None or row.summary.problem:
                continue
            found = await follower.material()
            self._note(row.summary.name, found)
            with suppress(BadInput):  # damaged; its page says so
                for name in found.figures[:FIRST_FIGURES]:
                    await follower.figure(name)
        await self.catch_up(rows)

    def _note(self, name: str, found: Material) -> None:
        self._said[name] = (found.pulse, found.verdict)
