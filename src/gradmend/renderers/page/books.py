"""The gradient ledger's part of the page."""

from __future__ import annotations

from dataclasses import dataclass

from gradmend.records.ledger import Ledger
from gradmend.records.report import Report
from gradmend.renderers import words
from gradmend.renderers.by_cause import cause_figure
from gradmend.renderers.ledger_tree import Books
from gradmend.renderers.page.figure import Figure
from gradmend.renderers.page.hero import powers
from gradmend.renderers.repair import before_and_after
from gradmend.renderers.visible import escape, isolate
from gradmend.renderers.waterfall import ledger_figure

SHOWN = "ledger"
"""Id of the books that are shown before somebody chooses."""


@dataclass(frozen=True, slots=True)
class _Look:
    id: str
    label: str
    ledger: Ledger


def ledger_parts(report: Report) -> tuple[list[str], tuple[Figure, ...]]:
    """The ledger's parts, and the figures that the script draws among them."""
    looks = _looks(report)
    if not looks and report.watched is not None:
        return [], ()  # a run that was not looked at
    if not looks:
        return ["<p>No gradient ledger was kept.</p>"], ()
    parts: list[str] = []
    drawable = [look for look in looks if look.ledger.root is not None]
    choices = tuple((look.id, look.label) for look in drawable)
    if len(drawable) < len(looks) or len(choices) < 2:
        choices = ()
    drawn = tuple(Books(ledger=look.ledger, id=look.id, choices=choices) for look in drawable)
    parts += [ledger_figure(look.ledger) for look in drawable if look.id == SHOWN]
    for look in looks:
        if look.ledger.by_cause:
            parts.append(cause_figure(look.ledger, look.label if len(looks) > 1 else ""))
    if report.prescription is None and report.verdict is None:
        parts.append(before_and_after(report) or "")
    for look in looks:
        when = f"{escape(look.label)}: " if len(looks) > 1 else ""
        parts.append(
            f'<p class="small">{when}{powers(_capital(words.books_line(look.ledger)))}</p>'
        )
        parts += [f'<p class="small">Note: {isolate(note)}</p>' for note in look.ledger.notes]
    return parts, drawn


def _looks(report: Report) -> list[_Look]:
    """The books there are, in the order they were kept.

    A report on one look shows that one first, since its findings are about it; a run shows how it
    is now.
    """
    first, second = report.ledger, report.after.ledger if report.after is not None else None
    if first is None:
        return []
    if second is None:
        return [_Look(SHOWN, "On the first look", first)]
    now = report.watched is not None and report.verdict is None
    ids = (f"{SHOWN}-first", SHOWN) if now else (SHOWN, f"{SHOWN}-after")
    when = _capital(words.second_look_words(report))
    return [_Look(ids[0], "On the first look", first), _Look(ids[1], when, second)]


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
