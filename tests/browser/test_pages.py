"""Whole pages: accessible, printed, by keyboard, never wider than the window."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradmend
from gradmend.engine.watching.summary import report_of
from gradmend.renderers.page.report_page import report_page
from gradmend.renderers.run_page import render_run_page
from gradmend.store.reader import open_run

_spec = importlib.util.spec_from_file_location(
    "reports", Path(__file__).parents[1] / "renderers" / "reports.py"
)
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><img src=x onerror=window[`hacked`]=1>",
    '"><svg onload=window[`hacked`]=2>',
    "\u202eevil\u202c \u2066x\u2069 שלום",
    "a" * 10_000,
    "line\u2028two ${1} {{2}}",
)
"""Names of modules; a dot cannot stand in one."""
WIDTHS = (1280, 768, 640, 390)
"""Pixels; 640 is a window of 1,280 at 200 %."""
SEEN = """() => {
    const box = document.activeElement.getBoundingClientRect();
    const style = getComputedStyle(document.activeElement);
    return [
        style.outlineStyle !== "none" || style.boxShadow !== "none",
        box.width > 0 && box.height > 0 && box.right > 0 && box.left < innerWidth,
    ];
}"""
"""Whether what has the focus shows it, and stands in the window."""


def watched(folder: Path, names: tuple[str, ...], steps: int, spoilt: int = -1) -> None:
    """A short run of a stack of layers of these names, whose loss is NaN from a step on."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Linear(8, 8))
        model.add_module(f"{name}+", nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with gradmend.watch(model, optimizer, run=folder):
        for step in range(steps):
            loss = model(torch.randn(4, 8)).square().mean()
            loss = loss * torch.nan if 0 <= spoilt <= step else loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every shape, and the report of each beside them."""
    place = tmp_path_factory.mktemp("pages")
    runs = place / "runs"
    watched(runs / "empty", ("one",), 0)
    watched(runs / "one", ("one",), 30)
    watched(runs / "deep", tuple(f"layer{k}" for k in range(12)), 60)
    watched(runs / "spoilt", ("one", "two"), 30, spoilt=3)
    watched(runs / "hostile", HOSTILE, 30)
    for run in sorted(runs.iterdir()):
        reader = open_run(run)
        html = render_run_page(report_of(reader.history()), reader)
        (place / f"{run.name}.html").write_text(html, encoding="utf-8")
    for name, report in {
        "repair": reports.repaired(),
        "look": reports.deep(10_001),
        "nothing": reports.empty(),
    }.items():
        (place / f"{name}.html").write_text(report_page(report), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """Address of a live server of these runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(gradmend.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "gradmend", "live", str(folder / "runs"), "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[2].rstrip("/")
    process.kill()
    process.communicate()


FILES = ("repair", "look", "nothing", "empty", "one", "deep", "spoilt", "hostile")
SERVED = ("/", "/run/deep", "/compare?runs=one&runs=deep")


@pytest.fixture
def visit(page: Any, folder: Path, request: pytest.FixtureRequest) -> Any:
    """Open a file by its name, or a page of the server by its path, with every figure drawn."""

    def go(what: str) -> Any:
        served = what.startswith("/")
        where = request.getfixturevalue("server") if served else f"file://{folder}/"
        page.goto(f"{where}{what}" if served else f"{where}{what}.html")
        page.evaluate("gm.drawAll()")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.fig')].every(f => f.classList.contains('drawn'))"
        )
        return page

    return go


def sideways(page: Any) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("what", [*SERVED, "repair", "deep", "spoilt", "hostile", "empty"])
def test_no_rule_of_accessibility_is_broken(visit: Any, page: Any, what: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    # given
    page.emulate_media(color_scheme=scheme)
    visit(what)
    # when
    found = axe.Axe().run(page).response["violations"]
    # then
    assert [(one["id"], [node["target"] for node in one["nodes"][:3]]) for one in found] == []


@pytest.mark.parametrize("what", [*SERVED, *FILES])
def test_no_page_is_wider_than_the_window(visit: Any, page: Any, what: str) -> None:
    visit(what)
    wide = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        wide[width] = sideways(page)
    assert wide == dict.fromkeys(WIDTHS, 0)


@pytest.mark.parametrize("what", ["hostile", "/run/hostile", "/"])
def test_names_from_a_run_execute_nothing(visit: Any, what: str) -> None:
    # given names that try; a dialog or an error of a script fails the test
    page = visit(what)
    # when tables are opened too
    for table in page.locator(".fig-tools summary").all():
        table.click()
    page.wait_for_timeout(200)
    # then
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert page.locator("img, svg[onload], main script").count() == 0


@pytest.mark.parametrize("what", ["deep", "/"])
def test_every_stop_of_the_tab_key_is_seen(visit: Any, what: str) -> None:
    # given
    page = visit(what)
    # when
    stops = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        stops.add(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
        # then
        assert page.evaluate(SEEN) == [True, True], page.evaluate(
            "document.activeElement.outerHTML.slice(0, 200)"
        )
    assert len(stops) >= 5


def test_keys_search_and_escape(visit: Any) -> None:
    # given
    page = visit("deep")
    # when a layer is looked for
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("layer3")
    page.keyboard.press("Enter")
    assert page.evaluate("gm.selection.layer") == "layer3"
    # then Escape lets it go
    page.locator("h1").click()
    page.keyboard.press("Escape")
    assert page.evaluate("gm.selection.layer") is None
    # and a question mark tells the keys until Escape
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


@pytest.mark.parametrize("what", ["repair", "deep"])
def test_on_paper_there_is_nothing_to_press(visit: Any, page: Any, what: str) -> None:
    visit(what)
    page.emulate_media(media="print")
    for useless in (".topbar", ".fig-tools", ".fig-readout"):
        assert page.locator(f"{useless}:visible").count() == 0, useless
    assert page.locator("h1:visible").count() == 1
    assert sideways(page) <= 0


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("empty", "No training step was seen"),
        ("spoilt", "NaN or infinity since step 3"),
        ("one", "No rule found anything in 30 steps."),
        ("repair", "Repaired"),
    ],
)
def test_what_there_is_and_is_not_stands_in_words(visit: Any, what: str, words: str) -> None:
    page = visit(what)
    assert words in page.locator("main").inner_text()
    # and no figure is an empty box
    assert page.locator(".fig-body:empty, .fig-problem:visible").count() == 0


def test_steps_without_a_finite_gradient_are_seen_on_the_heat_map(visit: Any) -> None:
    page = visit("spoilt")
    words = page.locator("#fig-heat-gradient").inner_text()
    assert "held NaN or infinity" in words
