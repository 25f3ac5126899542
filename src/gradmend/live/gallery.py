"""Figures that are built when asked for, once for all who look, and announced when they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

from gradmend.live.views import Body
from gradmend.live.work import SHARE, Desk, aside

OFTEN = 0.5
"""Seconds between two versions of a figure at least: twice a second is live to an eye."""
MOST_KEPT = 64
"""Figures of a run that are kept; there can be one for each of 10,000 layers."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure as it was built."""

    body: Body | None
    pulse: Hashable
    """Just before."""
    version: int
    seconds: float


class Gallery:
    """The figures of a run, or of several.

    Args:
        desk: Where they are built.
        build: Builds one by its id.
        pulse: What changes whenever the figure of that id may.
    """

    def __init__(
        self, desk: Desk, build: Callable[[str], Body | None], pulse: Callable[[str], Hashable]
    ) -> None:
        self._desk, self._make, self._pulse = desk, build, pulse
        self._drawn: dict[str, Drawn] = {}
        self._announced: dict[str, tuple[float, Hashable]] = {}
        self.versions: Mapping[str, int] = {}
        """How often each was announced."""

    async def get(self, name: str, *, live: bool) -> Body | None:
        """A figure; None where there is nothing to draw.

        Args:
            name: Its id.
            live: Whether somebody is told of new versions; then the announced one will do.

        Raises:
            UnknownName: If there is none of that name.
            BadInput: If the run cannot be read.
        """
        known = self._fresh(name, live) or await self._build(name, live)
        return known.body

    def announce(self, ids: Iterable[str]) -> bool:
        """Give new versions to those that may have changed and whose turn it is."""
        clock, newer = time.monotonic(), {}
        for name in dict.fromkeys([*ids, *self._drawn]):
            last, now = self._announced.get(name), self._pulse(name)
            if last is not None and (last[1] == now or clock < last[0] + self.pause(name)):
                continue
            self._announced[name] = (clock, now)
            newer[name] = self.versions.get(name, 0) + 1
        if newer:
            self.versions = {**self.versions, **newer}
        return bool(newer)

    def pause(self, name: str) -> float:
        """Between versions: so long that all that are drawn take their share of a core, no more."""
        known = self._drawn.get(name)
        return max(OFTEN, known.seconds * len(self._drawn) / SHARE) if known else OFTEN

    def _fresh(self, name: str, live: bool) -> Drawn | None:
        known = self._drawn.get(name)
        if known is None:
            return None
        announced = live and known.version == self.versions.get(name)
        return known if announced or known.pulse == self._pulse(name) else None

    async def _build(self, name: str, live: bool) -> Drawn:
        async with self._desk.turn():
            known = self._fresh(name, live)
            if known is not None:  # somebody else asked for it meanwhile
                return known
            now, version, begun = self._pulse(name), self.versions.get(name, 0), self._desk.clock()
            made = await aside(self._make, name)
            drawn = Drawn(made, now, version, self._desk.clock() - begun)
            self._drawn.pop(name, None)
            self._drawn[name] = drawn
            while len(self._drawn) > MOST_KEPT:
                del self._drawn[next(iter(self._drawn))]
            return drawn
