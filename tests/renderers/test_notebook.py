"""What a notebook is given: the page in a frame, its words, and the small live panel."""

from __future__ import annotations

import html
import importlib.util
import math
import random
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gradmend.records.finding import Finding, Severity
from gradmend.records.history import QUANTITIES, Column, History, RunFacts, Table
from gradmend.records.report import Report
from gradmend.records.trace import Run, Trace
from gradmend.records.views import print_pretty, set_views, views
from gradmend.renderers import notebook
from gradmend.renderers.html import render
from gradmend.renderers.panel import charts, panel_of, panel_words_of
from gradmend.renderers.panel_chart import Chart, chart


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runs, reports = _beside("runs"), _beside("reports")
HOSTILE, deep = reports.HOSTILE, reports.deep


class Tags(HTMLParser):
    """Elements with their attributes, and whether every one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def run_of(
    rows: int = 40, layers: int = 6, *, name: str = "net", worst: float = -9.0, **changes: object
) -> History:
    """A run made by hand: a falling loss, a gradient that vanishes towards the input."""
    steps = np.arange(rows, dtype=np.int64) * 5

    def table(kind: str, columns: tuple[Column, ...], **values: object) -> Table:
        whole = {q: np.full((rows, len(columns)), math.nan) for q in QUANTITIES[kind]}
        whole.update({q: np.broadcast_to(v, (rows, len(columns))) for q, v in values.items()})
        return Table(name=kind, columns=columns, steps=steps, values=whole)

    parameters = tuple(
        Column(name=f"{name}.{k}.weight", module=f"{name}.{k}", order=k, shape=(4, 4))
        for k in range(layers)
    )
    depth = np.linspace(worst, -2.0, layers)
    fall = np.exp(-np.arange(rows) / 10.0)[:, None] + 0.05
    tables = {
        "step": table("step", (Column(name="Adam"),), loss=fall, log10_norm=np.log10(fall)),
        "gradient": table("gradient", parameters, state=2.0, log10_rms=depth),
        "update": table("update", parameters, log10_ratio=depth / 2, log10_weight=-1.0),
    }
    tables.update(changes.pop("tables", {}))  # type: ignore[call-overload]
    run = RunFacts(name=name, steps=rows * 5, seconds=12.5, **changes)  # type: ignore[arg-type]
    return History(run=run, tables=tables)


FOUND = Finding(
    code="GRF102", name="vanishing-gradient", severity=Severity.ERROR, modules=("net.0",),
    summary="the gradient loses 7 decades",
)  # fmt: skip


# ---- the page in a frame


def test_the_frame_holds_the_very_page_and_may_do_no_more_than_run_its_script() -> None:
    # given a report, when a notebook asks for its HTML
    report = deep(20)
    shown = Tags(report._repr_html_())
    # then one frame holds the page as the file has it, in a sandbox, and loads nothing
    (frame,) = shown.all("iframe")
    held = str(frame["srcdoc"])
    assert held.replace('href="about:srcdoc#', 'href="#') == render(report)
    # near miss: a bare "#place" would load the notebook in the page's stead
    assert 'href="#' not in held.partition("<script")[0]
    assert frame["sandbox"] == "allow-scripts allow-downloads"
    assert "src" not in frame and not shown.all("script") and not shown.open
    assert "connect-src" not in str(frame["srcdoc"]).split("</head>")[0]


def test_where_frames_are_taken_out_the_words_are_still_there() -> None:
    # given a viewer that drops the frame, as GitHub does
    report = deep(20)
    shown = report._repr_html_()
    left = shown[: shown.index("<iframe")] + shown[shown.index("</iframe>") :]
    # then verdict and findings stand in what is left
    said = "".join(Tags(left.replace("</iframe>", "")).words)
    assert "attenuating-activation" in said and "decades lost" in said


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_inside_the_frame_and_is_text_outside(name: str) -> None:
    # given a report whose model, modules and findings have a name made to break out
    base = deep(6)
    finding = replace(base.findings[0], name=name, modules=(name,), summary=name, source=name)
    run = replace(base.trace.run, model=name)
    report = replace(base, trace=replace(base.trace, run=run), findings=(finding,))
    # when it is shown
    shown = Tags(report._repr_html_())
    # then nothing of it became an element or an attribute of the notebook's
    assert {tag for tag, _ in shown.found} == {"iframe", "details", "summary", "pre"}
    assert all(set(attrs) <= {"title", "srcdoc", "sandbox", "style"} for _, attrs in shown.found)
    assert not shown.open


def test_a_page_that_is_too_large_is_left_out_and_its_size_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given a bound below the page's size
    monkeypatch.setattr(notebook, "MOST_BYTES", 10_000)
    # when it is shown
    shown = notebook.page(deep(20), kept="runs/a b")
    # then there is no frame, but the size, a way to see it, and the words
    said = "".join(Tags(shown).words)
    assert "<iframe" not in shown and "too large" in said and "kB" in said
    assert "gradmend live 'runs/a b'" in said and "attenuating-activation" in said


def test_ten_thousand_layers_do_not_bloat_a_notebook() -> None:
    shown = deep(10_000)._repr_html_()
    assert len(shown) < 1.2 * notebook.MOST_BYTES + notebook.MOST_WORDS


def test_the_text_form_is_the_terminals_and_short_inside_of_something_else() -> None:
    # given IPython's printer, at the top and inside of a list
    class Paper:
        def __init__(self, depth: int) -> None:
            self.stack = [0] * depth
            self.said = ""

        def text(self, words: str) -> None:
            self.said += words

    top, inside = Paper(1), Paper(2)
    for paper in (top, inside):
        deep(8)._repr_pretty_(paper, False)
    # then alone it says everything, without codes, and in a list its name only
    assert "GRADIENT LEDGER" in top.said and "\x1b" not in top.said
    assert inside.said == "<Report on Sequential: 2 finding(s)>"
    print_pretty(inside, lambda: "all", "x")


@pytest.mark.parametrize("text", HOSTILE)
def test_every_kind_of_run_has_a_panel_and_words(text: str) -> None:
    # given a run whose every string is hostile
    report, history = runs.hostile(text)
    # when the panel and the page are drawn
    panel, page = panel_of(history, report.findings), notebook.page(report, history)
    # then both are sound and say no "nan"
    assert not Tags(panel).open and not Tags(page).open
    assert ">nan" not in panel and "gradmend" in panel_words_of(history, report.findings)


def test_drawing_leaves_the_users_random_numbers_alone() -> None:
    # given a seed
    random.seed(3)
    wanted = random.random()
    random.seed(3)

    # when what is imported for the first drawing draws a number itself
    def find() -> object:
        random.random()
        return notebook

    set_views(find)  # type: ignore[arg-type]
    try:
        views()
        assert random.random() == wanted
    finally:
        set_views(lambda: notebook)


# ---- the panel


def test_the_panel_says_where_the_training_stands() -> None:
    shown = panel_of(run_of(), [FOUND])
    said = "".join(Tags(shown).words).replace("\u00a0", " ")
    for words in (
        "step 200", "12 s", "vanishing-gradient", "loses 7 decades", "loss", "gradient norm",
        "update : weight", "gradient by layer", "at first", "now", "step 0",
    ):  # fmt: skip
        assert words in said, words
    assert not {"script", "style", "link", "img"} & {tag for tag, _ in Tags(shown).found}


def test_the_panel_is_small_whatever_the_run() -> None:
    shown = panel_of(run_of(rows=3000, layers=3000), [FOUND] * 50)
    assert len(shown) < 60_000
    assert "and 47 more" in shown


def test_before_the_first_step_it_waits_and_nothing_is_drawn() -> None:
    shown = panel_of(History(run=RunFacts(name="net")), [])
    assert "waiting for the first step" in shown and "<svg" not in shown


def test_a_run_without_findings_says_so() -> None:
    assert "nothing found so far" in panel_of(run_of(), [])
    assert panel_words_of(run_of(), []).endswith("nothing found so far")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_on_the_panel(name: str) -> None:
    finding = replace(FOUND, name=name, summary=name)
    shown = Tags(panel_of(run_of(name=name), [finding]))
    assert {tag for tag, _ in shown.found} <= {
        "div", "b", "bdi", "span", "svg", "text", "tspan", "path", "rect", "circle", "g", "title",
    }  # fmt: skip
    assert all(not key.startswith("on") for _, attrs in shown.found for key in attrs)


def test_nan_and_infinity_everywhere_still_make_a_panel() -> None:
    # given a run in which nothing is finite
    base = run_of()
    bad = {
        kind: replace(table, values={q: np.full_like(v, math.inf) for q, v in table.values.items()})
        for kind, table in base.tables.items()
    }
    # then it is drawn without a number that is none
    shown = panel_of(replace(base, tables=bad), [FOUND])
    assert "nan" not in shown and "inf" in shown
    nothing = {
        kind: replace(table, values={q: np.full_like(v, math.nan) for q, v in table.values.items()})
        for kind, table in base.tables.items()
    }
    assert "nan" not in panel_of(replace(base, tables=nothing), [])


def test_a_layer_without_a_finite_gradient_is_crossed_and_one_without_any_is_empty() -> None:
    # given six layers, the second not finite and the third without a gradient
    base = run_of()
    gradient = base.tables["gradient"]
    state = np.array(gradient.values["state"])
    state[:, 1], state[:, 2] = 3.0, 0.0
    rms = np.array(gradient.values["log10_rms"])
    rms[:, 1:3] = math.nan
    tables = {
        **base.tables,
        "gradient": replace(gradient, values={**gradient.values, "state": state, "log10_rms": rms}),
    }
    shown = panel_of(replace(base, tables=tables), [])
    assert "net.1: not finite" in shown and "net.2: None" in shown


def test_the_line_at_minus_three_stands_where_the_axis_says() -> None:
    # given ratios between 1e-5 and 1e-1, so that 1e-3 is in the middle
    steps = np.arange(5)
    shown = chart(Chart("r", "", steps, np.array([-5.0, -4, -3, -2, -1]), log=True, line=-3.0))
    # then the line is drawn halfway up and labelled
    assert "M50 64.0H284" in shown and ">1.0e-03<" in shown
    # near miss: right beside an end of the axis there is the line, without a second label
    crowded = chart(Chart("r", "", steps, np.full(5, -3.05), log=True, line=-3.0))
    assert crowded.count(">1.0e-03<") == 1


def test_no_spike_is_lost_between_the_points_of_a_line() -> None:
    # given 10,000 steps with one spike
    values = np.ones(10_000)
    values[5_003] = 100.0
    shown = chart(Chart("loss", "", np.arange(10_000), values))
    # then the axis reaches to it and the band goes up to its top
    assert ">100<" in shown and " 26.0" in shown


def test_a_loss_over_decades_is_drawn_by_its_logarithm_and_one_with_signs_as_it_is() -> None:
    assert charts(run_of())[0].log  # 1.05 to 0.07: more than a decade
    base = run_of()
    step = base.tables["step"]
    signed = replace(step, values={**step.values, "loss": step.values["loss"] - 0.5})
    assert not charts(replace(base, tables={**base.tables, "step": signed}))[0].log


def test_a_report_on_nothing_is_shown_too() -> None:
    report = Report(trace=Trace(run=Run(model="")))
    assert "<iframe" in report._repr_html_()
    assert html.unescape(report._repr_html_())
