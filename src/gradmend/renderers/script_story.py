"""The repair of a script as a person reads it: plan, cause, race, verdict, what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from gradmend.records.prescription import Prescription
from gradmend.records.report import Report
from gradmend.records.verdict import Arm
from gradmend.renderers import numbers
from gradmend.renderers.advice import advice_parts
from gradmend.renderers.paper import put
from gradmend.renderers.proof import treatment_parts
from gradmend.renderers.tables import Look
from gradmend.renderers.text import finding_parts, ledger_parts
from gradmend.renderers.words import fold_findings

MOST_CANDIDATES = 12
"""Candidates that are listed by name."""
MOST_DIFF_LINES = 60
"""Lines of a diff that a terminal shows; the file holds all."""


class ScriptStory:
    """Prints the stages as they are done.

    Args:
        console: Where to print; the plan is said before anything runs.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.look = Look.of(console)

    def plan(self, plan: Any, *, steps: int, jobs: int, seeds: int, budget: str) -> None:
        """Say what is about to run, and for how long."""
        size = numbers.count(len(plan.listed.copied), "file")
        total = sum(entry.size for entry in plan.listed.copied)
        offline = f"; {', '.join(plan.trackers)} offline" if plan.trackers else ""
        rows = [
            ("will run", str(plan.command)),
            ("where", f"in copies of this folder ({size}, {numbers.bytes_words(total)}), with"
                      f" nobody to answer questions{offline}"),
            ("first", f"once, watched, for {steps} steps at most, to find the cause"),
            ("then", f"if there is one: as it is and once per remedy, {jobs} at a time, each"
                     f" stopped at the same step; the best again with {seeds - 1} other seeds"),
            ("how long", f"{budget} at most; Ctrl-C ends it at any time, and nothing of yours is"
                         " changed"),
            *(("beware", warning) for warning in plan.warnings),
        ]  # fmt: skip
        self._rows(rows)

    def show(self, stage: str, value: Any) -> None:
        """Print a stage that is done."""
        getattr(self, f"_{stage}")(value)

    def _cause(self, fixed: Any) -> None:
        report: Report = fixed.report
        self._heading("The cause")
        for rank, folded in enumerate(fold_findings(report.findings), start=1):
            put(self.console, finding_parts(folded, rank, self.look), self.look)
        if report.ledger is not None and not report.healthy:
            self.console.print()
            put(self.console, ledger_parts(report, self.look), self.look)
        if not report.findings:
            steps = numbers.count(fixed.watched, "step")
            self.console.print(f"Nothing wrong was found in {steps} of this training.")
        for note in report.trace.notes:
            self.console.print(Text(self.look.say(f"note: {note}"), style="dim"))

    def _race(self, fixed: Any) -> None:
        self._heading("The race")
        pace = fixed.pace
        one = pace.start + fixed.steps * pace.step
        self.console.print(
            f"A step takes {numbers.seconds(pace.step)}, the start {numbers.seconds(pace.start)}:"
            f" a training of {fixed.steps} steps takes about {numbers.seconds(one)}."
        )
        names = [" + ".join(p.remedies) for p in fixed.candidates.prescriptions]
        listed = list(dict.fromkeys(names))
        more = f" and {len(listed) - MOST_CANDIDATES} more" if len(listed) > MOST_CANDIDATES else ""
        text = f"{numbers.count(len(names), 'candidate')}: {', '.join(listed[:MOST_CANDIDATES])}"
        self.console.print(Text(self.look.say(text + more)))

    def close(self, fixed: Any, files: Mapping[str, Path], suggestion: Any, command: str) -> None:
        """The verdict, the change, and the next thing to type."""
        report: Report = fixed.report
        self._heading("The verdict")
        self.console.print(Text(self.look.say(fixed.verdict.reason), style="bold"))
        if fixed.reproducible is False:
            self.console.print(
                "The script does not come out the same twice with the same seed; every repeat of"
                " the winner had to be better than every repeat of the original."
            )
        for line in figure_lines(fixed.verdict.original, fixed.verdict.winner):
            self.console.print(Text(self.look.say(line)))
        put(
            self.console,
            (*advice_parts(report, self.look), *treatment_parts(report, self.look)),
            self.look,
        )
        if suggestion.diff:
            self._heading("The change to the source")
            lines = suggestion.diff.splitlines()
            shown = "\n".join(lines[:MOST_DIFF_LINES])
            self.console.print(
                Syntax(shown, "diff", background_color="default", word_wrap=True)
                if self.console.is_terminal
                else Text(shown)
            )
            if len(lines) > MOST_DIFF_LINES:
                rest = numbers.count(len(lines) - MOST_DIFF_LINES, "more line")
                self.console.print(Text(f"... {rest} in the file", style="dim"))
        elif suggestion.why:
            self.console.print()
            self.console.print(Text(self.look.say(suggestion.why)))
        for note in suggestion.notes:
            self.console.print(Text(self.look.say(f"note: {note}"), style="dim"))
        self._files(fixed.prescription, files, command)

    def _files(self, prescription: Prescription, files: Mapping[str, Path], command: str) -> None:
        if files:
            self._heading("What to do next")
        rows = []
        if prescription:
            rows.append(("train with it", f"gradmend run --with {files['prescription']} {command}"))
            rows.append(("in Python", f'gradmend.apply("{files["prescription"]}", model,'
                                      " optimizer=optimizer)"))  # fmt: skip
        if "diff" in files:
            rows.append(("change source", f"patch -p1 < {files['diff']}"))
        if "report" in files:
            rows.append(("read", str(files["report"])))
        for label, text in rows:
            self.console.print(Text(f"{label:<15}{text}"), soft_wrap=True)

    def _rows(self, rows: Iterable[tuple[str, str]]) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=9, no_wrap=True)
        table.add_column(overflow="fold")
        before = ""
        for label, text in rows:
            table.add_row(
                Text("" if label == before else label, style="dim"), Text(self.look.say(text))
            )
            before = label
        put(self.console, [table], self.look)

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text.upper(), style="bold"))


def figure_lines(original: Sequence[Arm], winner: Sequence[Arm]) -> list[str]:
    """What the script's own evaluation says: ``test acc: 0.1 -> 0.89, 0.11 -> 0.9``."""
    found: dict[str, list[str]] = {}
    for before, after in zip(original, winner, strict=False):
        known = {figure.name: figure for figure in before.figures}
        for figure in after.figures:
            old = known.get(figure.name)
            if old is not None and before.steps == after.steps:
                pair = f"{numbers.number(old.value)} -> {numbers.number(figure.value)}"
                found.setdefault(figure.name, []).append(pair)
    return [f"{name}: {', '.join(pairs)}" for name, pairs in found.items()]
