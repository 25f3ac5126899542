"""What is said when a watched script has ended: a line if it was healthy, else a few."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from rich.text import Text

from gradmend.records.finding import Severity
from gradmend.records.report import Report
from gradmend.renderers import numbers, run_words
from gradmend.renderers.paper import on_paper
from gradmend.renderers.tables import NARROWEST, WIDEST, Look
from gradmend.renderers.words import Folded

MOST_FINDINGS = 5
MOST_NOTES = 2
_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}


def closing(
    report: Report,
    *,
    folder: str | None = None,
    width: int = 80,
    colour: bool = False,
    ascii: bool | None = None,
    planned_steps: int | None = None,
) -> str:
    """The summary below a script's own output.

    Args:
        report: On the run.
        folder: Where the run was written, as it is typed; ``None`` where nowhere.
        width: Columns, held between 40 and 160.
        colour: Whether to send colour codes.
        ascii: Whether to keep to ASCII; by default where there is no colour.
        planned_steps: Steps the run meant to take, where known.

    Returns:
        Lines ending in newlines: one or two if nothing was found, else the gravest five findings.
    """
    look = Look(min(max(width, NARROWEST), WIDEST), not colour if ascii is None else ascii)
    causes, _ = run_words.ranked(report)
    run = run_words.watched_of(report)
    quiet = not causes and run.status in ("finished", "running", "") and run.steps > 0
    quiet = quiet and run.first_bad is None
    lines = _quiet(report, folder, look) if quiet else _loud(report, folder, look, planned_steps)
    return on_paper(lines, width=look.width, colour=colour)


def post_mortem(report: Report, *, folder: str | None = None, width: int = 80) -> str:
    """At most three lines below a traceback: where the first bad value arose, and what to type.

    Args:
        report: On the run that crashed.
        folder: Where the run was written, as it is typed; ``None`` where nowhere.
        width: Columns, held between 40 and 160.
    """
    look = Look(min(max(width, NARROWEST), WIDEST), ascii=True)
    run = run_words.watched_of(report)
    bad = run.first_bad
    if bad is not None:
        place = run_words.bad_words(replace(bad, source=None))
        lines = [f"first bad value: {place}", run_words.bad_circumstances(bad)]
        lines[1] += f"; {bad.source}" if bad.source else ""
    elif not run.steps:
        lines = ["this came before the first training step"]
    else:
        loss = run_words.loss_words(run)
        causes, _ = run_words.ranked(report)
        finite = "" if causes else "; all finite"
        lines = [f"{run_words.steps_words(run)} until here{f', {loss}' if loss else ''}{finite}"]
        if causes:
            top = causes[0].finding
            lines.append(f"found before: {top.code} {top.name}: {top.summary}")
    if folder:
        lines.append(f"next: {run_words.next_command(folder)}")
    shown = [look.say(f"gradmend: {lines[0]}"), *(look.say(f"  {line}") for line in lines[1:])]
    return "".join(_end_cut(line, look.width) + "\n" for line in shown)


def _quiet(report: Report, folder: str | None, look: Look) -> list[Text]:
    """One line, with the cost in it where there is room."""
    run = run_words.watched_of(report)
    _, notes = run_words.ranked(report)
    loss = run_words.loss_words(run)
    if run.learns is False:
        loss = f"{loss} (no fall beyond its noise)"
    healthy = "healthy" if run.learns is not False else "nothing found"
    counted = f" ({numbers.count(len(notes), 'note')})" if notes else ""
    said = f"gradmend: {healthy}{counted}. {run_words.steps_words(run)}"
    said += f", {loss}" if loss else ""
    handled = [part for part in (run_words.still_words(run), *run_words.handled_words(run)) if part]
    said += "".join(f"; {part}" for part in handled)
    cost = run_words.cost_words(run)
    command = f" {run_words.next_command(folder)}" if folder else ""
    tries = [f"{said}; {part}.{command}" for part in (cost, cost.partition(" (")[0]) if part]
    tries.append(f"{said}.{command}")
    return _wrapped(next((line for line in tries if len(line) <= look.width), tries[0]), look)


def _loud(report: Report, folder: str | None, look: Look, planned: int | None) -> list[Text]:
    run = run_words.watched_of(report)
    causes, notes = run_words.ranked(report)
    lines = _wrapped(_headline(report, causes), look, style="bold")
    stopped = run_words.stopped_words(run, planned)
    if stopped:
        lines += _wrapped(stopped, look)
    for rank, entry in enumerate(causes[:MOST_FINDINGS], start=1):
        lines += _finding(entry, rank, look)
    more = []
    if len(causes) > MOST_FINDINGS:
        more.append(numbers.count(len(causes) - MOST_FINDINGS, "more finding"))
    if notes:
        more.append(numbers.count(len(notes), "note"))
    if run.first_bad is not None and not any(c.finding.code == "NUM101" for c in causes):
        lines += _wrapped(f"first bad value: {run_words.bad_words(run.first_bad)}", look)
    parts = [f"and {' and '.join(more)}" if more else "", run_words.still_words(run)]
    parts += [*run_words.handled_words(run), run_words.cost_words(run)]
    small = "; ".join(part for part in parts if part)
    lines += _wrapped(small, look, style="dim") if small else []
    lines += _unseen(run.notes, look)
    if folder:
        lines.append(Text(look.say(f"next: {run_words.next_command(folder)}"), style="bold"))
    return lines


def _headline(report: Report, causes: list[Folded]) -> str:
    run = run_words.watched_of(report)
    if not run.steps:
        return "gradmend: no training step was seen: no optimizer took one."
    loss = run_words.loss_words(run)
    figures = f"{numbers.count(run.steps, 'step')} ({numbers.seconds(run.seconds)})"
    figures += f", {loss}" if loss else ""
    if run.learns is False:
        figures += " (no fall beyond its noise)"
    found = numbers.count(len(causes), "finding") if causes else "nothing found"
    ending = {"crashed": " before the crash", "killed": " before it was killed"}
    return f"gradmend: {found} in {figures}{ending.get(run.status, '')}."


def _finding(entry: Folded, rank: int, look: Look) -> list[Text]:
    """Two lines at most, and one for what it explains: severity, code, name, sentence, source."""
    finding = entry.finding
    indent = 10
    head = f"{finding.severity.value.upper():<7} "
    source = look.say(f" [{finding.source}]") if finding.source else ""
    room = look.width - indent
    source = look.cut(source, room - 10)
    said = look.say(f"{finding.code} {finding.name}: {finding.summary}")
    fitted = textwrap.wrap(said + source, room, break_on_hyphens=False)
    if len(fitted) > 2:  # the source stays whole, the sentence gives way
        first, *rest = textwrap.wrap(said, room, break_on_hyphens=False)
        fitted = [first, _end_cut(" ".join(rest), room - len(source)) + source]
    lines = []
    for number, line in enumerate(fitted):
        text = Text()
        if not number:
            text.append(f"{rank} ")
            text.append(head, style=_STYLE[finding.severity])
        else:
            text.append(" " * indent)
        text.append(line)
        lines.append(text)
    if entry.explains:
        names = ", ".join(dict.fromkeys(other.name for other in entry.explains))
        told = _end_cut(look.say(f"explains: {names}"), room)
        lines.append(Text(" " * indent + told, style="dim"))
    return lines


def _unseen(notes: tuple[str, ...], look: Look) -> list[Text]:
    """What could not be seen: two lines, the rest counted."""
    shown = [
        Text(_end_cut(look.say(f"note: {note}"), look.width), style="dim")
        for note in notes[:MOST_NOTES]
    ]
    if len(notes) > MOST_NOTES:
        more = numbers.count(len(notes) - MOST_NOTES, "more", "more")
        shown[-1] = Text(
            _end_cut(look.say(f"note: {notes[MOST_NOTES - 1]}"), look.width - len(more) - 8)
            + f" (and {more})",
            style="dim",
        )
    return shown


def _wrapped(text: str, look: Look, *, style: str = "") -> list[Text]:
    lines = textwrap.wrap(look.say(text), look.width, break_on_hyphens=False)
    return [Text(line, style=style) for line in lines]


def _end_cut(text: str, width: int) -> str:
    """A text of at most ``width`` characters, cut at its end and marked."""
    return text if len(text) <= width else text[: max(width - 3, 0)].rstrip() + "..."
