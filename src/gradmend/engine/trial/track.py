"""The one model there is, lent to one arm after the other: trained, judged, put back."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from gradmend.engine.trial.arm import Runner
from gradmend.engine.trial.deadline import Deadline, Tell
from gradmend.engine.trial.express import Express, express
from gradmend.errors import CannotApply
from gradmend.probe.batch import Feeder, check_loss, map_tensors
from gradmend.records.prescription import Edit, Prescription, Refusal
from gradmend.records.verdict import Yardstick

TRAINED_ON = 0.1
"""Share of a winner's training after which it is judged again while it trains on (our choice)."""
TRAINING = 3.0
"""Times what judging takes that a stretch trains at least: in a very deep network judging takes as
long as many steps (our choice: a quarter of the time at most)."""
RETREAT = 0.5
"""Factor to the rate where training on made it worse, and it goes back to where it was best."""
WOBBLES = 0.03
"""Share of its loss by which a stretch may be worse without a retreat: at high rates it wobbles."""
LEAST_RATE = 0.05
"""Factor below which training on ends: four retreats in all, and what is left is over-fitting."""
LONG_STEP = 2.0
"""Seconds from which one step is enough to tell the pace."""
TOLD_EVERY = 8
"""Steps between two words on how far an arm is."""


@dataclass(slots=True)
class Track:
    """Where arms run: from the same start, on the same batches, with the same random numbers."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    feeder: Feeder
    data: TrialData
    deadline: Deadline
    seed: int = 0
    tell: Tell = lambda text, share: None
    mend: tuple[Edit, ...] = ()
    """What mends the meaning of the loss: the original is judged with it, too."""
    starts: bool = False
    """Whether every arm is judged before its first step: where the original has no loss at all."""
    refusals: list[Refusal] = field(default_factory=list)
    bench: Bench | None = None
    """The bench of the arm that was opened last."""
    thrifty: bool = False
    """Whether a step is so dear that an arm whose gradient underflows is stopped at its first."""
    opening: float = 0.0
    """Seconds that it took to apply an arm's edits, at most."""
    lifeless: bool = False
    """Whether the original's gradient underflowed when its pace was measured."""
    _snapshot: Snapshot | None = None

    @property
    def yardstick(self) -> Yardstick:
        """The loss on unseen data."""
        return Yardstick()

    @property
    def noisy(self) -> bool:
        """Never: batches, draws and arithmetic are the same each time."""
        return False

    @property
    def threads(self) -> int:
        """Torch's own."""
        return torch.get_num_threads()

    def begin(self) -> None:
        """Remember the model as it is."""
        self._snapshot = Snapshot.take(self.model, self.optimizer, self._others())

    @property
    def start(self) -> Snapshot:
        """The model as it was."""
        assert self._snapshot is not None, "begin() comes first"
        return self._snapshot

    def keep(self, arm: Runner) -> None:
        """Leave the model with an arm's edits and its training."""
        self.open(arm)
        assert arm.progress is not None and self.bench is not None
        arm.progress.resume(self.bench.model, self.optimizer, self._others())
        self.start.restore_randomness()

    def train_on(self, arm: Runner, until: float, text: str) -> None:
        """Train the kept arm on while the budget lasts, and leave it where it was judged best.

        The rate falls to zero on the way, linearly: a constant rate keeps a loss above what the
        same steps reach with such an end (Haegele et al. 2024). Where a stretch of it made the
        loss worse, that stretch is undone and the rate halved: what a race of a few steps bore is
        often too high for a longer training. Afterwards the rate is what it was.

        Args:
            arm: The one that was kept; its steps and scores go on.
            until: Share of the budget at which to stop.
            text: What to tell.
        """
        assert self.bench is not None and arm.progress is not None
        bench, best, steps = self.bench, arm.progress, arm.steps
        set_randomness(best.randomness)
        batch_at = self.data.order(arm.seed)
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        began, spell, factor = self.deadline.share, max(1, round(steps * TRAINED_ON)), 1.0
        kept = 0.0  # of the budget, for judging the last stretch
        while self.deadline.share < until and factor >= LEAST_RATE:
            entered, before = self.deadline.share, steps
            with express(bench.model, self.optimizer) as lent:
                first = self.deadline.share
                for _ in range(spell):
                    left = max(0.0, (until - self.deadline.share) / (until - began))
                    for group, rate in zip(groups, rates, strict=True):
                        group["lr"] = rate * left * factor
                    self.tell(f"{text}: step {steps + 1}", self.deadline.share)
                    loss = self._step(bench, batch_at(steps), lent)
                    steps += 1
                    self.deadline.taken += 1
                    if loss is not None and not math.isfinite(loss):
                        break
                    if self.deadline.share >= until:
                        break
                trained, taken = self.deadline.share - first, steps - before
                score = self._judge_arm(arm, bench)
            if score < arm.score:
                best = Progress.take(bench.model, self.optimizer, self._others())
                arm.steps, arm.scores[steps] = steps, score
            elif not score <= arm.score + WOBBLES * abs(arm.score):
                best.resume(bench.model, self.optimizer, self._others())
                steps, factor = arm.steps, factor * RETREAT
            around = self.deadline.share - entered - trained
            until -= max(0.0, around - kept)
            kept = max(kept, around)
            if trained:
                spell = max(spell, round(TRAINING * around * taken / trained))
        best.resume(bench.model, self.optimizer, self._others())
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self.start.restore_randomness()

    def take_back(self) -> None:
        """Undo everything: the model is bit for bit as it was."""
        if self.bench is not None:
            self.bench.undo()
        if self._snapshot is not None:
            self._snapshot.put_back()

    @contextmanager
    def untrained(self, prescription: Prescription) -> Iterator[nn.Module]:
        """The model as it was, with the edits made and no step taken, for the block's length.

        Only after :meth:`keep`; the trained model is put back afterwards.
        """
        assert self.bench is not None
        kept = self.bench
        trained = Progress.take(kept.model, self.optimizer, self._others())
        kept.undo()
        self.start.restore()
        runner = Runner(prescription=prescription, seed=self.seed)
        try:
            self.open(runner)
            yield self.bench.model
        finally:
            self.bench.undo()
            self.start.restore()
            self.open(runner)
            trained.resume(self.bench.model, self.optimizer, self._others())
            self.start.restore_randomness()

    def pace(self, steps: int = 4) -> float:
        """Seconds of one step of the original, the fastest of a few; the model is put back."""
        self.begin()
        times = []
        try:
            batch_at = self.data.order(self.seed)
            with express(self.model, self.optimizer) as lent:
                for step in range(steps):
                    self.tell("measuring the pace", self.deadline.share)
                    began = time.perf_counter()
                    self._step(Bench(model=self.model), batch_at(step), lent)
                    times.append(time.perf_counter() - began)
                    self.lifeless = self.thrifty and self._underflows(lent)
                    if self.thrifty and times[-1] > LONG_STEP:
                        break
            return min(times)
        finally:
            self.start.put_back()

    def train(self, arms: Sequence[Runner], goals: tuple[int, ...], text: str) -> None:
        """Train one after the other; none begins when the budget has ended."""
        for number, arm in enumerate(arms, 1):
            place = f" ({number} of {len(arms)})" if len(arms) > 1 else ""
            if self.deadline.passed():
                return
            self._train(arm, goals, f"{text}: {arm.name}{place}" if arm.prescription else text)

    def release(self, arm: Runner) -> None:
        """Let go of an arm's progress: it does not go on."""
        arm.progress = None

    def put_back(self) -> None:
        """Leave the model as it was: no arm won."""
        self.start.put_back()

    def _train(self, arm: Runner, goals: tuple[int, ...], text: str) -> None:
        """Bring an arm to the last goal, judge it at each on unseen data, put everything back."""
        if arm.diverged or arm.error or arm.steps >= goals[-1]:
            return
        began = time.perf_counter()
        try:
            self.open(arm)
        except CannotApply as refusal:
            arm.error = str(refusal)
            self.refusals.append(Refusal(remedy=arm.name, finding="", reason=str(refusal)))
            self.start.restore()  # an edit may have run the model before it failed
            return
        assert self.bench is not None
        try:
            self._run(arm, self.bench, goals, text)
            if not arm.diverged:
                arm.progress = Progress.take(self.bench.model, self.optimizer, self._others())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the user's model or loss says about the edited one
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            arm.error, arm.diverged, arm.failure = said, True, error
            if arm.prescription is not None:
                self.refusals.append(
                    Refusal(remedy=arm.name, finding="", reason=f"the edited model raised {said}")
                )
        finally:
            arm.seconds += time.perf_counter() - began
            self.bench.undo()
            self.start.restore()

    def open(self, arm: Runner) -> None:
        """Apply an arm's edits to the model as it was."""
        began = self.deadline.elapsed
        seed_randomness(arm.seed)
        bench = Bench(
            model=self.model,
            optimizer=self.optimizer,
            run_batch=lambda model: self.feeder.loss(
                model, bench.batch(_copied(self.data.train[0]))
            ),
            seed=arm.seed,
        )
        self.bench = bench
        if arm.prescription is not None:
            apply_edits(bench, arm.prescription.edits)
        self.opening = max(self.opening, self.deadline.elapsed - began)

    def _others(self) -> list[nn.Module]:
        """Modules that the loss holds: training moves their buffers and parameters, too."""
        return [module for module in self.feeder.owners(self.model) if module is not self.model]

    def _run(self, arm: Runner, bench: Bench, goals: tuple[int, ...], text: str) -> None:
        if arm.progress is not None:
            arm.progress.resume(bench.model, self.optimizer, self._others())
        elif arm.steps == 0:
            seed_randomness(arm.seed)
        if arm.steps == 0 and (arm.prescription is None or self.starts):
            arm.scores[0] = self._judge_arm(arm, bench)
        with express(bench.model, self.optimizer) as lent:
            self._train_to(arm, bench, goals, text, lent)

    def _train_to(
        self, arm: Runner, bench: Bench, goals: tuple[int, ...], text: str, lent: Express
    ) -> None:
        batch_at = self.data.order(arm.seed)
        for goal in (goal for goal in goals if goal > arm.steps):
            while arm.steps < goal:
                if arm.steps % TOLD_EVERY == 0:
                    self.tell(text, self.deadline.share)
                loss = self._step(bench, batch_at(arm.steps), lent)
                arm.steps += 1
                self.deadline.taken += 1
                if loss is not None:
                    arm.losses.append((arm.steps, loss))
                if loss is not None and not math.isfinite(loss):
                    arm.diverged = True
                    return
                if self.thrifty and arm.steps == 1 and self._underflows(lent):
                    arm.scores[1], arm.still = self._judge_arm(arm, bench), True
                    return
                if self.deadline.passed() and arm.steps < goals[-1]:
                    return
            arm.scores[goal] = self._judge_arm(arm, bench)
            if not math.isfinite(arm.scores[goal]):
                arm.diverged = True
                return

    def _underflows(self, lent: Express) -> bool:
        """Whether most parameters got a gradient that is exactly zero: no step will move them.

        In single precision that is what is left of a gradient some 40 decades below the loss's.
        """
        wholes = {id(block.whole) for block in lent.blocks}
        every = dead = 0
        for parameter in (p for group in self.optimizer.param_groups for p in group["params"]):
            members = len(parameter) if id(parameter) in wholes else 1
            every += members
            grad = parameter.grad
            if grad is None:
                dead += members
            elif members > 1:
                dead += members - int(grad.reshape(members, -1).any(1).sum())
            else:
                dead += not (grad.coalesce().values() if grad.is_sparse else grad).any()
        return 2 * dead > every

    def _step(self, bench: Bench, batch: Any, lent: Express) -> float | None:
        """One optimizer step; LBFGS and its kin get a closure.

        Returns:
            The loss as the user has it; ``None`` where the edits leave nothing of the batch.
        """
        fed = bench.batch(_copied(batch))
        if fed is None:
            return None
        value = math.nan

        def closure() -> torch.Tensor:
            nonlocal value
            self.optimizer.zero_grad(set_to_none=True)
            loss = check_loss(self.feeder.loss(bench.model, fed))
            value = float(loss.detach())
            loss = bench.loss(loss)
            if math.isfinite(value):
                loss.backward()  # type: ignore[no-untyped-call]
            return loss

        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
        else:
            noise = randomness() if lent.untried else None
            try:
                closure()
            except Exception:
                if noise is None:
                    raise
                lent.release()  # what was raised may come of the way it was run
                set_randomness(noise)
                closure()
            if math.isfinite(value):
                self.optimizer.step()
        return -value if self.upside_down else value

    @property
    def upside_down(self) -> bool:
        """Whether more of the user's loss is better."""
        return any(edit.kind == "maximise" for edit in self.mend)

    def _judge_arm(self, arm: Runner, bench: Bench) -> float:
        """Judge an arm; the original with what mends the loss, put there for that alone."""
        mend = self.mend if arm.prescription is None else ()
        outlet = [edit for edit in mend if edit.kind != "maximise"]
        mended = apply_edits(Bench(model=bench.model), outlet)
        try:
            return self._judge(mended.model)
        finally:
            mended.undo()

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
        mean = statistics.fmean(losses)
        return -mean if self.upside_down else mean


def _copied(batch: Any) -> Any:
    """A batch that a model may write into without spoiling it for the next arm."""
    return map_tensors(batch, lambda tensor: tensor.detach().clone())
