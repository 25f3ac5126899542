"""The ledger, the findings' cards and the repair in a real browser."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gradmend.records.ledger import Entry
from gradmend.records.report import Report
from gradmend.renderers import html

_spec = importlib.util.spec_from_file_location(
    "reports", Path(__file__).parents[1] / "renderers" / "reports.py"
)
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)

SETTLED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture
def shown(page: Any, tmp_path: Path) -> Callable[[Report], Any]:
    """Open a report's page and wait until every figure is drawn."""

    def show(report: Report) -> Any:
        path = tmp_path / "report.html"
        path.write_text(html.render(report), encoding="utf-8")
        page.goto(path.as_uri())
        page.evaluate("gm.drawAll()")
        page.evaluate(SETTLED)
        return page

    return show


def with_books(report: Report, *children: Entry) -> Report:
    return replace(report, trace=replace(report.trace, ledger=reports.book(children)))


def nested() -> Report:
    """Twelve blocks of three, and a head."""
    blocks = []
    for k in range(12):
        inside = tuple(
            replace(reports.layer(j, -0.5 - 0.1 * j, -0.5), name=f"blocks.{k}.{part}")
            for j, part in enumerate(("fc", "act", "out"))
        )
        total = sum(entry.decades for entry in inside)
        blocks.append(
            Entry(name=f"blocks.{k}", kind="module", label="Block", decades=total, children=inside)
        )
    return with_books(reports.deep(4), *blocks, reports.layer(0, -0.1, -0.1, name="head"))


def rows(page: Any) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        ".tree tbody tr", "all => all.map(one => one.querySelector('.path').textContent)"
    )
    return found


def test_the_static_ledger_gives_way_to_the_live_one_and_stands_on_paper(
    shown: Callable[[Report], Any],
) -> None:
    page = shown(reports.deep(10))
    assert page.locator(".ledger-live").first.is_visible()
    assert not page.locator("#fig-ledger .ledger-static").is_visible()
    page.emulate_media(media="print")
    assert page.locator("#fig-ledger .ledger-static").is_visible()
    assert not page.locator("#fig-ledger .ledger-live").is_visible()


def test_numbers_on_the_page_are_those_of_the_books(shown: Callable[[Report], Any]) -> None:
    page = shown(nested())
    first = page.locator(".tree tbody tr").first
    assert first.locator("td.n").first.inner_text() == "−21.70"
    sums = page.evaluate(
        """() => {
          const books = gm.books(gm.load("ledger"));
          const all = [];
          for (let at = 0; at < books.count; at++)
            all.push([books.decades(at), books.sum(books.from(at), books.to(at))]);
          return all;
        }"""
    )
    assert len(sums) == 1 + 12 * 4 + 1
    assert all(abs(own - added) < 1e-5 for own, added in sums)


def test_pointing_reads_out_and_a_click_selects_everywhere(
    shown: Callable[[Report], Any],
) -> None:
    page = shown(reports.deep(10))
    chart = page.locator(".waterfall")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    said = page.locator(".readout").inner_text()
    assert "Linear(64, 64)" in said and "predicted −0.25" in said and "since the output" in said
    page.mouse.click(box["x"] + 60, box["y"] + 100)
    assert page.evaluate("gm.selection.layer") == "0"
    assert page.locator('.tree tr[data-layer="0"]').get_attribute("aria-current") == "true"
    assert float(page.locator(".waterfall rect.band").get_attribute("width")) > 10
    page.keyboard.press("Escape")
    assert float(page.locator(".waterfall rect.band").get_attribute("width")) == 0


def test_a_module_of_a_finding_selects_it_in_the_ledger(shown: Callable[[Report], Any]) -> None:
    page = shown(reports.deep(10))
    page.locator('.card .layer[data-layer="3"]').first.click()
    assert page.evaluate("gm.selection.layer") == "3"
    assert "selected" in page.locator('.tree tr[data-layer="3"]').get_attribute("class")


def test_the_chart_is_moved_and_zoomed_by_keys(shown: Callable[[Report], Any]) -> None:
    page = shown(reports.deep(2001))
    chart = page.locator(".chart")
    chart.focus()
    page.keyboard.press("End")
    assert "2000" in page.locator(".readout b").inner_text()
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("+")
    assert "of 2,001 entries" in chart.inner_text()
    assert page.locator(".whole").is_visible()
    assert "end of this stretch" in page.locator(".axis-title").inner_text()
    before = chart.inner_text()
    page.keyboard.press("Shift+ArrowRight")
    assert chart.inner_text() != before
    # Numbers that come anew for the same model leave the stretch as it is.
    seen = chart.inner_text()
    page.evaluate("[...gm.figures.values()][0].handle.update(gm.load('ledger'))")
    assert page.locator(".chart").inner_text() == seen
    page.locator(".chart").focus()
    page.keyboard.press("0")
    assert not page.locator(".whole").is_visible()


def test_dragging_zooms_into_a_stretch_and_a_button_leads_back(
    shown: Callable[[Report], Any],
) -> None:
    page = shown(reports.deep(2001))
    page.locator(".waterfall").scroll_into_view_if_needed()
    box = page.locator(".waterfall").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 80, steps=4)
    page.mouse.up()
    assert "of 2,001 entries" in page.locator(".chart").inner_text()
    page.locator(".whole").click()
    assert "(2,001 entries)" in page.locator(".chart").inner_text()


def test_the_tree_is_walked_by_arrows(shown: Callable[[Report], Any]) -> None:
    page = shown(nested())
    assert rows(page)[:4] == ["(the model)", "blocks.0 .. 11", "blocks.0", "blocks.1"]
    first = page.locator(".tree tbody tr").first
    first.focus()
    focused = "document.activeElement.querySelector('.path').textContent"
    for key, name in (
        ("ArrowDown", "blocks.0 .. 11"),
        ("ArrowDown", "blocks.0"),
        ("ArrowRight", "blocks.0"),  # opens
        ("ArrowRight", "blocks.0.fc"),
        ("ArrowLeft", "blocks.0"),
        ("ArrowLeft", "blocks.0"),  # closes
        ("ArrowLeft", "blocks.0 .. 11"),
        ("End", "head"),
        ("Home", "(the model)"),
    ):
        page.keyboard.press(key)
        assert page.evaluate(focused) == name
    assert page.locator('.tree tr[tabindex="0"]').count() == 1
    assert page.locator('.tree tr[data-layer="blocks.0"]').get_attribute("aria-expanded") == "false"


def test_ten_thousand_layers_open_in_steps_of_ten(shown: Callable[[Report], Any]) -> None:
    page = shown(reports.deep(20_001))
    assert page.locator(".tree tbody tr").count() < 25
    assert "[Linear(64, 64), Sigmoid] × 10,000" in page.locator(".tree").inner_text()
    # a selection opens what hides the layer, and no more
    page.evaluate("gm.select({layer: '12345'})")
    assert page.locator('.tree tr[data-layer="12345"]').is_visible()
    assert page.locator(".tree tbody tr").count() < 80
    page.locator(".tree tbody tr").nth(2).locator(".zoom").click()
    assert "of 20,001 entries" in page.locator(".chart").inner_text()


def test_its_numbers_can_be_taken_away(shown: Callable[[Report], Any]) -> None:
    page = shown(reports.deep(10))
    table = page.evaluate(
        """() => {
          const entry = [...gm.figures.values()].find(one => one.id === "ledger");
          const table = entry.handle.table();
          const cells = [table.cell(1, 3), table.cell(1, 4)];
          return [table.columns.length, table.count, ...cells, entry.handle.svg()];
        }"""
    )
    assert table[:3] == [7, 10, "activation-derivative"] and abs(table[3] + 0.61) < 1e-6
    assert table[4].startswith("<svg") and "<pattern" in table[4] and "var(" not in table[4]


def test_a_line_is_copied_and_a_prescription_saved(
    shown: Callable[[Report], Any], tmp_path: Path
) -> None:
    page = shown(reports.repaired())
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".card .apply-box .copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("gradmend.apply(")
    with page.expect_download() as waiting:
        page.locator("[data-save]").click()
    saved = waiting.value
    assert saved.suggested_filename == "prescription.json"
    saved.save_as(tmp_path / "taken.json")
    assert json.loads((tmp_path / "taken.json").read_text())["edits"]


def test_the_explanation_opens_from_the_code(shown: Callable[[Report], Any]) -> None:
    page = shown(reports.deep(10))
    assert not page.locator("#explain-1").is_visible()
    page.locator(".card a.code").first.click()
    page.wait_for_selector("#explain-1", state="visible")


@pytest.mark.parametrize(
    "name", ["empty", "healthy", "one layer", "NaN everywhere", "blocked", "no total",
             "verdict without arms", "not repaired", *(f"hostile {k}" for k in (0, 1, 4, 6, 8))],
)  # fmt: skip
def test_hard_reports_are_drawn_without_an_error(name: str, shown: Callable[[Report], Any]) -> None:
    page = shown(reports.REPORTS[name]())
    assert page.locator(".fig-problem:visible").count() == 0
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate(SETTLED)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_violation_of_accessibility(scheme: str, shown: Callable[[Report], Any]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = shown(reports.looked_again(reports.repaired()))
    page.emulate_media(color_scheme=scheme)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found = axe.Axe().run(page).response["violations"]
    own = ("#section-ledger", "#section-findings", "#section-repair")
    here = page.evaluate(
        """([found, own]) => found.flatMap(rule => rule.nodes
          .filter(node => own.some(name => document.querySelector(node.target[0])?.closest(name)))
          .map(node => `${rule.id}: ${node.html.slice(0, 200)}`))""",
        [found, own],
    )
    assert here == []


@pytest.mark.browser
def test_without_script_the_words_are_complete(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html.render(reports.looked_again(reports.repaired())), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    text = page.inner_text("body")
    for words in ("Layer by layer, like ones grouped", "after the repair", "97.0 %", "diverged",
                  "What it predicted", "critical-init"):  # fmt: skip
        assert words in text
    assert page.locator("#fig-ledger .ledger-static svg").first.is_visible()
    assert page.locator("#fig-trial .ledger-static").is_visible()
    assert not page.locator(".copy").first.is_visible()
    context.close()
