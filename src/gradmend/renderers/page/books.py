"""The gradient ledger's part of the page."""

from __future__ import annotations

from gradmend.records.report import Report
from gradmend.renderers import words
from gradmend.renderers.by_cause import cause_figure
from gradmend.renderers.ledger_tree import Books
from gradmend.renderers.page.figure import Figure
from gradmend.renderers.page.hero import powers
from gradmend.renderers.repair import before_and_after
from gradmend.renderers.visible import isolate
from gradmend.renderers.waterfall import ledger_figure


def ledger_parts(report: Report) -> tuple[list[str], tuple[Figure, ...]]:
    """The ledger's parts, and the figure that the script draws among them."""
    ledger = report.ledger
    if ledger is None and report.watched is not None:
        return [], ()  # a run keeps none; its looks say what they found
    if ledger is None:
        return ["<p>No gradient ledger was kept.</p>"], ()
    parts: list[str] = []
    drawn: tuple[Figure, ...] = ()
    if ledger.root is not None:
        parts.append(ledger_figure(ledger))
        drawn = (Books(ledger=ledger),)
    if ledger.by_cause:
        parts.append(cause_figure(ledger))
    if report.prescription is None and report.verdict is None:
        parts.append(before_and_after(report) or "")
    parts.append(f'<p class="small">{powers(_capital(words.books_line(ledger)))}</p>')
    parts += [f'<p class="small">Note: {isolate(note)}</p>' for note in ledger.notes]
    return parts, drawn


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
