"""The sections of a page, from the verdict down, for whatever a report is about.

A look, a repair, a watched run and the beginning of a script are told in the same order; what a
report does not hold has no section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradmend.records.report import Report
from gradmend.renderers import run_words
from gradmend.renderers.advice import advice_section
from gradmend.renderers.finding_cards import finding_cards
from gradmend.renderers.page.books import ledger_parts
from gradmend.renderers.page.circumstances import circumstances, notes
from gradmend.renderers.page.data import report_data
from gradmend.renderers.page.document import Section, document, place
from gradmend.renderers.page.figure import Figure
from gradmend.renderers.page.hero import hero
from gradmend.renderers.repair import repair_figures, repair_sections
from gradmend.renderers.run_figures.through_time import through_time_of
from gradmend.renderers.signal_figure import signal_figure

RUN_SECTIONS = {
    "heat": "Layers and steps",
    "histograms": "How large the numbers are",
    "depth": "Vanishing or exploding",
    "ratio": "The pace of learning",
    "training": "Loss, norms and what happened",
    "books": "What the optimizer made of it",
    "time": "Recurrent layers",
    "attention": "Attention",
}
"""Sections that a run's figures stand in, by the name the catalogue gives them, in page order."""

Places = Mapping[str, Sequence[tuple[str, str]]]
"""By section: (id, title) of each figure that stands there, from the top."""


def sections_of(
    report: Report, places: Places | None = None, others: str = ""
) -> tuple[Section, ...]:
    """Every section that there is something to say in.

    Args:
        report: What to show.
        places: Figures of the run, where it is a report on one.
        others: Markup below the verdict: links to what belongs to it.
    """
    return _parts(report, dict(places or {}), others)[0]


def report_page(
    report: Report, places: Places | None = None, figures: Sequence[Figure] = ()
) -> str:
    """A report as one file.

    Args:
        report: What to show.
        places: Where the run's figures stand.
        figures: The run's figures, with those that can be chosen instead of them.
    """
    sections, islands, own = _parts(report, dict(places or {}))
    islands = {"report-data": report_data(report), **islands}
    return document(_title(report), sections, figures=(*own, *figures), islands=islands)


def own_figures(report: Report) -> tuple[Figure, ...]:
    """The figures that are made of a report alone, without its run."""
    return _parts(report, {})[2]


def live_page(report: Report, places: Places, source: str, others: str = "") -> str:
    """The same page on the live server, whose figures are all fetched from there.

    Args:
        report: On the run as it stands.
        places: Where its figures stand.
        source: Path of the run on the server.
        others: As for :func:`sections_of`.
    """
    sections, islands, _ = _parts(report, dict(places), others)
    return document(_title(report), sections, islands=islands, source=source)


def _parts(
    report: Report, places: dict[str, Sequence[tuple[str, str]]], others: str = ""
) -> tuple[tuple[Section, ...], dict[str, Any], tuple[Figure, ...]]:
    """Sections, further data of theirs, and the figures of the report itself."""
    own: tuple[Figure, ...] = repair_figures(report)
    through = through_time_of(report.trace)
    if through is not None:
        own = (*own, through)
        places["time"] = [(through.id, through.title), *places.get("time", ())]
    books, ledger = ledger_parts(report)
    own = (*ledger, *own)
    present = {figure.id for figure in own} | {
        name for entries in places.values() for name, _ in entries
    }
    signal = signal_figure(report.trace) or ""
    sections = (
        Section(id="verdict", title="", html=hero(report) + others),
        _section("findings", "What was found", finding_cards(report, present)),
        _section("advice", "What to change in your source", [advice_section(report)]),
        _section("ledger", "The gradient ledger", books),
        _section("signal", "The signal on its way forward", [signal]),
        *(
            _section(name, title, [place(*entry) for entry in places.get(name, ())])
            for name, title in RUN_SECTIONS.items()
        ),
        _section("repair", "The repair", repair_sections(report)),
        _section("notes", "What could not be seen or judged", notes(report)),
        _section("circumstances", "Circumstances and cost", circumstances(report)),
    )
    return sections, {}, own


def _section(name: str, title: str, parts: Sequence[str]) -> Section:
    return Section(id=name, title=title, html="".join(part for part in parts if part))


def _title(report: Report) -> str:
    name = report.trace.run.model
    if report.watched is not None:
        name = report.watched.name or name
        return f"{name}: {run_words.state_words(report.watched)} (gradmend)"
    return f"gradmend: {name}"
