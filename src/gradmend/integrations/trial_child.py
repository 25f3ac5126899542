"""The child's side of a trial of a script: ``python -m gradmend.integrations.trial_child SPEC``.

The script runs in this process as Python would run it, up to a stated step, with a prescription
injected where the spec names one. What it does is told to the parent, one JSON object a line, and
at each goal the parent says how it goes on. The process ends hard: no exit handler of the script
runs, as the script itself was never meant to end here.

The spec is a JSON object: ``target``, ``arguments``, ``as_module``, ``seed_shift``,
``prescription`` (a path or null), ``until`` (steps), ``seconds`` (of training after which it stops
short of that, or null), ``fewest`` (steps below which it goes on after that time) and
``patience`` (so many times as long, at most), ``watch`` (whether to diagnose), ``report_to`` (a
path or null), ``folder`` (to run in), ``writable`` (folders), ``words`` and ``orders`` (file
descriptors).

Steps are counted as the watcher does: in a step no optimizer steps twice. Losses bear the number of
the step that they were computed in, from 0 on; an evaluation the number of steps behind it. A goal
of ``n`` is reached when step ``n`` begins.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gradmend.engine.files import read_prescription
from gradmend.errors import GradmendError
from gradmend.integrations.ending import finish
from gradmend.integrations.fence import Fence
from gradmend.integrations.on_import import when_imported
from gradmend.integrations.script import Outcome, run_script
from gradmend.integrations.seeding import Seeds
from gradmend.integrations.trial_words import Line, Spec, leave
from gradmend.records.prescription import Prescription

if TYPE_CHECKING:
    from gradmend.engine.watching.script import ScriptWatch
    from gradmend.integrations.injection import Injection
    from gradmend.integrations.tally import TallyingWatch
    from gradmend.integrations.treating import Applied
    from gradmend.records.report import Report

PROGRESS = 0.5
"""Seconds between two messages about the step, at least."""
REFUSED = 2
"""Exit status where the prescription does not fit, or the script writes outside."""

Diagnose = Callable[["ScriptWatch"], "Report"]


class Child:
    """One script on trial, from its import of torch to its end."""

    def __init__(self, spec: Spec, line: Line, fence: Fence, diagnose: Diagnose) -> None:
        self.spec, self.line, self.fence, self.diagnose = spec, line, fence, diagnose
        self.goal = spec.until
        self.prescription: Prescription | None = None
        self.injection: Injection | None = None
        self.watch: TallyingWatch | None = None
        self._said_at = -math.inf
        self._began_at: float | None = None
        self._process, self._started = os.getpid(), False

    def run(self) -> NoReturn:
        """Run the script; comes to its end, or to the last goal."""
        spec = self.spec
        try:
            if spec.prescription is not None:
                self.prescription = read_prescription(spec.prescription)
            outcome = run_script(
                spec.target,
                spec.arguments,
                as_module=spec.as_module,
                before=self._before,
                at_end=self._ended,
            )
        except GradmendError as error:
            self._refuse(str(error))
        if os.getpid() != self._process:  # a child that the script has forked, and that came back
            finish(outcome)
        # Told on stderr already: a syntax error, so that no code began, or a failure of ours.
        why = "the watching of it failed" if self._started else "the script does not compile"
        self.line.say("ended", **self._facts(0), how="raised", error=why, status=1, report=None)
        leave(1)

    def _before(self) -> None:
        self._started = True
        Seeds(self.spec.seed_shift).begin()
        when_imported("torch", self._begin)
        self.fence.close_in()

    def _begin(self) -> None:
        """Torch has just been imported by the script."""
        try:
            self._listen()
        except Exception as error:
            self._refuse(f"{type(error).__name__}: {error}")
        self.line.say("torch")

    def _listen(self) -> None:
        from gradmend.integrations.tally import TallyingWatch

        self.watch = TallyingWatch(in_full=self.spec.watch)
        if self.prescription is not None:
            from gradmend.integrations.injection import Injection

            self.injection = Injection(
                self.prescription,
                seed=self.spec.seed_shift,
                tell=self._injected,
                refuse=self._refuse,
            )
            self.injection.deaf = self.watch.taps.deaf
            self.injection.open()
        self.watch.tally.begins = self._step_begins
        self.watch.__enter__()

    def _injected(self, applied: Applied) -> None:
        self.line.say("injected", model=applied.model, notes=list(applied.notes))

    def _refuse(self, reason: str) -> NoReturn:
        self.line.say("refused", reason=" ".join(reason.split()))
        leave(REFUSED)

    def _step_begins(self) -> None:
        """A training step begins: has the goal been reached?"""
        assert self.watch is not None
        step, now = self.watch.tally.step, time.perf_counter()
        if self._began_at is None:
            self._began_at = now
        if step >= self.goal or self._out_of_time(step, now - self._began_at):
            if self.injection is not None and not self.injection.applied:
                self._refuse(_UNMATCHED.format(self._wanted()))
            self.line.say("stop", **self._facts(step), report=self._report())
            order = self.line.listen()
            if order.get("kind") != "go":
                leave(0)
            self.goal, self._began_at = int(order["until"]), math.inf
        elif now - self._said_at >= PROGRESS:
            self._said_at = now
            self.line.say("progress", step=step)

    def _out_of_time(self, step: int, seconds: float) -> bool:
        """Whether it ends short of its goal; a few steps say so little that they are waited for."""
        limit = self.spec.seconds or math.inf
        patience = 1.0 if step >= self.spec.fewest else self.spec.patience
        return step > 0 and seconds >= patience * limit

    def _wanted(self) -> str:
        assert self.prescription is not None
        return self.prescription.model or "model"

    def _facts(self, step: int) -> dict[str, Any]:
        watch = self.watch
        if watch is None:
            return {"step": 0, "losses": [], "evaluations": [], "optimizers": [], "models": [],
                    "trained": [0, 0.0]}  # fmt: skip
        roster, schedule = watch.observer.roster, watch.observer.schedule
        return {
            "step": step,
            "losses": watch.tally.take_losses(),
            "evaluations": watch.tally.evaluations.take(),
            "optimizers": [column.name for column in roster.optimizers],
            "models": list(watch.observer.run_so_far().models),
            "trained": [schedule.steps, schedule.trained],  # (steps, seconds), without the watching
        }

    def _report(self) -> str | None:
        """Write the diagnosis; where there is none, why is told on stderr."""
        where = self.spec.report_to
        if not self.spec.watch or where is None or self.watch is None or not self.watch.trained:
            return None
        try:
            with self.watch.taps.deaf(), _draws_kept():
                report = self.diagnose(self.watch)
            with self.fence.opened():
                where.write_bytes(pickle.dumps(report))
        except Exception as error:  # ours: the script has done nothing wrong
            text = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"gradmend: no diagnosis ({text})", file=sys.stderr)
            return None
        return str(where)

    def _ended(self, outcome: Outcome) -> NoReturn:
        """The script's own code has ended."""
        watch, step = self.watch, 0
        if watch is not None:
            watch.close(outcome.error)
            step = watch.tally.step
        if self.injection is not None and not self.injection.applied and outcome.how != "raised":
            self._refuse(_UNMATCHED.format(self._wanted()))
        error = outcome.error
        self.line.say(
            "ended",
            **self._facts(step),
            how=outcome.how,
            error="" if error is None else _told(error),
            status=outcome.status,
            report=self._report(),
        )
        leave(outcome.status & 0xFF)


_UNMATCHED = "the script trained no {} that the prescription could be applied to"


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:2000]


@contextlib.contextmanager
def _draws_kept() -> Any:
    """The diagnosis takes nothing from the script's random numbers."""
    import torch

    before = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _cause_of(watch: ScriptWatch) -> Report:
    from gradmend.engine.script.cause import cause_of

    return cause_of(watch)


def main(arguments: list[str], diagnose: Diagnose = _cause_of) -> NoReturn:
    """Run the spec whose path is the only argument."""
    spec = Spec.read(Path(arguments[0]))
    if spec.folder is not None:  # only now: a types.py in it would have hidden Python's own
        os.chdir(spec.folder)
    line = Line(spec.words, spec.orders)

    def outside(path: str, what: str) -> NoReturn:
        line.say("outside", path=path, what=what)
        leave(REFUSED)

    Child(spec, line, Fence(spec.writable, outside), diagnose).run()


if __name__ == "__main__":
    main(sys.argv[1:])
