"""One training inside a trial: a prescription, or none for the original, and how far it came."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradmend.engine.state import Progress
from gradmend.records.prescription import Prescription
from gradmend.records.verdict import Arm, Figure, Yardstick

MOST_POINTS = 200
"""Points of a loss curve that a verdict keeps."""


@dataclass(slots=True)
class Runner:
    """An arm while it runs."""

    prescription: Prescription | None
    seed: int
    steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    """By the step it was judged at; smaller is better, so a figure of which more is better stands
    here with its sign turned."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """Of its last evaluation, where a script has one of its own; a winner is worse in none."""
    still: bool = False
    """Whether it stands still and was not trained to the end: it stays where it is."""
    diverged: bool = False
    error: str | None = None
    failure: Exception | None = None
    """What the user's model, loss or data raised, where that is the error."""
    seconds: float = 0.0
    progress: Progress | None = None

    @property
    def name(self) -> str:
        """Of its remedies."""
        return " + ".join(self.prescription.remedies) if self.prescription else "original"

    @property
    def size(self) -> tuple[int, ...]:
        """How much it changes."""
        return self.prescription.size if self.prescription else ()

    @property
    def score(self) -> float:
        """The unseen loss it was last judged by; infinite where it diverged or failed."""
        return self.at(self.steps)

    def at(self, step: int) -> float:
        """The unseen loss at a step; infinite where it never came to be judged there."""
        if self.still:
            step = min(step, self.steps)
        return math.inf if self.diverged else self.scores.get(step, math.inf)

    @property
    def began(self) -> float:
        """The unseen loss before the first step where it was judged, or the first training loss."""
        first = self.losses[0][1] if self.losses else math.nan
        return self.scores.get(0, first)

    def unfinished(self, goal: int) -> bool:
        """Whether it should have come to a goal and did not: the budget ended."""
        at_work = not (self.diverged or self.still) and self.error is None
        return at_work and self.steps < goal

    def record(self, yardstick: Yardstick) -> Arm:
        """The arm as the verdict keeps it."""
        stride = max(1, len(self.losses) // MOST_POINTS)
        score = self.score
        return Arm(
            name=self.name,
            seed=self.seed,
            steps=self.steps,
            losses=tuple(self.losses[::stride]),
            unseen=yardstick.value(score) if math.isfinite(score) else None,
            diverged=self.diverged,
            error=self.error,
            seconds=self.seconds,
            figures=tuple(self.figures.values()),
        )
