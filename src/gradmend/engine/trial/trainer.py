"""What a trial needs of whatever trains its arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gradmend.engine.trial.arm import Runner
from gradmend.records.prescription import Edit, Refusal
from gradmend.records.verdict import Yardstick


class Trainer(Protocol):
    """Trains arms from the same start, on the same batches, with the same random numbers."""

    mend: tuple[Edit, ...]
    """What mends the meaning of the loss: the original is judged with it, too."""
    starts: bool
    """Whether every arm is judged before its first step: where the original has no loss at all."""
    refusals: list[Refusal]
    """Candidates whose edits did not fit after all, or whose model raised."""

    @property
    def yardstick(self) -> Yardstick:
        """What arms are judged by; known once the original has been trained."""

    @property
    def noisy(self) -> bool:
        """Whether the same training does not come out the same twice.

        Then nothing is decided early, and every repeat of the winner must be better than every
        repeat of the original. Known once the original has been trained.
        """

    @property
    def threads(self) -> int:
        """Threads of one training."""

    def begin(self) -> None:
        """Remember how everything was."""

    def train(self, arms: Sequence[Runner], goals: tuple[int, ...], text: str) -> None:
        """Bring arms to the last goal and judge them at each; none begins after the deadline.

        Args:
            arms: To be trained, in this order or at the same time. One that diverged, failed or
                is there already stays as it is.
            goals: Steps to judge at, ascending.
            text: What to tell that is going on.
        """

    def release(self, arm: Runner) -> None:
        """Let go of an arm's progress: it does not go on."""

    def keep(self, arm: Runner) -> None:
        """The arm has won."""

    def put_back(self) -> None:
        """No arm has won."""

    def take_back(self) -> None:
        """Undo everything, also what :meth:`keep` did."""
