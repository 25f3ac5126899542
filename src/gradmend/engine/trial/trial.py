"""The paired trial, from the original's training to the verdict.

How an arm is trained is the trainer's matter: one after the other on the one model there is
(:mod:`.track`), or several at a time, each in a process that runs a script
(:mod:`gradmend.engine.script.runs`). Who goes on is decided in :mod:`.race`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from gradmend.engine.trial.arm import Runner
from gradmend.engine.trial.deadline import Deadline, Tell
from gradmend.engine.trial.race import (
    FINALISTS,
    FIRST_ROUND,
    SURVIVES_FIRST,
    THRIFTY_ROUND,
    agrees,
    apart,
    beats,
    clear_winner,
    enough,
    gain,
    goals,
    leads,
    repeats,
    stands_still,
    suffices,
    survivors,
)
from gradmend.engine.trial.trainer import Trainer
from gradmend.records.prescription import Change, Prescription
from gradmend.records.verdict import Arm, Verdict, Yardstick

RUNNERS_UP = 2
"""Candidates that were cut and get a full training after all, if none of the finalists wins."""

Combine = Callable[[Prescription], Iterable[Prescription]]
"""What to try together with the best of the first round."""


@dataclass(slots=True)
class Trial:
    """Races prescriptions, and leaves what they are tried on repaired or as it was."""

    trainer: Trainer
    steps: int
    deadline: Deadline
    seed: int = 0
    seeds: int = 3
    tell: Tell = lambda text, share: None
    combine: Combine = lambda best: ()
    guess: float | None = None
    """Unseen loss of a model that knows nothing, if known."""
    kept: Runner | None = None
    """After :meth:`run`: the winner."""
    thrifty: bool = False
    """Whether a step is so dear that the budget is spent where it counts: an original whose
    gradient underflows and that stands still is not trained to the end, and few candidates
    start."""

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
            self.trainer.mend = mending.edits
        self.trainer.begin()
        try:
            winner, verdict = self._decide(candidates, local)
            if winner is None:
                self.trainer.put_back()
                return None, verdict
            self.trainer.keep(winner)
            self.kept = winner
            return winner.prescription, verdict
        except BaseException:
            self.trainer.take_back()
            raise

    def _decide(
        self, candidates: tuple[Prescription, ...], local: int
    ) -> tuple[Runner | None, Verdict]:
        stops = goals(self.steps)
        original = Runner(prescription=None, seed=self.seed)
        self._train_original(original, stops)
        if original.unfinished(self.steps):
            reason = "the budget ended before the original was trained once; nothing was changed"
            return None, self._verdict(False, reason, original, ())
        self.trainer.release(original)
        self.trainer.starts = original.diverged
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
        return None, self._verdict(False, reason, original, self._records(arms))

    def _train_original(self, original: Runner, stops: tuple[int, ...]) -> None:
        text = "training the model as it is"
        if self.thrifty:
            self.trainer.train([original], stops[:2], text)
            original.still = original.still or (not original.diverged and stands_still(original))
        if not original.still:
            self.trainer.train([original], stops, text)

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
                    self.trainer.release(arm)
            self.trainer.train(racing, (next_stop,), f"{next_stop} steps")
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
        self.trainer.train(again, goals(self.steps), f"{self.steps} steps")
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
                others = self._records(other for other in arms if other is not arm)
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
            new = [Runner(prescription=each, seed=self.seed) for each in chosen]
            self.trainer.train(new, goals, f"{goals[-1]} steps")
            arms.extend(arm for arm in new if arm.steps or arm.error)

        race(candidates[:local], stops[:2])
        if not any(suffices(arm, original, stops[:2][-1], self.guess) for arm in arms):
            most = THRIFTY_ROUND if self.thrifty else FIRST_ROUND
            for first in range(local, len(candidates), most):
                race(candidates[first : first + most], stops[:1])
                if any(leads(arm, original, stops[0]) for arm in arms):
                    break
        best = min(arms, key=lambda arm: arm.at(stops[0]), default=None)
        if best is not None and best.prescription and math.isfinite(best.at(stops[0])):
            if self.thrifty and suffices(best, original, stops[0], self.guess):
                return arms
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
        only_optimizer = set(arm.prescription.changes) == {Change.OPTIMIZER}
        delicate = original.diverged or only_optimizer or self.trainer.noisy
        for number in range(1, self.seeds):
            again = Runner(prescription=None, seed=self.seed + number)
            twin = Runner(prescription=arm.prescription, seed=self.seed + number)
            text = f"seed {number + 1} of {self.seeds}, to confirm {arm.name}"
            seen = False
            for stop in goals(self.steps):
                if self.deadline.passed():
                    return pairs
                self.trainer.train(
                    [again, twin] if self.trainer.noisy or not seen else [twin], (stop,), text
                )
                if any(one.unfinished(stop) for one in ((twin,) if seen else (again, twin))):
                    return pairs  # the budget ended
                done = stop == self.steps or twin.diverged or twin.error is not None
                if done and not (
                    repeats(twin, arm, original, self.guess)
                    and (seen or beats(twin, again, self.guess))
                ):
                    return None
                seen = seen or agrees(twin, again, arm, original, self.guess)
                if done or (seen and not delicate):
                    break
            self.trainer.release(twin)
            self.trainer.release(again)
            pairs.append((again, twin))
        if self.trainer.noisy and not apart([(original, arm), *pairs]):
            return None
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
            f"nothing tried beats what you have ({self.trainer.yardstick.name}:"
            f" {self._spoken(original)}); nothing was changed"
        )

    def _proven(
        self,
        arm: Runner,
        original: Runner,
        pairs: list[tuple[Runner, Runner]],
        others: tuple[Arm, ...],
        closed: float,
    ) -> Verdict:
        stick = self.trainer.yardstick
        if original.still:
            after = "its first step" if original.steps == 1 else f"{original.steps} steps"
            closing = f"; the original stood still and was stopped after {after}"
        else:
            closing = "; the smallest change that closes 90 % of the gap"
        reason = (
            f"{arm.name}: {stick.name} {self._spoken(original)} -> {self._spoken(arm)} after"
            f" {self.steps} steps, {_confirmed([(original, arm), *pairs], stick)}{closing}"
        )
        return replace(
            self._verdict(True, reason, original, others),
            original=(original.record(stick), *(again.record(stick) for again, _ in pairs)),
            winner=(arm.record(stick), *(twin.record(stick) for _, twin in pairs)),
            gap_closed=closed,
        )

    def _spoken(self, arm: Runner) -> str:
        return "diverged" if arm.diverged else f"{self.trainer.yardstick.value(arm.score):.4g}"

    def _records(self, arms: Iterable[Runner]) -> tuple[Arm, ...]:
        return tuple(arm.record(self.trainer.yardstick) for arm in arms)

    def _verdict(
        self, kept: bool, reason: str, original: Runner, others: tuple[Arm, ...]
    ) -> Verdict:
        return Verdict(
            kept=kept,
            reason=reason,
            original=(original.record(self.trainer.yardstick),),
            rivals=others,
            judged_by=self.trainer.yardstick,
            seconds=self.deadline.elapsed,
            steps=self.deadline.taken,
            threads=self.trainer.threads,
        )


def _confirmed(pairs: list[tuple[Runner, Runner]], stick: Yardstick) -> str:
    """``confirmed over 3 seeds (58 % to 80 % of the loss taken off)``."""
    if len(pairs) == 1:
        return "with 1 seed (the budget allows no more)"
    known = [
        (original, arm)
        for original, arm in pairs
        if original.steps == arm.steps and math.isfinite(original.score) and original.score
    ]
    if stick.higher:
        ends = [f"{stick.value(arm.score):.4g}" for _, arm in known]
        spread = f" ({', '.join(ends)})" if ends else ""
    else:
        shares = [gain(original.score, arm.score) / abs(original.score) for original, arm in known]
        spread = f" ({min(shares):.0%} to {max(shares):.0%} of it taken off)" if shares else ""
    return f"confirmed over {len(pairs)} seeds{spread}"
