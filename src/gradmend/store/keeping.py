"""Which rows and events of a run are judged: the same of a run in memory as of one read back.

Verdicts depend on the rows they are passed on. So what a watcher remembers and what a reader takes
from a folder is chosen here, by the number of rows alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Event

FIRST, LAST, BETWEEN = 64, 256, 128
"""Rows kept of a table: the first, the last, and evenly spread ones between them."""
MOST_NUMBERS = 16_000_000
"""Numbers kept of a table at most (64 MB); wide tables keep fewer rows."""
MOST_EVENTS = 512
"""Events of one kind that are kept: the first half and the last half of them."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many rows of a table are kept."""

    first: int
    between: int
    last: int

    @classmethod
    def of(cls, numbers: int) -> Room:
        """For a table with so many numbers in a row."""
        share = MOST_NUMBERS // max(1, numbers)
        return cls(
            first=min(FIRST, max(4, share // 7)),
            between=min(BETWEEN, max(8, share // 4)),
            last=min(LAST, max(8, share // 2)),
        )

    def places(self, rows: int) -> NDArray[np.intp]:
        """Which of so many rows are kept, ascending.

        Between the first and the last ones every 2^k-th, with the smallest k that fits.
        """
        first = min(rows, self.first)
        last = min(rows - first, self.last)
        passed, stride = rows - first - last, 1
        while -(-passed // stride) > self.between:
            stride *= 2
        return np.concatenate(
            [
                np.arange(first),
                first + np.arange(0, passed, stride),
                np.arange(rows - last, rows),
            ]
        )


def both_ends(events: Sequence[Event]) -> tuple[Event, ...]:
    """The first and the last events of every kind, those between left out."""
    count, seen = Counter(event.kind for event in events), Counter[str]()
    half, kept = MOST_EVENTS // 2, []
    for event in events:
        at = seen[event.kind]
        seen[event.kind] += 1
        if at < half or at >= count[event.kind] - (MOST_EVENTS - half):
            kept.append(event)
    return tuple(kept)
