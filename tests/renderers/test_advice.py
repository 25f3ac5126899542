"""Changes of source, shown line by line and made safe."""

from dataclasses import replace

from gradmend.records.prescription import Advice
from gradmend.records.report import Report
from gradmend.records.trace import Run, Trace
from gradmend.renderers import html, text
from gradmend.renderers.advice import MOST_LINES, change_lines

ADVICE = Advice(
    remedy="mend-the-arithmetic",
    finding="square-root-at-zero",
    text="keep the argument above zero",
    before="d = torch.sqrt(s)",
    after="eps = 1e-12\nd = torch.sqrt(s + eps)",
    source="train.py:7",
)
BARE = Report(trace=Trace(run=Run(model="Net")))


def test_the_terminal_shows_what_to_change_where_and_into_what() -> None:
    # GIVEN a report with advice WHEN it is drawn THEN both sides are there, marked, in order
    shown = text.render(replace(BARE, advice=(ADVICE,)), width=100)
    lines = [line.strip() for line in shown.splitlines()]
    at = lines.index("- d = torch.sqrt(s)")
    assert lines[at + 1 : at + 3] == ["+ eps = 1e-12", "+ d = torch.sqrt(s + eps)"]
    assert "train.py:7" in lines[at - 1]
    assert "square-root-at-zero: keep the argument above zero" in shown


def test_a_report_without_advice_says_nothing_of_it() -> None:
    assert "CHANGE IN YOUR SOURCE" not in text.render(BARE)
    assert "What to change in your source" not in html.render(BARE)


def test_the_page_escapes_source_that_looks_like_markup() -> None:
    # GIVEN lines that a browser would act on
    hostile = replace(ADVICE, before="<script>alert(1)</script>", after="a < b & c\n    d")
    # WHEN they are drawn THEN they are text, and indentation stays
    page = html.render(replace(BARE, advice=(hostile,)))
    assert "- &lt;script&gt;alert(1)&lt;/script&gt;\n+ a &lt; b &amp; c\n+     d" in page
    assert "<script>alert" not in page


def test_long_source_is_cut_and_an_empty_side_is_left_out() -> None:
    long = replace(ADVICE, before="", after="\n".join("x" * 200))
    lines = change_lines(long)
    assert len(lines) == MOST_LINES
    assert {mark for mark, _ in lines} == {"+"}
