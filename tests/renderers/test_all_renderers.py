"""Every view on every shape of report: nothing breaks, nothing leaks, nothing is unbounded."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.cells import cell_len

from gradmend.records.report import Report
from gradmend.renderers import html, text

# The test folders are no packages (import mode importlib), so the helper is loaded by its path.
_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)

RENDERERS = {"text": text.render, "html": html.render}
VOID = {"meta", "br", "img", "hr", "link", "input"}


@pytest.fixture(params=list(reports.REPORTS))
def report(request: pytest.FixtureRequest) -> Report:
    made: Report = reports.REPORTS[request.param]()
    return made


class Page(HTMLParser):
    """Checks nesting and collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.embedded: dict[str, str] = {}
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        table = dict(attrs)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.links += [v or "" for n, v in attrs if n in ("src", "href", "action", "data")]
        if table.get("id"):
            self.ids.append(str(table["id"]))
        if tag == "script":
            self.inside = str(table.get("id"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside is not None:
            self.embedded[self.inside] = self.embedded.get(self.inside, "") + data


def parse(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser


@pytest.mark.parametrize("name", list(RENDERERS))
def test_what_is_no_number_is_not_shown_as_one(name: str, report: Report) -> None:
    shown = RENDERERS[name](report)
    assert shown
    words = re.sub(r"<script.*?</script>", "", shown, flags=re.S)
    assert "nan" not in re.sub(r"\w*nan\w+|\w+nan\w*", "", words).lower()


def test_data_on_the_page_is_json(report: Report) -> None:
    def no_json(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    data = parse(html.render(report)).embedded
    for name, text_ in data.items():
        if name != "None":
            json.loads(text_, parse_constant=no_json)


@pytest.mark.parametrize("width", [60, 80, 97, 120, 160])
@pytest.mark.parametrize("ascii", [True, False])
def test_no_line_is_wider_than_asked(report: Report, width: int, ascii: bool) -> None:
    shown = text.render(report, width=width, colour=False, ascii=ascii)
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    assert len(shown.splitlines()) < 400


def test_plain_text_has_no_escapes_and_is_ascii(report: Report) -> None:
    shown = text.render(report, width=80)  # under pytest the output is no terminal
    assert shown.isascii()
    assert all(letter == "\n" or letter.isprintable() for letter in shown)


def test_colour_repeats_what_the_plain_text_says(report: Report) -> None:
    plain = text.render(report, width=80, colour=False, ascii=False)
    coloured = text.render(report, width=80, colour=True, ascii=False)
    bare = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert "\x1b" not in bare
    assert [line.rstrip() for line in bare.splitlines()] == plain.splitlines()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in text.render(reports.deep(10), width=80)
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" in text.render(reports.deep(10), width=80)


def test_page_is_well_formed_and_loads_nothing(report: Report) -> None:
    page = html.render(report)
    parsed = parse(page)
    assert parsed.tags.count("script") == len(parsed.embedded)  # none twice
    assert "None" in parsed.embedded  # the one that runs has no id
    assert {link[0] for link in parsed.links} == {"#"}  # places on the page itself
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert not parsed.handlers
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.tags.count("h1") == 1
    assert not {"link", "iframe", "object", "embed", "img", "base", "form"} & set(parsed.tags)
    assert "url(http" not in page and "@import" not in page
    assert not re.search(r"[\u2028\u2029\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", page)
    page.encode("utf-8")


def test_page_is_small_and_its_data_bounded(report: Report) -> None:
    page = html.render(report)
    data = json.loads(parse(page).embedded["report-data"])
    assert data["trace"]["run"]["model"] == report.trace.run.model
    size = sum(len(value) for value in parse(page).embedded.values())
    assert len(page) - size < 150_000
    assert size < 1_500_000


def test_binning_is_said_on_the_page() -> None:
    page = html.render(reports.deep(20_001))
    assert "20,001 entries are drawn as 400 bins" in page
    assert "without its per-operation records" in page


@pytest.mark.parametrize("layers", [10, 201, 20_001])
def test_any_depth_reads_in_a_few_rows(layers: int) -> None:
    shown = text.render(reports.deep(layers), width=100)
    table = shown.split("where ")[1].split("books balance")[0]
    assert len(table.strip().splitlines()) <= 26
    assert f"x {layers // 2:,}" in table


def test_the_sentence_names_the_function_and_its_bound() -> None:
    shown = text.render(reports.deep(201), width=160)
    assert "sigmoid's derivative (at most 1/4 per layer)" in shown
    assert "10^-85.2 times as large" in shown


def test_symptoms_fold_under_their_cause() -> None:
    shown = text.render(reports.deep(10), width=120)
    assert "explains  GRF102 vanishing-gradient (error)" in shown
    assert "\n2  " not in shown


def test_blocked_says_where_and_why() -> None:
    shown = text.render(reports.blocked(), width=120)
    assert "exactly zero from 3.relu on" in shown
    assert "every unit of 3.relu is dead" in shown


def test_repair_is_shown_in_both() -> None:
    report = reports.repaired()
    shown, page = text.render(report, width=120), html.render(report)
    for words in ("held", "not checked", "diverged", "97.0 %", "9.8 %", "91.2 %", "add-skip"):
        assert words in shown
        assert words in page


def test_healthy_is_short() -> None:
    shown = text.render(reports.healthy(), width=80)
    assert shown.startswith("Healthy: nothing found")
    assert len(shown.splitlines()) <= 20


def test_the_second_look_stands_beside_the_first() -> None:
    report = reports.looked_again(reports.repaired())
    assert "After the repair it arrives 0.5 times" in text.render(report, width=160)
    assert "The gradient, before and after" in html.render(report)
    report = reports.looked_again(reports.deep(4))
    assert "After 50 steps it arrives 0.5 times" in text.render(report, width=160)


@pytest.mark.parametrize("foreign", reports.HOSTILE)
def test_foreign_text_stays_text(foreign: str) -> None:
    page = html.render(reports.hostile(foreign))
    outside = page.split("<style>")[0] + page.split("</style>")[1].split('id="report-data"')[0]
    assert "alert(1)<" not in outside
    assert "<img" not in outside
    if "markup" in foreign:  # square brackets are no commands in a terminal view
        assert "[red]markup[/red]" in text.render(reports.hostile(foreign), width=160)
