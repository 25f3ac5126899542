"""The paired trial, from the original's training to the verdict.

One model is enough: an arm applies its edits, trains, saves its progress, and everything is put
back before the next arm starts. What goes on is decided in :mod:`gradmend.engine.trial.race`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import nn

from gradmend.edits import Bench
from gradmend.engine.data import TrialData
from gradmend.engine.trial.arm import Runner
from gradmend.engine.trial.deadline import Deadline, Tell
from gradmend.engine.trial.race import (
    FINALISTS,
    FIRST_ROUND,
    SURVIVES_FIRST,
    agrees,
    beats,
    clear_winner,
    enough,
    goals,
    repeats,
    suffices,
    survivors,
)
from gradmend.engine.trial.track import Track
from gradmend.probe.batch import Feeder
from gradmend.records.prescription import Change, Prescription, Refusal
from gradmend.records.verdict import Arm, Verdict

Combine = Callable[[Prescription], Iterable[Prescription]]
"""What to try together with the best of the first round."""


@dataclass(slots=True)
class Trial:
    """Races prescriptions on one model, and leaves it either repaired or as it was."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    feeder: Feeder
    data: TrialData
    steps: int
    deadline: Deadline
    seed: int = 0
    seeds: int = 3
    tell: Tell = lambda text, share: None
    combine: Combine = lambda best: ()
    guess: float | None = None
    """Unseen loss of a model that knows nothing, if known."""
    _track: Track = field(init=False)

    def __post_init__(self) -> None:
        self._track = Track(
            model=self.model,
            optimizer=self.optimizer,
            feeder=self.feeder,
            data=self.data,
            deadline=self.deadline,
            seed=self.seed,
            tell=self.tell,
        )

    @property
    def refusals(self) -> list[Refusal]:
        """Candidates whose edits did not fit after all, or whose model raised."""
        return self._track.refusals

    @property
    def bench(self) -> Bench | None:
        """After :meth:`run`: the bench that bears the kept edits."""
        return self._track.bench

    def run(
        self, candidates: tuple[Prescription, ...], local: int = 0
    ) -> tuple[Prescription | None, Verdict]:
        """Race the candidates; keep the smallest that closes 90 % of the gap, or none.

        The model ends with the winner's edits and its training, or bit for bit as it was, also
        when anything raises.

        Args:
            candidates: Those to be tried first, first.
            local: How many of them, from the first on, change the guilty layers alone. If one of
                these does much, those that change more are not tried.

        Returns:
            The winning prescription, and the verdict.
        """
        mending = next((c for c in candidates if c.mends_loss), None)
        if mending is not None:
            # Two losses of different meaning cannot be compared: all are judged by the mended one.
            candidates, local = tuple(c for c in candidates if c.mends_loss), 0
            self._track.mend = mending.edits
        self._track.begin()
        try:
            winner, verdict = self._decide(candidates, local)
            if winner is None:
                self._track.start.put_back()
                return None, verdict
            self._track.keep(winner)
            return winner.prescription, verdict
        except BaseException:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Undo whatever :meth:`run` did: the model is bit for bit as it was before."""
        self._track.take_back()

    @contextmanager
    def untrained(self, prescription: Prescription) -> Iterator[nn.Module]:
        """The model as it was, with the edits made and no step taken, for the block's length.

        Only after :meth:`run` kept the prescription; the trained model is put back afterwards.
        """
        with self._track.untrained(prescription) as model:
            yield model

    def pace(self) -> float:
        """Seconds of one step of the original; the model is left as it is."""
        return self._track.pace()

    def _decide(
        self, candidates: tuple[Prescription, ...], local: int
    ) -> tuple[Runner | None, Verdict]:
        stops = goals(self.steps)
        original = Runner(prescription=None, seed=self.seed)
        self._track.train(original, stops, "training the model as it is")
        if original.steps < self.steps and not original.diverged:
            reason = "the budget ended before the original was trained once; nothing was changed"
            return None, self._verdict(False, reason, original, ())
        original.progress = None
        self._track.starts = original.diverged
        arms = self._first_round(candidates, original, stops, local)
        if original.failure is not None and all(arm.error for arm in arms):
            raise original.failure  # nobody can train on this: it is no matter of edits
        racing = [arm for arm in arms if arm.steps >= stops[0]]
        for stop, next_stop in pairwise(stops):
            if stop == stops[0]:
                racing = survivors(
                    racing, original, stop, FINALISTS, share=SURVIVES_FIRST, guess=self.guess
                )
            elif racing := survivors(racing, original, stop, 2, guess=self.guess):
                racing = clear_winner(racing, original, stop, self.guess)
            for arm in arms:
                if arm not in racing:
                    arm.progress = None
            for number, arm in enumerate(racing, 1):
                self._track.train(
                    arm, (next_stop,), f"{next_stop} steps: {arm.name} ({number} of {len(racing)})"
                )
            racing = [arm for arm in racing if arm.steps >= next_stop and not arm.diverged]
        others = tuple(arm.record() for arm in arms)
        finalists = [arm for arm in racing if math.isfinite(arm.score)]
        if not any(beats(arm, original) for arm in finalists):
            return None, self._verdict(False, self._nothing(original, arms), original, others)
        for arm, share in enough(finalists, original, self.steps, self.guess):
            if not beats(arm, original):
                continue
            pairs = self._confirm(original, arm)
            if pairs is not None:
                return arm, self._proven(arm, original, pairs, others, share)
            self.tell(f"{arm.name} does not hold over seeds", 0.9)
        reason = "the best candidate did not beat the original with every seed; nothing was changed"
        return None, self._verdict(False, reason, original, others)

    def _first_round(
        self,
        candidates: tuple[Prescription, ...],
        original: Runner,
        stops: tuple[int, ...],
        local: int,
    ) -> list[Runner]:
        """All that are tried at all, trained to the first stop.

        Changes to the guilty layers alone begin, and have until the second stop to show what they
        do. Then a few others start, and the rest only if none of these gains anything. Last comes
        what goes together with the best of them.
        """
        arms: list[Runner] = []

        def race(chosen: Iterable[Prescription], goals: tuple[int, ...]) -> None:
            for prescription in chosen:
                if self.deadline.passed():
                    return
                arm = Runner(prescription=prescription, seed=self.seed)
                arms.append(arm)
                self._track.train(arm, goals, f"{goals[-1]} steps: {arm.name}")

        race(candidates[:local], stops[:2])
        if not any(suffices(arm, original, stops[:2][-1], self.guess) for arm in arms):
            for first in range(local, len(candidates), FIRST_ROUND):
                race(candidates[first : first + FIRST_ROUND], stops[:1])
                if any(arm.at(stops[0]) < original.at(stops[0]) for arm in arms):
                    break
        best = min(arms, key=lambda arm: arm.at(stops[0]), default=None)
        if best is not None and best.prescription and math.isfinite(best.at(stops[0])):
            race(self.combine(best.prescription), stops[:1])
        return arms

    def _confirm(self, original: Runner, arm: Runner) -> list[tuple[Runner, Runner]] | None:
        """Original and winner with other seeds, as far as it takes and the budget allows.

        What only changes the optimizer is trained to the end with every seed, and so is whatever
        replaces an original that diverged: near the edge of stability the beginning says little.

        Returns:
            The pairs that agree; ``None`` if one does not.
        """
        pairs: list[tuple[Runner, Runner]] = []
        assert arm.prescription is not None
        delicate = original.diverged or set(arm.prescription.changes) == {Change.OPTIMIZER}
        for number in range(1, self.seeds):
            again = Runner(prescription=None, seed=self.seed + number)
            twin = Runner(prescription=arm.prescription, seed=self.seed + number)
            text = f"confirming {arm.name}, seed {number + 1} of {self.seeds}"
            seen = False
            for stop in goals(self.steps):
                if self.deadline.passed():
                    return pairs
                if not seen:
                    self._track.train(again, (stop,), text + " (original)")
                    if self.deadline.passed() and not again.diverged:
                        return pairs
                self._track.train(twin, (stop,), text)
                if twin.steps < stop and not (twin.diverged or twin.error):
                    return pairs  # the budget ended
                done = stop == self.steps or twin.diverged or twin.error is not None
                if done and seen and not repeats(twin, arm, original, self.guess):
                    return None
                if done and not seen and not beats(twin, again):
                    return None
                seen = seen or agrees(twin, again, arm, original)
                if done or (seen and not delicate):
                    break
            twin.progress = again.progress = None
            pairs.append((again, twin))
        return pairs

    def _nothing(self, original: Runner, arms: list[Runner]) -> str:
        if not any(arm.steps for arm in arms):
            if self.deadline.passed():
                return (
                    "the budget was used up before any candidate could be tried; nothing was"
                    " changed"
                )
            return "no candidate fits this model (see the refusals); nothing was changed"
        if not any(arm.steps >= self.steps for arm in arms) and self.deadline.passed():
            return "the budget was too small to prove anything; nothing was changed"
        return (
            f"nothing tried beats what you have (unseen loss: {_spoken(original)}); nothing was"
            " changed"
        )

    def _proven(
        self,
        arm: Runner,
        original: Runner,
        pairs: list[tuple[Runner, Runner]],
        others: tuple[Arm, ...],
        closed: float,
    ) -> Verdict:
        reason = (
            f"{arm.name}: unseen loss {_spoken(original)} -> {arm.score:.4g} after {self.steps}"
            f" steps, {_confirmed(pairs)}; the smallest change that closes 90 % of the gap"
        )
        return replace(
            self._verdict(True, reason, original, others),
            original=(original.record(), *(again.record() for again, _ in pairs)),
            winner=(arm.record(), *(twin.record() for _, twin in pairs)),
            rivals=tuple(other for other in others if other.name != arm.name),
            gap_closed=closed,
        )

    def _verdict(
        self, kept: bool, reason: str, original: Runner, others: tuple[Arm, ...]
    ) -> Verdict:
        return Verdict(
            kept=kept,
            reason=reason,
            original=(original.record(),),
            rivals=others,
            seconds=self.deadline.elapsed,
            steps=self.deadline.taken,
            threads=torch.get_num_threads(),
        )


def _spoken(arm: Runner) -> str:
    return "diverged" if arm.diverged else f"{arm.score:.4g}"


def _confirmed(pairs: list[tuple[Runner, Runner]]) -> str:
    """``confirmed over 3 seeds (...)``, with what the others came to."""
    if not pairs:
        return "with 1 seed (the budget ended there)"
    shown = ", ".join(
        f"{_spoken(again)} -> {twin.score:.4g} after {twin.steps}" for again, twin in pairs
    )
    spread = [twin.score for _, twin in pairs if math.isfinite(twin.score)]
    deviation = f", spread {statistics.stdev(spread):.2g}" if len(spread) > 1 else ""
    return f"confirmed over {len(pairs) + 1} seeds ({shown}{deviation})"
