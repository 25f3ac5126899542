"""What every kind of page weighs without its data, and that its script is what was written."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradmend.renderers import html
from gradmend.renderers.page.document import SCRIPTS, STYLES, Section, document
from gradmend.renderers.page.figure import Axis, Heat, Lines, Series
from gradmend.renderers.page.report_page import RUN_SECTIONS, live_page, report_page

MOST = 150_000
"""Bytes of everything on a page but its data."""
ASSETS = files("gradmend.renderers.page").joinpath("assets")
STEPS = Axis(label="optimizer step")
EMPTY = [Section(id="s", title="", html="")]
PLACES = {name: [(f"{name}-figure", title)] for name, title in RUN_SECTIONS.items()}


def beside(name: str) -> ModuleType:
    """A module of the folder above, where no test is."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reports, runs = beside("reports"), beside("runs")


def figures() -> tuple[Heat, Lines]:
    common: dict[str, Any] = {"title": "", "caption": "", "words": "", "x": STEPS}
    at, axis = np.arange(2), Axis(label="loss")
    heat = Heat(id="heat", **common, at=at, y=axis, rows=["a"], values=np.eye(1, 2), colour=axis)
    series = [Series(name="loss", values=np.arange(2.0))]
    return heat, Lines(id="lines", **common, at=at, panels=[axis], series=series)


def pages() -> dict[str, str]:
    """One of each kind."""
    watched = runs.report(runs.run())
    looked = replace(watched, trace=replace(watched.trace, ledger=reports.deep(12).ledger))
    return {
        "run": report_page(watched, PLACES, figures()),
        "live": live_page(watched, PLACES, "/run/one"),
        "looked at": report_page(looked, PLACES, figures()),
        "look": html.render(reports.deep(12)),
        "repair": html.render(reports.repaired()),
        "comparison": document("T", EMPTY, source="/compare/a/b", draws=("lines",)),
        "list": document("T", EMPTY, source="/", draws=()),
    }


PAGES = pages()


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_small_without_its_data(kind: str) -> None:
    # Given a page, when its JSON and its sections are taken out: both grow with the report.
    rest = re.sub(r'<script type="application/json".*?</script>', "", PAGES[kind], flags=re.S)
    rest = re.sub(r"(?<=<main>).*(?=</main>)", "", rest, flags=re.S)
    assert "<main></main>" in rest
    # Then style, script and all else are within the limit.
    assert len(rest.encode()) < MOST


def test_a_page_holds_what_its_figures_need_and_no_more() -> None:
    drawn = {kind: set(re.findall(r"gm\.kinds\.(\w+)=(?!=)", page)) for kind, page in PAGES.items()}
    assert drawn["run"] == {"heat", "lines"}
    assert drawn["live"] == {"heat", "ledger", "lines"}  # a run may be looked at later
    assert drawn["looked at"] == drawn["live"]
    assert drawn["repair"] == {"ledger", "lines"}
    assert drawn["look"] == {"ledger"}
    assert drawn["comparison"] == {"lines"}
    assert drawn["list"] == set()
    connects = {kind for kind, page in PAGES.items() if "new EventSource" in page}
    assert connects == {"live", "comparison", "list"}


def test_every_script_and_style_is_used() -> None:
    scripts = {f"js/{one.name}" for one in ASSETS.joinpath("js").iterdir()}
    styles = {one.name for one in ASSETS.iterdir() if one.name.endswith(".css")}
    assert (scripts, styles) == (set(SCRIPTS), set(STYLES))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_keep_to_lines(name: str) -> None:
    # Given that comments are told by how a line begins.
    text = ASSETS.joinpath(name).read_text(encoding="utf-8")
    # Then no comment goes over lines, and no template does: each line closes what it opens.
    for number, line in enumerate(text.splitlines(), start=1):
        assert not re.match(r"\s*(/\*|\*)", line), f"{name}:{number}"
        if not line.lstrip().startswith("//"):
            assert line.count("`") % 2 == 0, f"{name}:{number}"
    assert len(text.splitlines()) < 300
