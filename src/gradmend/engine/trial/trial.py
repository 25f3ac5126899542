"""The paired trial, from the original's training to the verdict.

One model is enough: an arm applies its edits, trains, saves its progress, and everything is put
back before the next arm starts. What goes on is decided in :mod:`gradmend.engine.trial.race`.
"""

from __future__ import annotations

import math
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
    gain,
    goals,
    repeats,
    suffices,
    survivors,
)
from gradmend.engine.trial.track import Track
from gradmend.probe.batch import Feeder
from gradmend.records.prescription import Change, Prescription, Refusal
from gradmend.records.verdict import Arm, Verdict

RUNNERS_UP = 2
"""Candidates that were cut and get a full training after all, if none of the finalists wins."""

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
        finalists = self._finals(arms, original, stops)
        proven = self._prove(finalists, original, arms)
        if proven is None and not self.deadline.passed():
            others = self._runners_up(arms, finalists)
            arms += others
            finalists += others
            proven = self._prove(others, original, arms)
        if proven is not None:
            return proven
        reason = self._nothing(original, arms)
        if any(beats(arm, original, self.guess) for arm in finalists):
            reason = (
                "the best candidate did not beat the original with every seed; nothing was changed"
            )
        return None, self._verdict(False, reason, original, tuple(arm.record() for arm in arms))

    def _finals(self, arms: list[Runner], original: Runner, stops: tuple[int, ...]) -> list[Runner]:
        """Those that survive every stop, trained to the end."""
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
        return [arm for arm in racing if math.isfinite(arm.score)]

    def _runners_up(self, arms: list[Runner], finalists: list[Runner]) -> list[Runner]:
        """The best of those that were cut, from the start to the end: the beginning misled."""
        first = goals(self.steps)[0]
        cut = [a for a in arms if a not in finalists and math.isfinite(a.at(first))]
        again = [
            Runner(prescription=arm.prescription, seed=self.seed)
            for arm in sorted(cut, key=lambda arm: arm.at(first))[:RUNNERS_UP]
        ]
        for arm in again:
            self._track.train(arm, goals(self.steps), f"{self.steps} steps: {arm.name}")
        return [arm for arm in again if arm.steps >= self.steps and math.isfinite(arm.score)]

    def _prove(
        self, finalists: list[Runner], original: Runner, arms: list[Runner]
    ) -> tuple[Runner, Verdict] | None:
        """The smallest finalist that is good enough and agrees with other seeds."""
        able = [arm for arm in finalists if beats(arm, original, self.guess)]
        if not able:
            return None
        for arm, share in enough(able, original, self.steps, self.guess):
            pairs = self._confirm(original, arm)
            if pairs is not None:
                others = tuple(other.record() for other in arms if other is not arm)
                return arm, self._proven(arm, original, pairs, others, share)
            self.tell(f"{arm.name} does not hold over seeds", self.deadline.share)
        return None

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
                if done and not seen and not beats(twin, again, self.guess):
                    return None
                seen = seen or agrees(twin, again, arm, original, self.guess)
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
            f" steps, {_confirmed([(original, arm), *pairs])}; the smallest change that closes 90 %"
            " of the gap"
        )
        return replace(
            self._verdict(True, reason, original, others),
            original=(original.record(), *(again.record() for again, _ in pairs)),
            winner=(arm.record(), *(twin.record() for _, twin in pairs)),
            rivals=others,
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
    """``confirmed over 3 seeds (58 % to 80 % of the loss taken off)``."""
    if len(pairs) == 1:
        return "with 1 seed (the budget ended there)"
    shares = [
        gain(original.score, arm.score) / abs(original.score)
        for original, arm in pairs
        if original.steps == arm.steps and math.isfinite(original.score) and original.score
    ]
    spread = f" ({min(shares):.0%} to {max(shares):.0%} of the loss taken off)" if shares else ""
    return f"confirmed over {len(pairs)} seeds{spread}"
