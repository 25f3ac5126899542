"""Verdicts: what a paired trial showed."""

from __future__ import annotations

from dataclasses import dataclass

from gradmend.records.prescription import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What the trainings of a trial were judged by."""

    name: str = "unseen loss"
    higher: bool = False
    """Whether more of it is better, as of an accuracy."""

    def value(self, score: float) -> float:
        """The figure as people know it, of a score of which less is better; and back."""
        return -score if self.higher else score


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a script's own evaluation, by which one training can be told from another."""

    name: str
    value: float
    higher: bool = False
    """Whether more of it is better."""

    @property
    def score(self) -> float:
        """The figure as one of which less is better."""
        return -self.value if self.higher else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One training inside a trial, from the same start, batches and seed as its rivals."""

    name: str
    seed: int
    steps: int
    losses: tuple[tuple[int, float], ...]
    """(step, training loss), thinned to at most 200 points."""
    unseen: float | None
    """What it was judged by (:attr:`Verdict.judged_by`), most often the loss on data not trained
    on; ``None`` when the arm failed or diverged."""
    diverged: bool = False
    error: str | None = None
    seconds: float = 0.0
    figures: tuple[Figure, ...] = ()
    """Of its last evaluation, where a script has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A prediction beside what was measured after the edit."""

    prediction: Prediction
    observed: float | None
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Kept or undone, and the trainings that decided it."""

    kept: bool
    reason: str
    """One sentence a person can read."""
    original: tuple[Arm, ...] = ()
    """The unedited model's trainings, one per seed."""
    winner: tuple[Arm, ...] = ()
    """The winner's trainings, one per seed; the first is the one that was kept."""
    rivals: tuple[Arm, ...] = ()
    """Every other training of the race, in the order they ran."""
    gap_closed: float | None = None
    """Share of the best rival's gain over the original that the winner reaches."""
    checked: tuple[Checked, ...] = ()
    judged_by: Yardstick = Yardstick()
    seconds: float = 0.0
    steps: int = 0
    """Optimizer steps spent over the whole trial."""
    threads: int = 1

    @property
    def predictions_held(self) -> bool:
        """Whether every prediction came true."""
        return all(item.held for item in self.checked)
