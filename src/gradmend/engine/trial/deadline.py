"""What a trial may cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Tell = Callable[[str, float], None]
"""Called with what is going on and the share of the budget used, in [0, 1]."""


@dataclass(slots=True)
class Deadline:
    """A budget in seconds or in optimizer steps."""

    seconds: float | None = None
    steps: int | None = None
    began: float = field(default_factory=time.perf_counter)
    taken: int = 0

    def passed(self) -> bool:
        """Whether the budget is used up."""
        if self.steps is not None and self.taken >= self.steps:
            return True
        return self.seconds is not None and time.perf_counter() - self.began >= self.seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    @property
    def share(self) -> float:
        """Of the budget, what is used, in [0, 1]."""
        if self.seconds:
            return min(1.0, self.elapsed / self.seconds)
        return min(1.0, self.taken / self.steps) if self.steps else 0.0
