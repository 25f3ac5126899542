"""A watched run as one file: its report, and every figure of it inside."""

from __future__ import annotations

from gradmend.records.report import Report
from gradmend.renderers.page.report_page import Places, report_page
from gradmend.renderers.run_figures.catalogue import CATALOGUE, build, figures, places
from gradmend.renderers.run_figures.smaller import REPORT_CELLS
from gradmend.store.reader import RunReader


def render_run_page(report: Report, reader: RunReader) -> str:
    """Draw the report on a run as one HTML page that loads nothing.

    Args:
        report: On the run.
        reader: The run itself.
    """
    ids = [name for names in figures(reader).values() for name in names]
    built = (build(reader, name, most_cells=REPORT_CELLS) for name in ids)
    return report_page(report, places_of(reader), [each for each in built if each is not None])


def places_of(reader: RunReader) -> Places:
    """Where the run's figures stand, with their titles."""
    titles = {entry.id: entry.title for entry in CATALOGUE}
    return {
        section: [(name, titles[name]) for name in names]
        for section, names in places(reader).items()
    }
