"""What depth is tried on: every subject that ``depth.py`` gives to :func:`gradmend.fix`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Measure = Callable[[Any], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthSubject:
    """A deep network as it comes, with what trains it."""

    name: str
    build: Callable[[int], tuple[Any, Any, Any, Any, Any, Measure]]
    """Seed -> (model, batches, val, loss function, optimizer, measure). The measure is of data
    that neither training nor trial has seen: accuracy, or the mean squared error."""
    budget: str
    keep: tuple[str, ...] = ()
    goal: str = ""
    """What the measure should reach, in words."""
    steps: int | None = None
    """Of a training, where it takes more than the trial would choose."""


def every_subject() -> dict[str, DepthSubject]:
    """All of them, by name."""
    # Here and not above: those modules take the class from this one.
    import _depth_plain
    import _depth_recurrent
    import _depth_transformer

    parts = (_depth_plain, _depth_transformer, _depth_recurrent)
    return {subject.name: subject for part in parts for subject in part.SUBJECTS}
