"""Trains the arms of a trial in processes that run the script, several at a time."""

from __future__ import annotations

import math
import selectors
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gradmend.engine.files import write_prescription
from gradmend.engine.script.child import Child, Order, numbers_of
from gradmend.engine.script.plan import Plan
from gradmend.engine.script.printed import printed_figures
from gradmend.engine.trial.arm import Runner
from gradmend.engine.trial.deadline import Deadline, Tell
from gradmend.errors import BadInput
from gradmend.records.prescription import Edit, Refusal
from gradmend.records.verdict import Figure, Yardstick

LAST_SHARE = 3
"""A training is judged by the losses of the last third of its steps (our choice: batches differ,
so one loss says little)."""
FEWEST_LOSSES = 5
"""Losses that are averaged at least, where there are as many."""
POLL = 0.2
"""Seconds between two looks at the clock while processes train."""
SILENT = 600.0
"""Seconds without a word after which a process counts as stuck, where the budget is in steps."""


@dataclass(slots=True)
class Run:
    """The process of one arm, and what it said so far."""

    child: Child
    losses: list[list[tuple[int, float]]] = field(default_factory=list)
    """By optimizer."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """The script's own evaluations, the last of each name."""
    figures_at: dict[int, dict[str, Figure]] = field(default_factory=dict)
    """The same as they were at each goal."""
    heard_at: float = field(default_factory=time.monotonic)

    def hear(self, word: dict[str, Any]) -> None:
        """Take in what was said at a stop."""
        while len(self.losses) < len(word.get("losses", ())):
            self.losses.append([])
        for own, new in zip(self.losses, word.get("losses", ()), strict=False):
            own += numbers_of(new)
        for each in word.get("evaluations", ()):
            name = f"evaluation {each['name']}"
            self.figures[name] = Figure(name, float(each["value"]), higher=False)
        self.figures |= printed_figures(self.child.printed())
        self.child.step = int(word.get("step", self.child.step))

    @property
    def loss(self) -> list[tuple[int, float]] | None:
        """The one loss that is trained on; ``None`` where optimizers have losses of their own."""
        known = [each for each in self.losses if each]
        if not known or any(each != known[0] for each in known[1:]):
            return None
        return known[0]


@dataclass(slots=True)
class ScriptRuns:
    """A :class:`~gradmend.engine.trial.trainer.Trainer` whose arms are runs of a script."""

    plan: Plan
    places: Path
    """Folder for what is exchanged with the processes."""
    steps: int
    deadline: Deadline
    jobs: int
    threads: int
    tell: Tell = lambda text, share: None
    mend: tuple[Edit, ...] = ()
    starts: bool = False
    refusals: list[Refusal] = field(default_factory=list)
    yardstick: Yardstick = field(default_factory=lambda: Yardstick(name="loss"))
    reference: tuple[float, ...] = ()
    """Losses of the original's first steps, of another run of it."""
    noisy: bool = False
    _runs: dict[int, Run] = field(default_factory=dict)
    _started: int = 0
    _key: str = ""
    """The evaluation that stands for the loss, where optimizers have losses of their own."""

    def begin(self) -> None:
        """Nothing is changed here: every process has its own copy."""

    def keep(self, arm: Runner) -> None:
        """Nothing to be kept but the prescription."""
        del arm  # unused: a script trains its own model
        self.close()

    def put_back(self) -> None:
        """Nothing to put back."""
        self.close()

    def take_back(self) -> None:
        """Nothing to take back; no process goes on."""
        self.close()

    def close(self) -> None:
        """End every process that there still is."""
        for run in self._runs.values():
            run.child.end()
        self._runs.clear()

    def release(self, arm: Runner) -> None:
        """End the arm's process: it does not go on."""
        run = self._runs.pop(id(arm), None)
        if run is not None:
            run.child.end()

    def start(self, order: Order) -> Child:
        """A new process."""
        self._started += 1
        return Child(
            self.plan.command,
            self.plan.listed,
            order,
            threads=self.threads,
            places=self.places,
            number=self._started,
        )

    def train(self, arms: Sequence[Runner], goals: tuple[int, ...], text: str) -> None:
        """Train several arms at a time; one that waits at a stop takes no core."""
        waiting = [arm for arm in arms if not (arm.diverged or arm.error or arm.steps >= goals[-1])]
        count, names = len(waiting), {id(arm): arm.name for arm in waiting}
        active: list[Runner] = []
        while (waiting or active) and not self.deadline.passed():
            while waiting and len(active) < self.jobs:
                arm = waiting.pop(0)
                self._set_off(arm, next(goal for goal in goals if goal > arm.steps))
                active.append(arm)
            place = f" ({count - len(waiting)} of {count})" if count > 1 else ""
            said = ", ".join(dict.fromkeys(names[id(arm)] for arm in active if arm.prescription))
            self.tell(f"{text}: {said}{place}" if said else text, self.deadline.share)
            self._listen(active)
            active = [arm for arm in active if self._go_on(arm, goals)]
        for arm in active:
            self.release(arm)  # the budget has ended

    def _set_off(self, arm: Runner, goal: int) -> None:
        run = self._runs.get(id(arm))
        if run is not None:
            run.heard_at = time.monotonic()
            run.child.go(goal)
            return
        path = None
        if arm.prescription is not None:
            path = self.places / f"prescription-{self._started + 1}.json"
            write_prescription(arm.prescription, path)
        order = Order(until=goal, prescription=path, seed_shift=arm.seed)
        self._runs[id(arm)] = Run(self.start(order))

    def _listen(self, arms: list[Runner]) -> None:
        """Wait a moment for words of the arms' processes, and take them in."""
        with selectors.DefaultSelector() as selector:
            for arm in arms:
                selector.register(self._runs[id(arm)].child.words, selectors.EVENT_READ, arm)
            for key, _ in selector.select(POLL):
                arm = key.data
                run = self._runs[id(arm)]
                for word in run.child.heard():
                    run.heard_at = time.monotonic()
                    self._take(arm, run, word)

    def _take(self, arm: Runner, run: Run, word: dict[str, Any]) -> None:
        kind = word["kind"]
        if kind == "progress":
            run.child.step = int(word["step"])
        elif kind in ("stop", "ended"):
            before = arm.steps
            run.hear(word)
            arm.steps = run.child.step
            self.deadline.taken += max(0, arm.steps - before)
            arm.seconds = float(word.get("t", arm.seconds))
            if kind == "ended":
                self._ended(arm, run, word)
        elif kind == "refused":
            self._fail(arm, str(word["reason"]))
        elif kind == "outside":
            raise outside(word)
        elif kind == "gone" and not (arm.error or arm.diverged or arm.steps >= self.steps):
            lines = run.child.last_lines(1)
            self._fail(arm, f"the process ended (status {word['status']}) {lines}".strip())

    def _ended(self, arm: Runner, run: Run, word: dict[str, Any]) -> None:
        """The script is over: by an error of the edited model, or since it had no more to do."""
        if word["how"] == "raised" and not _not_finite(run.loss):
            self._fail(arm, f"the script raised {word.get('error', '')}".strip())
        elif arm.steps:
            arm.steps = self.steps  # it stopped by itself, earlier than the original

    def _fail(self, arm: Runner, why: str) -> None:
        arm.error, arm.diverged = why, True
        if arm.prescription is not None:
            self.refusals.append(Refusal(remedy=arm.name, finding="", reason=why))

    def _go_on(self, arm: Runner, goals: tuple[int, ...]) -> bool:
        """Judge an arm where it has come to a goal; whether it still trains."""
        run = self._runs[id(arm)]
        if arm.error or arm.diverged:
            self.release(arm)
            return False
        if self.deadline.seconds is None and time.monotonic() - run.heard_at > SILENT:
            self._fail(arm, f"the script took no step in {SILENT:.0f} s")
            self.release(arm)
            return False
        reached = [goal for goal in goals if goal <= arm.steps and goal not in arm.scores]
        for goal in reached:
            self._judge(arm, run, goal)
            if arm.diverged:
                self.release(arm)
                return False
        if not reached:
            return True
        if arm.steps >= self.steps:
            self.release(arm)
        if arm.steps >= goals[-1]:
            return False
        self._set_off(arm, next(goal for goal in goals if goal > arm.steps))
        return True

    def _judge(self, arm: Runner, run: Run, goal: int) -> None:
        loss = run.loss
        arm.losses = list(loss or next((each for each in run.losses if each), []))
        if any(_not_finite(each) for each in run.losses):
            arm.diverged = True
            return
        run.figures_at[goal] = arm.figures = dict(run.figures)
        if arm.prescription is None and arm.seed == 0:
            self.noisy = not _same(self.reference, [value for _, value in arm.losses])
        first = arm.prescription is None and not self._key
        if first and loss is None and goal >= self.steps:
            self._choose(arm, run)
        arm.scores[goal] = self._score(run, goal)
        if not math.isfinite(arm.scores[goal]):
            arm.diverged = True

    def _score(self, run: Run, goal: int) -> float:
        if run.loss is not None:
            return (-1.0 if self.upside_down else 1.0) * mean_of_last(run.loss, goal)
        # Where a script does not evaluate as early as this, nobody is ahead yet.
        figure = run.figures_at[goal].get(self._key)
        return figure.score if figure is not None else 0.0

    def _choose(self, original: Runner, run: Run) -> None:
        """What to judge by where no single loss says which training is better."""
        figure = next(iter(run.figures.values()), None)
        if figure is not None:
            self._key = figure.name
            self.yardstick = Yardstick(name=figure.name, higher=figure.higher)
            original.scores.update({goal: self._score(run, goal) for goal in run.figures_at})

    @property
    def upside_down(self) -> bool:
        """Whether more of the script's loss is better."""
        return any(edit.kind == "maximise" for edit in self.mend)


def mean_of_last(losses: list[tuple[int, float]], goal: int) -> float:
    """Mean loss over the last third of the steps up to a goal.

    Each is the loss of a batch before the step on it: while no batch comes twice, it is a loss on
    data not trained on (progressive validation; Blum, Kalai and Langford 1999).
    """
    until = [loss for step, loss in losses if step <= goal]
    return statistics.fmean(until[-max(FEWEST_LOSSES, len(until) // LAST_SHARE) :] or [math.nan])


def _same(reference: Sequence[float], losses: Sequence[float]) -> bool:
    """Whether two runs began with the very same losses; NaN is like NaN.

    What was watched is kept in float32, to which a sum over several backward passes is rounded.
    """
    shared = min(len(reference), len(losses))
    ours, theirs = (np.asarray(each[:shared], dtype=np.float32) for each in (reference, losses))
    return np.array_equal(ours, theirs, equal_nan=True)


def outside(word: dict[str, Any]) -> BadInput:
    """What is said when a script wants to write where it must not."""
    return BadInput(
        f"the script writes to {word['path']}, outside of its folder",
        "a trial must not change what is yours, so the write was refused and nothing was changed",
        "give it a path inside its folder for the trial",
    )


def _not_finite(losses: list[tuple[int, float]] | None) -> bool:
    return any(not math.isfinite(loss) for _, loss in losses or ())
