"""One Chromium for all tests of the page, and pages put together from figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gradmend.renderers.page.document import Section, document, place
from gradmend.renderers.page.figure import Figure

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a page is a browser test."""
    for item in items:
        if (
            "page" in getattr(item, "fixturenames", ())
            and Path(__file__).parent in item.path.parents
        ):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium of the system, started once."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page of 1,280 pixels, in light colours; it must end without an error of a script."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", accept_downloads=True
    )
    made = context.new_page()
    made.set_default_timeout(10_000)
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    yield made
    context.close()
    assert errors == []


def page_of(figures: Sequence[Figure], *, shown: Sequence[str] = (), html: str = "") -> str:
    """A document with figures under each other, as a report has them.

    Args:
        figures: Those the page holds.
        shown: Ids of those it has a place for; all unless given.
        html: Markup that stands above them.
    """
    chosen = [one for one in figures if not shown or one.id in shown]
    inner = html + "".join(place(one.id, one.title) for one in chosen)
    return document("Test", [Section(id="figures", title="", html=inner)], figures=figures)


@pytest.fixture
def opened(page: Any, tmp_path: Path) -> Callable[..., Any]:
    """Open a page of these figures from a file and wait until they are drawn."""

    def open_page(*figures: Figure, fragment: str = "", **more: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_text(page_of(figures, **more), encoding="utf-8")
        page.goto(f"file://{path}{fragment}")
        page.evaluate("gm.drawAll()")
        # What follows a frame later: overlays, signs, words.
        page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        return page

    return open_page
