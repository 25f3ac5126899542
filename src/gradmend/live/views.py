"""What of a run is shown: report, sections, figures; here the renderers are called."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradmend.engine.watching.summary import report_of
from gradmend.errors import BadInput
from gradmend.live.columns import columns_html
from gradmend.live.places import address
from gradmend.live.shelf import Pulse, Shown, pulse
from gradmend.records.codec import to_plain
from gradmend.records.report import Report
from gradmend.renderers import run_words
from gradmend.renderers.page.document import Section, document, place
from gradmend.renderers.page.figure import Figure
from gradmend.renderers.page.report_page import Places, live_page, own_figures, sections_of
from gradmend.renderers.run_figures import catalogue, compare
from gradmend.renderers.run_page import places_of
from gradmend.renderers.visible import escape
from gradmend.store.folders import ranks
from gradmend.store.reader import RunReader, open_run

FIRST = "verdict"
"""The section that every page of a run has."""
COMPARED = tuple(compare.COMPARED)
"""Ids of the figures that several runs share."""
_NEEDS = {
    "compare-loss": ("step", "loss"),
    "compare-norm": ("step", "log10_raw_norm"),
    "compare-ratio": ("update", "log10_ratio"),
}
"""What a figure of several runs draws: (table, quantity)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A run as read at one moment."""

    pulse: Pulse
    """Of just before."""
    report: Report | None = None
    places: Places = field(default_factory=dict)
    own: Mapping[str, Figure] = field(default_factory=dict)
    """Figures made of the report alone, by id: the books of its looks."""
    looked: tuple[int, ...] = ()
    """Steps of these looks: their figures change with them and with nothing else."""
    sections: Mapping[str, str] = field(default_factory=dict)
    """Inner markup."""
    problem: str = ""
    """Why there is no report, in a sentence."""
    others: str = ""
    """Links to the other ranks, as markup."""

    @property
    def running(self) -> bool:
        """Whether the run went on when it was read."""
        watched = self.report.watched if self.report is not None else None
        return watched is not None and watched.status == "running"

    @property
    def verdict(self) -> str:
        """The sentence on top of its page, or why there is none."""
        return self.problem if self.report is None else run_words.verdict(self.report)

    @property
    def figures(self) -> list[str]:
        """Ids of the figures that stand on the page."""
        return [*self.own, *(name for entries in self.places.values() for name, _ in entries)]


Columns = Sequence[tuple[str, Material]]
"""Runs by name, in the order asked for."""


def material(run: Shown) -> Material:
    """Read a run and judge it."""
    now = pulse(run.folder, run.rank)
    try:
        reader = open_run(run.folder, rank=run.rank)
        history = reader.history()
        report = report_of(history)
        places = places_of(reader)
    except BadInput as error:
        problem = str(error)
        return Material(pulse=now, problem=problem, sections={FIRST: problem_html(problem)})
    others = ranks_html(run)
    sections = {section.id: section.inner() for section in sections_of(report, places, others)}
    return Material(
        pulse=now,
        report=report,
        places=places,
        own={figure.id: figure for figure in own_figures(report)},
        looked=tuple(booked.step for booked in history.books),
        sections=sections,
        others=others,
    )


def ranks_html(run: Shown) -> str:
    """Links to what the other processes of a training saw; empty where there was one."""
    there = ranks(run.folder)
    if len(there) < 2:
        return ""
    links = (
        f"<b>{rank}</b>" if rank == run.rank
        else f'<a href="{escape(address(run.name, rank))}">{rank}</a>'
        for rank in there
    )  # fmt: skip
    return f'<p class="small">Seen by rank {" ".join(links)}</p>'


def run_page(found: Material, name: str, source: str) -> str:
    """The page of a run; where it cannot be read, one that says so and waits."""
    if found.report is None:
        return plain_page(name, found.sections[FIRST], source=source)
    return live_page(found.report, found.places, source, found.others)


def plain_page(title: str, html: str, *, source: str = "", id: str = FIRST) -> str:
    """A page of one section and no figures."""
    section = Section(id=id, title="", html=html)
    return document(f"{title} (gradmend)", [section], source=source, draws=())


def problem_html(sentence: str) -> str:
    """Why something cannot be shown."""
    return f"<h1>This cannot be shown.</h1><p>{escape(sentence)}</p>"


@dataclass(frozen=True, slots=True)
class Body:
    """An answer that is made once and sent to all who ask."""

    plain: bytes
    packed: bytes
    """The same by gzip."""


def figure(run: Shown, name: str, own: Mapping[str, Figure]) -> Body | None:
    """One figure of a run; None where it holds nothing of it.

    Args:
        run: Which.
        name: Its id.
        own: Figures of the newest report, by id.

    Raises:
        UnknownName: If there is no such figure.
        BadInput: If the run cannot be read.
    """
    spec = own.get(name) or catalogue.build(open_run(run.folder, rank=run.rank), name)
    return None if spec is None else body(spec.plain())


def compare_page(runs: Columns, folders: Mapping[str, Path], source: str) -> str:
    """The page of several runs side by side."""
    sections = _compared(runs, folders)
    return document("Runs side by side (gradmend)", sections, source=source, draws=("lines",))


def compare_sections(runs: Columns, folders: Mapping[str, Path]) -> dict[str, str]:
    """What of it changes."""
    return {section.id: section.inner() for section in _compared(runs, folders)}


def compared_figure(folders: Mapping[str, Path], name: str) -> Body | None:
    """One figure of several runs; None where none of them holds anything of it.

    Raises:
        UnknownName: If there is no such figure.
    """
    spec = compare.overlay(_readers(folders), name)
    return None if spec is None else body(spec.plain())


def _compared(runs: Columns, folders: Mapping[str, Path]) -> list[Section]:
    columns = columns_html([(name, found.report, found.problem) for name, found in runs])
    held = [reader.measured() for reader in _readers(folders).values()]
    drawn = "".join(
        place(name, compare.COMPARED[name])
        for name, (table, quantity) in _NEEDS.items()
        if any(quantity in measured.get(table, ()) for measured in held)
    )
    return [
        Section(id=FIRST, title="", html=columns),
        Section(id="training", title="Training, one over the other", html=drawn),
    ]


def _readers(folders: Mapping[str, Path]) -> dict[str, RunReader]:
    """Readers of those that can be read; what is wrong with the others stands in their column."""
    readers = {}
    for name, folder in folders.items():
        with suppress(BadInput):
            readers[name] = open_run(folder)
    return readers


def report_json(report: Report) -> Body:
    """The whole report."""
    return body(report.to_dict())


def body(value: Any) -> Body:
    """JSON values as they are sent."""
    plain = json.dumps(to_plain(value), allow_nan=False, separators=(",", ":")).encode("ascii")
    # Level 1: raw floats hardly shrink, and the cores belong to the training.
    return Body(plain, gzip.compress(plain, 1, mtime=0))
