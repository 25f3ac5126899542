"""The paired trial: every arm from the same start, on the same batches, judged on unseen data.

One model is enough: an arm applies its edits, trains, saves its progress, and everything is put
back before the next arm starts. The race is successive halving (Jamieson and Talwalkar 2016)
with two changes that the question asks for: an arm survives if it closes half of the gap the
best one closes so far, because a *smaller* edit wins if it comes close enough; and the winner is
trained again, beside the original, with other seeds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from gradmend.edits import Bench, apply_edits
from gradmend.engine.data import TrialData
from gradmend.engine.state import (
    Progress,
    Snapshot,
    randomness,
    seed_randomness,
    set_randomness,
)
from gradmend.errors import CannotApply
from gradmend.probe.batch import Feeder, check_loss, map_tensors
from gradmend.records.prescription import Prescription, Refusal
from gradmend.records.verdict import Arm, Verdict

CLOSES = 0.9
"""Share of the best arm's gain that the smallest edit must reach to win (mission, promise 2)."""
SURVIVES = 0.5
"""Share of the best arm's gain so far that keeps an arm in the race."""
RUNGS = (1 / 6, 1 / 2, 1.0)
"""Shares of a full training after which the race is cut."""
FINALISTS = 3
"""Arms trained to the end beside the original, at most, and never fewer than two if there are."""
LEAST_GAIN = 0.02
"""Least share of the original's unseen loss that a repair must take off to count as one."""
LEARNED = 0.1
"""Least share of its own first loss that an arm must take off where the original diverged and
there is nothing to compare it with."""

Tell = Callable[[str, float], None]
"""Called with what is going on and the share of the work done, in [0, 1]."""


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


@dataclass(slots=True)
class _Runner:
    """One arm: a prescription (or none, for the original) and how far it has trained."""

    prescription: Prescription | None
    seed: int
    steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    unseen: float | None = None
    diverged: bool = False
    error: str | None = None
    seconds: float = 0.0
    progress: Progress | None = None

    @property
    def name(self) -> str:
        return " + ".join(self.prescription.remedies) if self.prescription else "original"

    @property
    def score(self) -> float:
        return self.unseen if self.unseen is not None else math.inf

    def arm(self) -> Arm:
        stride = max(1, len(self.losses) // 200)
        return Arm(
            name=self.name,
            seed=self.seed,
            steps=self.steps,
            losses=tuple(self.losses[::stride]),
            unseen=self.unseen,
            diverged=self.diverged,
            error=self.error,
            seconds=self.seconds,
        )


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
    refusals: list[Refusal] = field(default_factory=list)
    bench: Bench | None = None
    """After :meth:`run`: the bench that bears the kept edits."""
    _snapshot: Snapshot | None = None

    def run(self, candidates: tuple[Prescription, ...]) -> tuple[Prescription | None, Verdict]:
        """Race the candidates; keep the smallest that closes 90 % of the gap, or none.

        The model ends with the winner's edits and its training, or bit for bit as it was, also
        when anything raises.

        Returns:
            The winning prescription, and the verdict.
        """
        self._snapshot = Snapshot.take(self.model, self.optimizer, self._others())
        try:
            winner, verdict = self._decide(candidates)
            if winner is None:
                self._snapshot.put_back()
                return None, verdict
            self._open(winner)
            assert winner.progress is not None and self.bench is not None
            winner.progress.resume(self.bench.model, self.optimizer, self._others())
            self._snapshot.restore_randomness()
            return winner.prescription, verdict
        except BaseException:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Undo whatever :meth:`run` did: the model is bit for bit as it was before."""
        if self.bench is not None:
            self.bench.undo()
        if self._snapshot is not None:
            self._snapshot.put_back()

    def _others(self) -> list[nn.Module]:
        """Modules that the loss holds: training moves their buffers and parameters, too."""
        return [module for module in self.feeder.owners(self.model) if module is not self.model]

    @contextmanager
    def untrained(self, prescription: Prescription) -> Iterator[nn.Module]:
        """The model as it was, with the edits made and no step taken, for the block's length.

        Only after :meth:`run` kept the prescription; the trained model is put back afterwards.
        """
        assert self._snapshot is not None and self.bench is not None
        kept = self.bench
        trained = Progress.take(kept.model, self.optimizer, self._others())
        kept.undo()
        self._snapshot.restore()
        runner = _Runner(prescription=prescription, seed=self.seed)
        try:
            self._open(runner)
            yield self.bench.model
        finally:
            self.bench.undo()
            self._snapshot.restore()
            self._open(runner)
            trained.resume(self.bench.model, self.optimizer, self._others())
            self._snapshot.restore_randomness()

    def pace(self, steps: int = 4) -> float:
        """Seconds of one step of the original, the fastest of a few; the model is put back."""
        self._snapshot = Snapshot.take(self.model, self.optimizer, self._others())
        times = []
        try:
            batch_at = self.data.order(self.seed)
            for step in range(steps):
                self.tell("measuring the pace", self._share())
                began = time.perf_counter()
                self._step(self.model, batch_at(step))
                times.append(time.perf_counter() - began)
            return min(times)
        finally:
            self._snapshot.put_back()

    def _decide(self, candidates: tuple[Prescription, ...]) -> tuple[_Runner | None, Verdict]:
        original = _Runner(prescription=None, seed=self.seed)
        arms = [_Runner(prescription=candidate, seed=self.seed) for candidate in candidates]
        self._train(original, self.steps, "training the model as it is")
        if original.steps < self.steps and not original.diverged:
            reason = "the budget ended before the original was trained once; nothing was changed"
            return None, self._verdict(False, reason, original, ())
        racing = arms
        for rung, share in enumerate(RUNGS):
            goal = max(1, round(self.steps * share))
            for number, arm in enumerate(racing):
                if self.deadline.passed() and arm.steps == 0 and rung == 0:
                    break
                label = f"round {rung + 1}: {arm.name} ({number + 1} of {len(racing)})"
                self._train(arm, goal, label)
            ran = [arm for arm in racing if arm.steps >= goal and not arm.diverged]
            at_goal = _loss_at(original, goal) if share < 1 else None
            racing = self._survivors(ran, original, share, at_goal)
        finalists = [arm for arm in racing if arm.steps >= self.steps]
        others = tuple(arm.arm() for arm in arms)
        best = min(finalists, key=lambda arm: arm.score, default=None)
        if best is None or not self._beats(best, original):
            return None, self._verdict(False, self._nothing(original, arms), original, others)
        # An original that diverged has no loss to measure a gap from; what it began with has.
        # Without that every finite arm would close "all" of an infinite gap, however bad.
        start = original.score
        if not math.isfinite(start):
            began = original.losses[0][1] if original.losses else math.nan
            worst = max(arm.score for arm in finalists)
            start = max(began, worst) if math.isfinite(began) else worst
        gap = _gain(start, best.score)
        enough = [a for a in finalists if _gain(start, a.score) >= CLOSES * gap]
        enough.sort(key=lambda arm: arm.prescription.size if arm.prescription else (0, 0, 0))
        for arm in enough:
            originals, repeats = self._confirm(original, arm)
            if all(self._beats(b, a) for a, b in zip(originals, repeats, strict=True)):
                closed = _gain(start, arm.score) / gap if gap else 1.0
                return arm, self._proven(arm, originals, repeats, others, closed)
            others += tuple(twin.arm() for twin in (*originals[1:], *repeats[1:]))
            self.tell(f"{arm.name} does not hold over seeds", 0.9)
        reason = "the best candidate did not beat the original with every seed; nothing was changed"
        return None, self._verdict(False, reason, original, others)

    def _survivors(
        self, ran: list[_Runner], original: _Runner, share: float, at_goal: float | None
    ) -> list[_Runner]:
        """Arms that close half of the best gap so far; fewer towards the end."""
        if share >= 1 or not ran:
            return ran
        # Early on the original has no unseen loss of its own: its start stands for it.
        base = max(original.score, at_goal or -math.inf) if math.isfinite(original.score) else None
        best = min(arm.score for arm in ran)
        if base is None or not math.isfinite(base):
            base = max(arm.score for arm in ran)
        gap = _gain(base, best)
        # Where no arm gains anything yet, half of the best's loss would cut the best itself.
        kept = [arm for arm in ran if gap <= 0 or _gain(base, arm.score) >= SURVIVES * gap]
        most = max(FINALISTS, math.ceil(len(ran) / 2)) if share < RUNGS[1] else FINALISTS
        ranked = sorted(kept, key=lambda arm: arm.score)[:most]
        for arm in ran:
            if arm not in ranked:
                arm.progress = None
        return ranked

    def _confirm(self, original: _Runner, arm: _Runner) -> tuple[list[_Runner], list[_Runner]]:
        """Train original and winner again with other seeds, as far as the budget allows."""
        originals, repeats = [original], [arm]
        for number in range(1, self.seeds):
            if self.deadline.passed():
                break
            seed = self.seed + number
            again = _Runner(prescription=None, seed=seed)
            twin = _Runner(prescription=arm.prescription, seed=seed)
            text = f"confirming {arm.name}, seed {number + 1} of {self.seeds}"
            self._train(again, self.steps, text + " (original)")
            self._train(twin, self.steps, text)
            twin.progress = None
            # An original that diverges again stops early, and is an answer all the same; so is
            # a candidate that fails with another seed.
            judged = again.steps == self.steps or again.diverged
            if judged and (twin.steps == self.steps or twin.diverged or twin.error):
                originals.append(again)
                repeats.append(twin)
        return originals, repeats

    def _train(self, arm: _Runner, goal: int, text: str) -> None:
        """Bring one arm to ``goal`` steps, judge it on unseen data, and put everything back."""
        if arm.diverged or arm.error or arm.steps >= goal:
            return
        began = time.perf_counter()
        assert self._snapshot is not None
        try:
            self._open(arm)
        except CannotApply as refusal:
            arm.error = str(refusal)
            self.refusals.append(Refusal(remedy=arm.name, finding="", reason=str(refusal)))
            self._snapshot.restore()  # an edit may have run the model before it failed
            return
        assert self.bench is not None
        model = self.bench.model
        try:
            if arm.progress is not None:
                arm.progress.resume(model, self.optimizer, self._others())
            else:
                seed_randomness(arm.seed)
            batch_at = self.data.order(arm.seed)
            while arm.steps < goal:
                if arm.steps % 8 == 0:
                    self.tell(text, self._share())
                loss = self._step(model, batch_at(arm.steps))
                arm.steps += 1
                self.deadline.taken += 1
                arm.losses.append((arm.steps, loss))
                if not math.isfinite(loss):
                    arm.diverged = True
                    break
                if self.deadline.passed() and arm.steps < goal:
                    break
            arm.unseen = None if arm.diverged else self._judge(model)
            arm.diverged = arm.diverged or not math.isfinite(arm.score)
            if arm.diverged:
                arm.unseen = None
            elif arm.prescription is not None:
                arm.progress = Progress.take(model, self.optimizer, self._others())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the user's model or loss says about the edited one
            if arm.prescription is None:
                raise
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            arm.error, arm.diverged, arm.unseen = text, True, None
            self.refusals.append(
                Refusal(remedy=arm.name, finding="", reason=f"the edited model raised {text}")
            )
        finally:
            arm.seconds += time.perf_counter() - began
            self.bench.undo()
            self._snapshot.restore()

    def _open(self, arm: _Runner) -> None:
        """Apply an arm's edits to the model as it was."""
        seed_randomness(arm.seed)
        bench = Bench(
            model=self.model,
            optimizer=self.optimizer,
            run_batch=lambda model: self.feeder.loss(model, _copied(self.data.train[0])),
            seed=arm.seed,
        )
        self.bench = bench
        if arm.prescription is not None:
            apply_edits(bench, arm.prescription.edits)

    def _step(self, model: nn.Module, batch: Any) -> float:
        """One optimizer step; LBFGS and its kin get a closure."""
        fed = _copied(batch)
        value = math.nan

        def closure() -> torch.Tensor:
            nonlocal value
            self.optimizer.zero_grad(set_to_none=True)
            loss = check_loss(self.feeder.loss(model, fed))
            value = float(loss.detach())
            if math.isfinite(value):
                loss.backward()  # type: ignore[no-untyped-call]
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
        else:
            closure()
            if math.isfinite(value):
                self.optimizer.step()
        return value

    def _judge(self, model: nn.Module) -> float:
        """Mean loss over the unseen batches, in eval mode."""
        flags = [(module, module.training) for module in model.modules()]
        # Judging more often must not change the noise of the training that goes on after it.
        noise = randomness()
        seed_randomness(self.seed)
        model.eval()
        try:
            with torch.no_grad():
                losses = [
                    float(self.feeder.loss(model, _copied(batch))) for batch in self.data.unseen
                ]
        finally:
            set_randomness(noise)
            for module, training in flags:
                module.training = training
        return statistics.fmean(losses)

    def _share(self) -> float:
        if self.deadline.seconds:
            return min(1.0, self.deadline.elapsed / self.deadline.seconds)
        return min(1.0, self.deadline.taken / self.deadline.steps) if self.deadline.steps else 0.0

    def _beats(self, arm: _Runner, original: _Runner) -> bool:
        """Whether an arm ends clearly better than the original.

        Where that diverged, whether the arm learned at all: a finite loss alone is no repair.
        """
        if not math.isfinite(arm.score):
            return False
        if math.isfinite(original.score):
            return _gain(original.score, arm.score) > LEAST_GAIN * abs(original.score)
        began = arm.losses[0][1]
        return began - arm.score > LEARNED * abs(began)

    def _nothing(self, original: _Runner, arms: list[_Runner]) -> str:
        if not any(arm.steps for arm in arms):
            return "the budget was used up before any candidate could be tried; nothing was changed"
        if not any(arm.steps >= self.steps for arm in arms) and self.deadline.passed():
            return "the budget was too small to prove anything; nothing was changed"
        return (
            f"nothing tried beats what you have (unseen loss {original.score:.4g});"
            " nothing was changed"
        )

    def _proven(
        self,
        arm: _Runner,
        originals: list[_Runner],
        repeats: list[_Runner],
        others: tuple[Arm, ...],
        closed: float,
    ) -> Verdict:
        before = statistics.fmean(a.score for a in originals)
        after = statistics.fmean(a.score for a in repeats)
        seeds = f"{len(repeats)} seeds" if len(repeats) > 1 else "1 seed (the budget ended there)"
        reason = (
            f"{arm.name}: unseen loss {before:.4g} -> {after:.4g} over {seeds} of {self.steps}"
            " steps; the smallest change that closes 90 % of the gap"
        )
        return replace(
            self._verdict(True, reason, originals[0], others),
            original=tuple(a.arm() for a in originals),
            winner=tuple(a.arm() for a in repeats),
            rivals=tuple(other for other in others if other.name != arm.name),
            gap_closed=closed,
        )

    def _verdict(
        self, kept: bool, reason: str, original: _Runner, others: tuple[Arm, ...]
    ) -> Verdict:
        return Verdict(
            kept=kept,
            reason=reason,
            original=(original.arm(),),
            rivals=others,
            seconds=self.deadline.elapsed,
            steps=self.deadline.taken,
            threads=torch.get_num_threads(),
        )


def _copied(batch: Any) -> Any:
    """A batch that a model may write into without spoiling it for the next arm."""
    return map_tensors(batch, lambda tensor: tensor.detach().clone())


def _gain(original: float, score: float) -> float:
    """How much smaller a loss is; an original that diverged is infinitely worse."""
    if not math.isfinite(original):
        return math.inf if math.isfinite(score) else 0.0
    return original - score


def _loss_at(arm: _Runner, step: int) -> float | None:
    """Mean training loss of the ten steps before ``step``."""
    near = [loss for at, loss in arm.losses if step - 10 < at <= step]
    return statistics.fmean(near) if near else None
