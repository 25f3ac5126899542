"""The demo as a person reads it: five stages, each printed when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradmend.records.report import Report
from gradmend.renderers.numbers import decades, percent, seconds
from gradmend.renderers.paper import put
from gradmend.renderers.proof import treatment_parts
from gradmend.renderers.tables import Look
from gradmend.renderers.text import finding_parts, ledger_parts
from gradmend.renderers.words import fold_findings


class TrainingLike(Protocol):
    """What the story needs of a training."""

    steps: int
    accuracy: float
    losses: Sequence[tuple[int, float]]


class DemoStory:
    """Prints the demo's stages as they finish.

    Args:
        console: Where to print; results go to stdout, under ``--json`` everything to stderr.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.look = Look.of(console)
        self.stage = 0

    def open(self, depth: int, activation: str) -> None:
        """Say what is about to happen."""
        self.console.print(
            Text(
                f"A plain network of {depth} hidden {activation} layers, as PyTorch initialises"
                " it, on 5,000 real handwritten digits.",
                style="bold",
            )
        )

    def show(self, stage: str, value: Any) -> None:
        """Print one finished stage."""
        getattr(self, f"_{stage}")(value)

    def close(self, done: Any) -> None:
        """Say where everything is."""
        self._heading("Where everything is")
        names = {
            "report": "the report, to read offline",
            "prescription": "the edits, as data",
            "python": "the lines of Python that apply it",
            "model": "the repaired weights, "
            + (
                "with its residual blocks"
                if any(edit.kind == "wrap_residual" for edit in done.fixed.prescription.edits)
                else "plain architecture"
            ),
        }
        for name, what in names.items():
            if name in done.files:
                # A line of its own: a path must never be cut.
                self.console.print(Text(str(done.files[name]), style="bold"), soft_wrap=True)
                self.console.print(f"    {what}")
        self.console.print(Text(f"{seconds(done.seconds)} in all.", style="dim"))

    def _heading(self, text: str) -> None:
        self.console.print()
        if text[0].islower():
            self.stage += 1
            text = f"{self.stage}. {text[0].upper()}{text[1:]}"
        self.console.print(Text(text, style="bold"))

    def _before(self, training: TrainingLike) -> None:
        self._heading("train it as it is")
        first, last = training.losses[0][1], training.losses[-1][1]
        self.console.print(
            f"{training.steps} steps of Adam: loss {first:.3f} -> {last:.3f}, accuracy on unseen"
            f" digits {percent(training.accuracy)} (chance is 10 %)."
        )

    def _report(self, report: Report) -> None:
        self._heading("book the gradient")
        put(self.console, ledger_parts(report, self.look), self.look)
        self._heading("find the cause")
        for rank, folded in enumerate(fold_findings(report.findings), start=1):
            put(self.console, finding_parts(folded, rank, self.look), self.look)
        if not report.findings:
            self.console.print("Nothing is wrong with this network.")

    def _racing(self, report: Report) -> None:
        del report  # unused: the heading stands while the race runs
        self._heading("race the remedies, smallest change first")

    def _fixed(self, report: Report) -> None:
        put(self.console, treatment_parts(report, self.look), self.look)

    def _after(self, done: Any) -> None:
        self._heading("train the repaired network")
        before, after = done.before, done.after
        if not done.fixed.prescription:
            self.console.print("Nothing was changed, so there is nothing to train.")
            return
        table = Table(box=None, pad_edge=False)
        for title in ("", "steps", "training loss", "accuracy on unseen digits"):
            table.add_column(title, justify="right" if title else "left")
        for name, training in (("as it was", before), ("repaired, built and trained anew", after)):
            table.add_row(
                name,
                str(training.steps),
                f"{training.losses[-1][1]:.3f}",
                Text(percent(training.accuracy), style="bold"),
            )
        put(self.console, [table], self.look)

    def _sweep(self, done: Any) -> None:
        self._heading("accuracy against depth")
        table = Table(box=None, pad_edge=False)
        for title in ("hidden layers", "decades", "as it is", "repaired"):
            table.add_column(title, justify="right")
        for row in done.sweep:
            repaired = percent(row["accuracy_after"]) if row["remedies"] else "left alone"
            table.add_row(
                str(row["depth"]),
                decades(row["total_decades"]),
                percent(row["accuracy_before"]),
                repaired,
            )
        put(self.console, [table], self.look)
