"""What a repair may cost, as users write it, and how long its trainings can then be."""

from __future__ import annotations

import re
from collections.abc import Callable

from gradmend.engine.trial import FIRST_ROUND, THRIFTY_ROUND, Deadline, goals
from gradmend.errors import BadInput

DEFAULT_STEPS = 300
"""Steps of a trial's training where neither ``steps`` nor the budget says otherwise."""
FEWEST_STEPS = 20
"""Below this a training shows nothing that can be told from noise."""


def deadline_of(budget: str) -> Deadline:
    """Read a budget: ``"120 s"``, ``"2 min"`` or ``"500 steps"``.

    Raises:
        BadInput: If it is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|seconds|min|minutes|steps?)\s*", str(budget))
    if match is None:
        raise BadInput(
            f"budget='{budget}' is neither a time nor a number of steps",
            "a trial must know when to stop",
            'write "120 s", "2 min" or "500 steps"',
        )
    amount, unit = float(match[1]), match[2]
    if unit.startswith("step"):
        return Deadline(steps=int(amount))
    return Deadline(seconds=amount * (60 if unit.startswith("min") else 1))


def affordable_steps(
    deadline: Deadline,
    pace: Callable[[], float],
    candidates: int,
    seeds: int,
    *,
    most: int = DEFAULT_STEPS,
    share: float = 0.9,
    kept: float = 0.0,
    thrifty: bool = False,
    lifeless: bool = False,
) -> int:
    """Steps per training that let the whole race fit into the budget.

    Args:
        deadline: The budget.
        pace: Measures the seconds of one step; asked only where the budget is a time.
        candidates: How many could be tried.
        seeds: Trainings of original and winner that must agree.
        most: Steps at most.
        share: Of what is left of a budget in seconds, what the race may take.
        kept: Seconds of it that are for what comes behind the race.
        thrifty: As of the trial.
        lifeless: Whether the original is known to be stopped at its first step.
    """
    if deadline.steps is not None:
        left, seconds = float(deadline.steps), 1.0
    else:
        seconds = pace()
        left = share * ((deadline.seconds or 0.0) - deadline.elapsed - kept)

    def cost(steps: int) -> float:
        return seconds * race_steps(steps, candidates, seeds, thrifty=thrifty, lifeless=lifeless)

    return longest(most, cost, left)


def longest(most: int, cost: Callable[[int], float], left: float) -> int:
    """The most steps, within a twentieth, of which a race costs no more than is left."""
    steps = most
    while steps > 0 and cost(steps) > left:
        steps = min(steps - 1, int(steps * 0.95))
    return steps


def race_steps(
    steps: int, candidates: int, seeds: int, *, thrifty: bool = False, lifeless: bool = False
) -> float:
    """Optimizer steps of a race that goes as most do."""
    first, *others = goals(steps)
    second = others[0] if others else first
    return (
        (1 if lifeless else second if thrifty else steps)  # the original
        + min(candidates, THRIFTY_ROUND if thrifty else FIRST_ROUND) * first
        + 2 * (second - first)
        + (1.0 if thrifty else 1.5) * (steps - second)
        + (1 if lifeless else 2) * (seeds - 1) * first
    )
