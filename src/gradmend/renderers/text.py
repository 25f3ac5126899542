"""A report as text for a terminal, a pipe or a log."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.report import Report
from gradmend.renderers import numbers, words
from gradmend.renderers.advice import advice_parts
from gradmend.renderers.paper import drawn, put
from gradmend.renderers.proof import treatment_parts
from gradmend.renderers.tables import Look, cause_table, ledger_table

_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}

FEW_ROWS = 8
"""Rows of the table over depth when nothing was found: the total is the news."""


def render(
    report: Report,
    *,
    width: int | None = None,
    colour: bool | None = None,
    ascii: bool | None = None,
) -> str:
    """Draw a report as text.

    Args:
        report: What to show.
        width: Columns, held between 40 and 160; by default those of the terminal.
        colour: Whether to send colour codes; by default only to a terminal, and not where
            ``NO_COLOR`` is set.
        ascii: Whether to keep to ASCII; by default where the output is no terminal that takes
            more, unless colour is asked for.

    Returns:
        Lines ending in newlines, none wider than ``width``.
    """
    return drawn(lambda look: report_parts(report, look), width=width, colour=colour, ascii=ascii)


def print_report(report: Report, console: Console, *, ascii: bool | None = None) -> None:
    """Print a report on a console, at the console's width.

    Args:
        report: What to show.
        console: Where to; its width is used up to 160 columns.
        ascii: Keep to ASCII; by default where the console's encoding takes nothing else.
    """
    look = Look.of(console, ascii=ascii)
    put(console, report_parts(report, look), look)


def report_parts(report: Report, look: Look) -> Iterator[RenderableType]:
    """The parts of a report in reading order: verdict, findings, books, repair, small print."""
    yield Text(look.say(words.verdict_sentence(report)), style="bold")
    yield from _facts(report, look)
    folded = words.fold_findings(report.findings)
    for rank, entry in enumerate(folded, start=1):
        yield Text()
        yield from finding_parts(entry, rank, look)
    yield from advice_parts(report, look)
    yield Text()
    yield _title("The gradient ledger")
    yield from ledger_parts(report, look)
    yield from treatment_parts(report, look)
    yield from _small_print(report, look)


def finding_parts(entry: words.Folded, rank: int, look: Look) -> Iterator[RenderableType]:
    """One finding with its evidence, and those it explains in a line each."""
    finding = entry.finding
    head = Text(f"{rank}  ")
    head.append(finding.severity.value.upper(), style=_STYLE[finding.severity])
    head.append(f"  {look.say(finding.code)} ")
    head.append(look.say(finding.name), style="bold")
    yield head
    yield Padding(Text(look.say(finding.summary)), (0, 0, 0, 3))
    if finding.source:
        yield _labelled("source", Text(look.say(finding.source), style="cyan"))
    if finding.modules:
        yield _labelled("modules", Text(look.say(words.module_range(finding.modules))))
    for index, item in enumerate(finding.evidence):
        yield _labelled("" if index else "evidence", Text(look.say(evidence_words(item))))
    for index, other in enumerate(entry.explains):
        yield _labelled("" if index else "explains", Text(look.say(explained_words(other))))
    if finding.confidence < 1:
        yield _labelled("sure to", Text(numbers.percent(finding.confidence)))
    if finding.exculpation:
        yield _labelled("unless", Text(look.say(finding.exculpation), style="dim"))
    if finding.remedies:
        yield _labelled("remedies", Text(look.say(", ".join(finding.remedies))))


def evidence_words(item: Evidence) -> str:
    """``slope (rms) of the worst layer: 0.233 (limit 0.5), at 1``."""
    text = f"{item.quantity}: {numbers.with_unit(item.observed, item.unit)}"
    if item.limit is not None:
        text += f" (limit {numbers.with_unit(item.limit, item.unit)})"
    if item.module is not None:
        text += f", at {item.module or '(the model)'}"
    return text + (f", step {item.step}" if item.step else "")


def explained_words(finding: Finding) -> str:
    """A folded finding in one line: ``GRF102 vanishing-gradient (error): ...``."""
    return f"{finding.code} {finding.name} ({finding.severity.value}): {finding.summary}"


def _facts(report: Report, look: Look) -> Iterator[RenderableType]:
    for label, value in words.fact_lines(report.facts):
        head, *rest = [look.say(line) for line in value.splitlines() or [""]]
        yield Text(f"{look.say(label)}: {head}")
        yield from (Padding(Text(line), (0, 0, 0, 3)) for line in rest)


def ledger_parts(report: Report, look: Look) -> Iterator[RenderableType]:
    """The books: the sentence a person needs, the pictures, and how well they balance."""
    yield Text(look.say(words.ledger_sentence(report)))
    after = words.after_sentence(report)
    if after is not None:
        yield Text(look.say(after))
    ledger = report.ledger
    if ledger is None:
        return
    if report.watched is not None and report.after is not None and report.after.ledger is not None:
        ledger = report.after.ledger  # a run is shown as it is now
        yield Text()
        yield Text(look.say(f"The books {words.second_look_words(report)}:"))
    if ledger.by_cause or ledger.root is not None:
        yield Text()
        if report.findings or report.verdict:
            yield ledger_table(ledger, width=look.width, ascii=look.ascii)
        elif ledger.by_cause:
            yield cause_table(ledger, look)
        yield Text()
    yield Text(look.say(words.books_line(ledger)), style="dim")
    for note in ledger.notes:
        yield Text(look.say(f"note: {note}"), style="dim")


def _small_print(report: Report, look: Look) -> Iterator[RenderableType]:
    if report.cannot_judge:
        yield Text()
        yield _title("Could not be judged")
        for item in report.cannot_judge:
            yield Text(look.say(f"{item.code} {item.name}: needs {item.needs}"))
    if report.undecided:
        yield Text()
        yield _title("Undecided")
        for line in words.undecided_lines(report):
            yield Text(look.say(line))
    notes = [*report.trace.notes]
    if report.trace.non_finite is not None:
        place = report.trace.non_finite or "(the model)"
        notes.insert(0, f"first output that is not finite: {place}")
    if notes:
        yield Text()
        yield from (Text(look.say(f"note: {note}"), style="dim") for note in notes)
    yield Text()
    yield Text(look.say(words.cost_line(report)), style="dim")


def _title(text: str) -> Text:
    return Text(text.upper(), style="bold")


def _labelled(label: str, text: Text) -> RenderableType:
    """A hanging indent: the label on the first line, the text beside it on all."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=12, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(f"   {label}", style="dim"), text)
    return table
