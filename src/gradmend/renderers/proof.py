"""The repair in a terminal: prescription, predictions, trial, refusals."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradmend.records.report import Report
from gradmend.records.verdict import Arm, Verdict
from gradmend.renderers import numbers, treatment
from gradmend.renderers.bars import sparkline
from gradmend.renderers.tables import Look

MOST_RIVALS = 12
"""Rows of the race that a terminal shows."""
LEAST_LINE = 4
"""Characters of a training curve, below which it is left out."""


def treatment_parts(report: Report, look: Look) -> Iterator[RenderableType]:
    """Prescription, what it promised, the trial that judged it, and what was refused."""
    if report.prescription is not None:
        yield Text()
        yield Text("PRESCRIPTION", style="bold")
        if report.prescription.reason:
            yield Text(look.say(report.prescription.reason))
        if not report.prescription.edits:
            yield Text("Nothing is to be changed.")
        for index, edit in enumerate(report.prescription.edits, start=1):
            yield _hanging(f"{index}.", look.say(treatment.edit_words(edit)))
    promised = treatment.promises(report)
    if promised:
        yield Text()
        yield Text("PREDICTIONS", style="bold")
    for promise in promised:
        observed = f", observed {promise.observed}" if promise.observed else ""
        line = f"{promise.words}: {promise.interval}{observed}"
        mark = {True: "[held]", False: "[NOT held]", None: "[not checked]"}[promise.held]
        style = {True: "green", False: "red", None: "dim"}[promise.held]
        text = Text(look.say(line) + " ")
        yield Padding(text.append(mark, style=style), (0, 0, 0, 3))
    if report.verdict is not None:
        yield Text()
        yield from verdict_parts(report.verdict, look)
    if report.refusals:
        yield Text()
        yield Text("REFUSED", style="bold")
        for refusal in report.refusals:
            line = f"{refusal.remedy} for {refusal.finding}: {refusal.reason}"
            yield Padding(Text(look.say(line)), (0, 0, 0, 3))


def verdict_parts(verdict: Verdict, look: Look) -> Iterator[RenderableType]:
    """The trial: each seed's original and winner, loss on unseen data and training curve."""
    yield Text("TRIAL", style="bold")
    pairs = treatment.pairings(verdict)
    if pairs:
        judged = treatment.judged_words(verdict)
        yield Text(f"{judged}; training loss as a line, first step to last")
        yield _trial_table(verdict, look)
    if verdict.gap_closed is not None and math.isfinite(verdict.gap_closed):
        share = numbers.percent(verdict.gap_closed)
        yield Text(f"The winner reaches {share} of the best rival's gain over the original.")
    if verdict.rivals:
        yield Text(f"Raced against {numbers.count(len(verdict.rivals), 'other training')}:")
        yield _rivals_table(verdict, look)
    cost = f"{numbers.count(verdict.steps, 'optimizer step')} in all"
    threads = numbers.count(verdict.threads, "thread")
    yield Text(f"{cost}, {numbers.seconds(verdict.seconds)} on {threads}.", style="dim")


def _trial_table(verdict: Verdict, look: Look) -> Table:
    drawn = [*verdict.original, *verdict.winner]
    values = [loss for arm in drawn for _, loss in treatment.curve(arm)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    line_width = (look.width - 5 - 8 - 2 * 14) // 2
    drawn_too = line_width >= LEAST_LINE
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("seed", justify="right", width=4, no_wrap=True)
    table.add_column("steps", justify="right", width=7, no_wrap=True)
    for name in ("original", "repaired"):
        table.add_column(name, justify="right", width=12, no_wrap=True)
        if drawn_too:
            table.add_column("", width=line_width - 1, no_wrap=True)

    def cells(arm: Arm | None, style: str) -> list[Text]:
        words = Text(look.cut(treatment.unseen_words(arm), 12))
        if not drawn_too:
            return [words]
        points = [loss for _, loss in treatment.curve(arm)]
        line = sparkline(points, min(line_width - 2, 40), look.glyphs, low=low, high=high)
        return [words, Text(line, style=style)]

    for pair in treatment.pairings(verdict):
        table.add_row(
            Text(str(pair.seed)),
            Text(pair.steps),
            *cells(pair.original, "red"),
            *cells(pair.winner, "green"),
        )
    return table


def _rivals_table(verdict: Verdict, look: Look) -> Table:
    """The other arms of the race, best first: how far each got and with what loss."""
    table = Table(box=None, padding=(0, 1, 0, 3), pad_edge=False, header_style="dim")
    room = look.width - (22 if look.narrow else 34)
    table.add_column("tried", no_wrap=True, width=room)
    if not look.narrow:
        table.add_column("steps", justify="right", width=7)
    judged = treatment.judged_words(verdict, brief=True)
    table.add_column(look.cut(judged, 14), justify="right", width=14)
    stick = verdict.judged_by
    ranked = sorted(
        verdict.rivals,
        key=lambda arm: math.inf if arm.unseen is None else stick.value(arm.unseen),
    )
    for arm in ranked[:MOST_RIVALS]:
        table.add_row(
            Text(look.cut(arm.name, room)),
            *([] if look.narrow else [Text(str(arm.steps))]),
            Text(look.cut(treatment.unseen_words(arm), 14)),
        )
    return table


def _hanging(label: str, text: str) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=5, justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(label), Text(text))
    return table
