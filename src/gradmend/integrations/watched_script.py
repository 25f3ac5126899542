"""``gradmend run``: an unmodified script, watched from its own import of torch on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradmend.errors import BadInput
from gradmend.integrations.on_import import when_imported
from gradmend.integrations.script import Outcome, run_script
from gradmend.records.finding import Severity

if TYPE_CHECKING:  # torch comes when the script wants it, with the settings it has made by then
    from gradmend.engine.watching.script import ScriptWatch
    from gradmend.integrations.injection import Injection
    from gradmend.integrations.treating import Applied
    from gradmend.records.prescription import Prescription
    from gradmend.records.report import Report

_RANK, _RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

RUNS = "gradmend-runs"
"""Folder for runs that were given none."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a script is watched."""

    run: Path | None = None
    """Folder of the run; a new one under :data:`RUNS` where not given."""
    record: bool = True
    budget: str = "2%"
    looks: bool = True
    stop_when_dead: bool = False
    fail_on: Severity | None = None
    prescription: Path | None = None
    """Edits for the script's model, made as it is built; a JSON file."""


NOT_APPLIED = 2
"""Exit status of a run whose prescription fits nothing that the script trains."""


def run_watched(
    target: str, arguments: Sequence[str], options: RunOptions, *, as_module: bool = False
) -> Outcome:
    """Run a script as Python would, watch its trainings, and say on stderr what was found.

    Args:
        target: The script, or a module's name.
        arguments: The script's own.
        options: How to watch.
        as_module: ``target`` is a module, as after ``python -m``.

    Returns:
        How the script ended; :func:`gradmend.integrations.script.finish` ends the process so.

    Raises:
        BadInput: If there is nothing to run, or the options cannot be used; nothing was run.
    """
    _check(options)
    home = Path.cwd()
    session = _Session(target, options, home, _prescription(options))
    return run_script(
        target,
        arguments,
        as_module=as_module,
        before=lambda: when_imported("torch", session.begin),
        after_error=session.after_error,
        at_end=session.at_end,
    )


def _check(options: RunOptions) -> None:
    from gradmend.engine.watching.budget import read_budget

    read_budget(options.budget)
    folder = options.run
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(
            f"{folder} is there already and is not empty",
            "a run is never written over",
            "choose another --run, or remove it",
        )


def _prescription(options: RunOptions) -> Prescription | None:
    if options.prescription is None:
        return None
    from gradmend.engine.files import read_prescription

    found = read_prescription(options.prescription)
    if not found:
        raise BadInput(
            f"{options.prescription} holds no edit", "nothing would be changed", "leave --with out"
        )
    return found


class _Session:
    """One watched script, from its import of torch to its end."""

    def __init__(
        self, target: str, options: RunOptions, home: Path, prescription: Prescription | None
    ) -> None:
        self.options, self.home, self.prescription = options, home, prescription
        self.injection: Injection | None = None
        self.name = Path(target).stem if target not in (".", "..") else home.name
        self.command = " ".join(("gradmend run", Path(target).name))
        self.watch: ScriptWatch | None = None
        self.begun = False

    def begin(self) -> None:
        """Torch has just been imported by the script."""
        self.begun = True
        from gradmend.engine.watching.script import ScriptWatch

        self.watch = ScriptWatch(
            folder=self._folder if self.options.record else None,
            budget=self.options.budget,
            looks=self.options.looks,
            stop_when_dead=self.options.stop_when_dead,
            name=self.name,
            command=self.command,
            beginnings=False,  # nothing is going to be repaired
        )
        if self.prescription is not None:
            from gradmend.integrations.injection import Injection

            self.injection = Injection(self.prescription, tell=self._applied)
            self.injection.deaf = self.watch.taps.deaf
            self.injection.open()  # first, so that the watch hears the script's own loss
        self.watch.__enter__()

    def _applied(self, applied: Applied) -> None:
        """A model has its edits; one line for the first, as a loop may build many."""
        assert self.injection is not None and self.prescription is not None
        if self.watch is not None:
            self.watch.observer.interventions.applied(
                self.prescription, applied.model, applied.optimizer, applied.notes
            )
        if len(self.injection.applied) > 1:
            return
        what = ", ".join(self.prescription.remedies) or f"{applied.edits} edit(s)"
        notes = "".join(f"; {note}" for note in applied.notes)
        _say(f"gradmend: applied {what} to {applied.model} and its {applied.optimizer}{notes}")

    def _folder(self) -> Path:
        from gradmend.store.folders import new_folder

        if self.options.run is not None:
            return self.home / self.options.run
        if _RANKS > 1:  # all ranks of a machine share a folder, named after what launched them
            return self.home / RUNS / f"{self.name}-{os.getppid()}"
        return new_folder(self.home / RUNS, self.name)

    def after_error(self, error: BaseException) -> str:
        """At most three lines below the script's own traceback."""
        if self.watch is None or not self.watch.trained:
            return ""
        from gradmend.renderers.run_closing import post_mortem

        self.watch.close(error)
        return post_mortem(self.watch.report(), folder=self._shown())

    def at_end(self, outcome: Outcome) -> int | None:
        """The closing words, and the status that the options ask for."""
        if self.watch is None:
            if not self.begun:  # else its failure was told when it happened
                _say("gradmend: the script imported no torch, so there was nothing to watch.")
            return self._unapplied(outcome)
        self.watch.close(outcome.error)
        unapplied = self._unapplied(outcome)
        if unapplied is not None:
            return unapplied
        if not self.watch.trained:
            _say("gradmend: no optimizer took a step, so there is nothing to report.")
            return None
        report = self.watch.report()
        if outcome.how != "raised":
            from gradmend.renderers.run_closing import closing

            planned = self.watch.history().run.planned_steps
            _say(
                closing(
                    report,
                    folder=self._shown(),
                    width=shutil.get_terminal_size((100, 24)).columns,
                    colour=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
                    planned_steps=planned,
                ).rstrip()
            )
        if self.watch.record.trouble:
            _say(f"gradmend: the run was not written to disk: {self.watch.record.trouble}")
        return self._status(report)

    def _unapplied(self, outcome: Outcome) -> int | None:
        """Say what became of the prescription, where that has not been said."""
        if self.prescription is None:
            return None
        injection = self.injection
        if injection is not None:
            injection.close()
            if injection.refused is not None:
                _say(f"gradmend: {injection.refused} Nothing was trained.")
                return NOT_APPLIED
            if len(injection.applied) > 1:
                _say(f"gradmend: the prescription was applied to {len(injection.applied)} models.")
            if injection.applied:
                return None
        if outcome.how != "raised":
            wanted = self.prescription.model or "model"
            _say(f"gradmend: the script trained no {wanted}, so the prescription was not applied.")
        return NOT_APPLIED

    def _status(self, report: Report) -> int | None:
        floor = self.options.fail_on
        return 1 if floor is not None and report.at_least(floor) else None

    def _shown(self) -> str | None:
        """The run's folder as a user would type it."""
        folder = self.watch.folder if self.watch is not None else None
        if folder is None:
            return None
        return str(folder.relative_to(self.home) if folder.is_relative_to(self.home) else folder)


def _say(text: str) -> None:
    if text and _RANK == 0:
        print(text, file=sys.stderr)
