"""The repair of a training script as it stands: cause, race, verdict. Nothing of it is changed."""

from __future__ import annotations

import math
import os
import pickle
import re
import selectors
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradmend.engine.budget import DEFAULT_STEPS, FEWEST_STEPS, deadline_of
from gradmend.engine.files import write_prescription
from gradmend.engine.predictions import check_predictions
from gradmend.engine.prescribe import Candidates, forbidden_changes, prescribe
from gradmend.engine.script.afford import Race, affordable_race
from gradmend.engine.script.child import Child, Order
from gradmend.engine.script.plan import Plan
from gradmend.engine.script.runs import POLL, Run, ScriptRuns, outside
from gradmend.engine.trial import Deadline, Tell, Trial
from gradmend.errors import BadInput
from gradmend.records.finding import Severity
from gradmend.records.prescription import Prescription
from gradmend.records.report import Report
from gradmend.records.script import Place, ScriptFacts
from gradmend.records.verdict import Verdict
from gradmend.theory.guessing import loss_of_guessing

MOST_JOBS = 4
"""Trainings at a time, if there are as many cores (our choice: each holds a copy of the data)."""
CAUSE_SHARE = 0.2
"""Share of the budget after which the search for the cause stops, wherever it is."""
CAUSE_PATIENCE = 2.5
"""Times as long that it may take to see :data:`FEWEST_STEPS` steps at all: where watching alone
takes half of the budget, what is left proves nothing (our choice)."""
STEPS_TO_LOOK = 2
"""Steps of the repaired script that are watched to check what the winner promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a script is to be repaired."""

    steps: int | None = None
    """Steps of a training; as many as the budget allows, 300 at most, where not given."""
    keep: tuple[str, ...] = ()
    budget: str = "10 min"
    seeds: int = 3
    jobs: int = 1
    """Trainings at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the first run showed of a script's time."""

    start: float
    """Seconds until its first step."""
    step: float
    """Seconds of a step, without the watching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFix:
    """What came out: the cause, the prescription, the proof."""

    plan: Plan
    report: Report
    """With ``prescription`` where one was found, and ``verdict``."""
    pace: Pace
    steps: int
    """Of a training in the trial."""
    watched: int
    """Steps that were looked at to find the cause."""
    cut_short: bool
    """Whether the budget ended the search for the cause before it had seen all that it was to."""
    jobs: int
    threads: int
    reproducible: bool | None = None
    """Whether two runs with the same seed began with the same losses; ``None`` if run once."""
    candidates: Candidates | None = None

    @property
    def verdict(self) -> Verdict:
        """What the trial showed, or why there was none."""
        assert self.report.verdict is not None
        return self.report.verdict

    @property
    def prescription(self) -> Prescription:
        """The winner; false where nothing was found that wins."""
        return self.report.prescription or Prescription(model=self.report.trace.run.model)


Show = Callable[[str, Any], None]
"""Gets each stage when it is done: ``plan``, ``cause``, ``race``."""


def fix_script(
    plan: Plan,
    wishes: Wishes,
    *,
    tell: Tell = lambda text, share: None,
    show: Show = lambda stage, value: None,
) -> ScriptFix:
    """Find what keeps a script from training, and prove what mends it, in copies of its folder.

    Args:
        plan: The script, looked at beforehand.
        wishes: How.
        tell: Called with what is going on and the share of the budget used.
        show: Gets each stage when it is done.

    Returns:
        The outcome; the user's folder is as it was.

    Raises:
        BadInput: If the script cannot be tried: it trains nothing, fails, writes elsewhere.
    """
    forbidden_changes(wishes.keep)
    deadline = deadline_of(wishes.budget)
    if wishes.steps is not None and wishes.steps < FEWEST_STEPS:
        raise BadInput(
            f"{wishes.steps} steps are too few",
            "losses of so few cannot be told from noise",
            f"use {FEWEST_STEPS} or more",
        )
    with tempfile.TemporaryDirectory(prefix="gradmend-") as places:
        runs = ScriptRuns(
            plan=plan,
            places=Path(places),
            steps=wishes.steps or DEFAULT_STEPS,
            deadline=deadline,
            jobs=wishes.jobs,
            threads=_threads(wishes.jobs),
            tell=tell,
        )
        try:
            return _fix(runs, plan, wishes, deadline, show)
        finally:
            runs.close()


def jobs_of(wanted: int | None) -> int:
    """Trainings at a time: one per core, four at most, where none are asked for."""
    return wanted or min(MOST_JOBS, _cores())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(jobs: int) -> int:
    """Threads of each training: what the user has set, else its share of the cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one a level of nesting
    return int(wanted) if wanted.isdecimal() and int(wanted) else max(1, _cores() // jobs)


def _fix(runs: ScriptRuns, plan: Plan, wishes: Wishes, deadline: Deadline, show: Show) -> ScriptFix:
    seconds = None if deadline.seconds is None else CAUSE_SHARE * deadline.seconds
    runs.tell("running it once, watched, to find the cause", deadline.share)
    order = Order(
        until=runs.steps, watch=True, seconds=seconds, fewest=FEWEST_STEPS, patience=CAUSE_PATIENCE
    )
    seen = watched(runs, order)
    report, pace = seen.report, seen.pace
    if report.script is not None:
        runs.reference = report.script.losses
    if seen.whole:  # the script itself is no longer
        runs.steps = min(runs.steps, seen.step)
    fixed = ScriptFix(
        plan=plan, report=report, pace=pace, steps=runs.steps, jobs=runs.jobs, threads=runs.threads,
        watched=seen.step, cut_short=not seen.whole and seen.step < order.until,
    )  # fmt: skip

    def unchanged(reason: str, **more: Any) -> ScriptFix:
        verdict = Verdict(
            kept=False, reason=reason, seconds=deadline.elapsed, steps=deadline.taken,
            threads=runs.threads,
        )  # fmt: skip
        return replace(fixed, report=replace(fixed.report, verdict=verdict, **more))

    show("cause", fixed)
    if report.healthy:
        return unchanged(_nothing_found(fixed, wishes))
    if report.script is not None and report.script.unseen:
        return unchanged(
            f"its model could not be looked at ({report.script.unseen}), and no remedy works"
            " without; nothing was changed"
        )
    found = prescribe(report.at_least(Severity.WARNING), report.trace, wishes.keep)
    found = found.built_at(_line(report.script))
    report = replace(report, advice=found.advice, refusals=found.refusals)
    fixed = replace(fixed, report=report, candidates=found)
    if not found.prescriptions:
        return unchanged(
            f"only the source can be mended: {found.advice[0].text}"
            if found.advice
            else "no remedy fits what was found; nothing was changed"
        )
    if seen.several_losses and not seen.figures:
        return unchanged(
            f"its {seen.several_losses} optimizers have losses of their own and it evaluated"
            f" nothing within {seen.step} steps, so no figure says which training is better;"
            " let it print one, such as 'eval distance 0.42'; nothing was changed"
        )
    if runs.steps < FEWEST_STEPS:
        return unchanged(
            f"the script ends after {runs.steps} steps, too few to prove anything; let it train"
            f" for {FEWEST_STEPS} or more; nothing was changed"
        )
    race = Race(steps=runs.steps)
    if wishes.steps is None:
        race = affordable_race(
            deadline, start=pace.start, step=pace.step, candidates=len(found.prescriptions),
            seeds=wishes.seeds, jobs=runs.jobs, most=runs.steps,
        )  # fmt: skip
        if race.steps < FEWEST_STEPS:
            return unchanged(_too_small(race, pace, wishes))
        runs.steps = race.steps
        fixed = replace(fixed, steps=runs.steps)
    show("race", fixed)
    trial = Trial(
        trainer=runs,
        steps=runs.steps,
        deadline=deadline,
        seeds=wishes.seeds,
        tell=runs.tell,
        combine=found.combined,
        guess=None if seen.several_losses else loss_of_guessing(report.trace),
        thrifty=race.thrifty,
    )
    winner, verdict = trial.run(found.prescriptions, found.local)
    refusals = (*found.refusals, *runs.refusals)
    report = replace(report, refusals=refusals, verdict=verdict)
    if winner is not None:
        report = _with_winner(runs, report, winner, verdict)
    return replace(fixed, report=report, reproducible=not runs.noisy)


def _too_small(race: Race, pace: Pace, wishes: Wishes) -> str:
    """Why a budget proves nothing, and which would."""
    more = "" if race.seconds is None else f"; try --budget '{math.ceil(race.seconds / 60.0)} min'"
    return (
        f"a budget of {wishes.budget} allows {race.steps} steps per training (a step takes"
        f" {pace.step:.2g} s, the start {pace.start:.2g} s), too few to prove anything{more};"
        " nothing was changed"
    )


def _with_winner(
    runs: ScriptRuns, report: Report, winner: Prescription, verdict: Verdict
) -> Report:
    """The report with the repaired model's own look beside the first one."""
    runs.tell("looking at the repaired model", runs.deadline.share)
    path = runs.places / "winner.json"
    write_prescription(winner, path)
    order = Order(until=STEPS_TO_LOOK, watch=True, prescription=path)
    try:
        after = watched(runs, order).report.trace
    except BadInput as error:  # it has been trained before; a look more or less proves nothing
        note = f"the repaired script was not looked at once more: {error.found}"
        report = replace(report, trace=replace(report.trace, notes=(*report.trace.notes, note)))
        return replace(report, prescription=winner, verdict=verdict)
    verdict = replace(verdict, checked=check_predictions(winner.predictions, after))
    return replace(report, prescription=winner, verdict=verdict, after=after)


def _nothing_found(fixed: ScriptFix, wishes: Wishes) -> str:
    """What may be said where no rule objected: no more than was looked at."""
    if not fixed.cut_short:
        return "healthy: nothing was found that a repair could mend; nothing was changed"
    steps = f"{fixed.watched} steps" if fixed.watched > 1 else "one step"
    few = ", too few to call it healthy" if fixed.watched < FEWEST_STEPS else ""
    return (
        f"nothing was found in {steps}, as far as its share of a budget of {wishes.budget} went"
        f"{few}; what shows later takes a larger --budget; nothing was changed"
    )


def _line(facts: ScriptFacts | None) -> str:
    place = facts.model_place if facts is not None else None
    return f"{place.file}:{place.line}" if place is not None else ""


def _at_home(facts: ScriptFacts, work: Path) -> ScriptFacts:
    """Places by their path inside the script's folder, not by that of the copy it ran in."""

    def moved(place: Place | None) -> Place | None:
        if place is None or not Path(place.file).is_relative_to(work):
            return place
        return replace(place, file=str(Path(place.file).relative_to(work)))

    modules = {path: new for path, place in facts.modules.items() if (new := moved(place))}
    return replace(
        facts,
        model_place=moved(facts.model_place),
        optimizer_place=moved(facts.optimizer_place),
        modules=modules,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What one watched run of the script told."""

    report: Report
    pace: Pace
    step: int
    whole: bool
    """Whether the script came to its own end."""
    several_losses: int
    """Optimizers with losses of their own; 0 where there is one loss."""
    figures: Iterable[str]
    """Names of what it evaluates."""


def watched(runs: ScriptRuns, order: Order) -> Watched:
    """Run the script once, watched, and read its report.

    Raises:
        BadInput: If there is none: it trained nothing, failed, asked for input, wrote elsewhere.
    """
    child = runs.start(order)
    run = Run(child)
    try:
        last, first_step = _last_word(runs, run, order)
        run.hear(last)
        # Ours, written by the process that we started, into a folder that only this user can read.
        report: Report | None = None
        if child.report_path.is_file() and child.step:
            report = pickle.loads(child.report_path.read_bytes())
        if report is None:
            raise _why_nothing(last, child)
        if report.script is not None:
            report = replace(report, script=_at_home(report.script, child.work))
        runs.deadline.taken += child.step
        own = [each for each in run.losses if each]
        return Watched(
            report=report,
            pace=Pace(start=first_step, step=_seconds_of_a_step(last, first_step)),
            step=child.step,
            whole=last["kind"] == "ended" and last["how"] != "raised",
            several_losses=0 if run.loss is not None or not own else len(own),
            figures=tuple(run.figures),
        )
    finally:
        child.end()


def _seconds_of_a_step(last: dict[str, Any], first_step: float) -> float:
    """As the script takes them; where only one was seen, with what watching it took."""
    steps, trained = last.get("trained", (0, 0.0))
    if steps:
        return float(trained) / int(steps)
    return (float(last.get("t", 0.0)) - first_step) / max(1, int(last.get("step", 0)))


def _last_word(runs: ScriptRuns, run: Run, order: Order) -> tuple[dict[str, Any], float]:
    """The word with which a run stopped or ended, and the seconds until its first step."""
    child, first_step, imported = run.child, 0.0, 0.0
    while True:
        with selectors.DefaultSelector() as selector:
            selector.register(child.words, selectors.EVENT_READ)
            selector.select(POLL)
        for word in child.heard():
            kind = word["kind"]
            if kind == "torch":
                imported = float(word["t"])
            elif kind == "progress":
                first_step = first_step or float(word["t"])
                child.step = int(word["step"])
                runs.tell(
                    f"running it once, watched: step {child.step} of {order.until}",
                    runs.deadline.share,
                )
            elif kind in ("stop", "ended", "refused"):
                return word, first_step or imported
            elif kind == "outside":
                raise outside(word)
            elif kind == "gone":
                raise _why_nothing(word, child)
        if runs.deadline.passed():
            raise BadInput(
                f"the budget ended at step {child.step} of the first run",
                "nothing can be proven in less time than the script takes to begin; nothing was"
                " changed",
                "give it more, for example --budget '30 min'",
            )


_OF_A_GPU = re.compile(r"(?<![A-Za-z])(CUDA|cuda|NVIDIA|HIP|MPS|mps)(?![A-Za-z])")
"""What torch says of a device that is not there; no part of a word, such as time stamps."""


def _why_nothing(word: dict[str, Any], child: Child) -> BadInput:
    """Why a run told nothing that could be judged, in the user's terms."""
    error = str(word.get("error") or "")
    said = error or child.last_lines(1) or f"status {word.get('status')}"
    if word["kind"] == "refused":
        return BadInput(str(word["reason"]), "", "")
    if error.startswith("EOFError"):
        return BadInput(
            "the script asks for input",
            "nobody answers in a trial",
            "pass what it asks for as an argument, or give it a default",
        )
    if _OF_A_GPU.search(said):
        return BadInput(
            f"the script needs a GPU that is not here: {said[:200]}",
            "a trial runs it as it is",
            "run it where the GPU is, or let it choose the device",
        )
    if word.get("how") == "raised" or word["kind"] == "gone":
        return BadInput(
            f"the script failed before its first step: {said[:300]}",
            "a trial runs it as it is",
            "run it with python first; in a trial its stdin is empty and its folder is a copy",
        )
    if not child.step:
        status = word.get("status")
        ended = f"the script ended with status {status}, and " if status else ""
        return BadInput(
            f"{ended}no optimizer of torch took a step",
            "there is no training to repair",
            "name the script that trains, with the arguments that make it train",
        )
    return BadInput(f"the script told nothing that can be judged: {said[:200]}", "", "")
