"""How long the trainings of a script's race may be, and how many of them a budget allows."""

from __future__ import annotations

from dataclasses import dataclass

from gradmend.engine.budget import FEWEST_STEPS, longest, race_steps
from gradmend.engine.trial import FIRST_ROUND, THRIFTY_ROUND, Deadline

SHARE = 0.9
"""Of what is left of a budget in seconds, what a race may take (our choice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """A race of a script's trainings that fits into a budget, or comes closest to it."""

    steps: int
    """Of a training; below :data:`FEWEST_STEPS` where no race fits."""
    thrifty: bool = False
    """Whether few start and other seeds are left to what remains of the budget."""
    seconds: float | None = None
    """What the least race takes, where none fits and the budget is in seconds."""


def affordable_race(
    deadline: Deadline,
    *,
    start: float,
    step: float,
    candidates: int,
    seeds: int,
    jobs: int,
    most: int,
) -> Race:
    """The longest trainings of which a race fits into what is left; a small race where it must be.

    Every training is a process that begins anew, so where a script takes long to begin, how many
    there are counts for more than how long they are.

    Args:
        deadline: The budget.
        start: Seconds until a script's first step.
        step: Seconds of a step.
        candidates: How many could be tried.
        seeds: Trainings of original and winner that must agree.
        jobs: Trainings at a time.
        most: Steps at most.
    """
    if deadline.steps is not None:
        left, start, step = float(deadline.steps - deadline.taken), 0.0, 1.0
    else:
        left = SHARE * ((deadline.seconds or 0.0) - deadline.elapsed)

    def cost(steps: int, *, thrifty: bool) -> float:
        again = 1 if thrifty else seeds
        round_of = min(candidates, THRIFTY_ROUND if thrifty else FIRST_ROUND)
        starts = start * (2 + (round_of + 2 * (again - 1)) / jobs)
        return starts + step * race_steps(steps, candidates, again, thrifty=thrifty)

    whole = longest(most, lambda steps: cost(steps, thrifty=False), left)
    if whole >= FEWEST_STEPS or deadline.steps is not None:  # steps begin nowhere anew
        return Race(steps=whole)
    small = longest(most, lambda steps: cost(steps, thrifty=True), left)
    if small >= FEWEST_STEPS:
        return Race(steps=small, thrifty=True)
    least = deadline.elapsed + cost(min(most, FEWEST_STEPS), thrifty=True) / SHARE
    return Race(steps=small, thrifty=True, seconds=least)
