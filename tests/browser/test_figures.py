"""Figures in a real browser: what is drawn, read out, selected and saved is what Python put in."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradmend.renderers.page.document import Section, document, place
from gradmend.renderers.page.encoding import decoded, exact, quantised
from gradmend.renderers.page.figure import Axis, Heat, Level, Lines, Mark, Series
from gradmend.renderers.visible import visible

STEPS = Axis(label="optimizer step")
VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]
HOSTILE = "</script><img src=x onerror=window.hacked=1>\u202egnp.\x1b[31m"


def heat(values: Any, **more: Any) -> Heat:
    """A heat map of layers ``block.0`` and so on over steps 0, 10, 20..."""
    values = np.asarray(values, dtype=float)
    names = [f"block.{row}" for row in range(values.shape[0])]
    given: dict[str, Any] = {
        "id": "heat",
        "title": "Layers and steps",
        "caption": "What to look for.",
        "words": "A heat map of layers over steps.",
        "x": STEPS,
        "at": np.arange(values.shape[1]) * 10,
        "y": Axis(label="layer"),
        "rows": names,
        "layers": names,
        "values": values,
        "colour": Axis(label="gradient", unit="units"),
    }
    return Heat(**given | more)


def lines(*series: Series, **more: Any) -> Lines:
    """Lines over steps 0, 10, 20... in one panel."""
    given: dict[str, Any] = {
        "id": "lines",
        "title": "Loss",
        "caption": "What to look for.",
        "words": "A line over steps.",
        "x": STEPS,
        "at": np.arange(len(series[0].values)) * 10,
        "panels": [Axis(label="loss", unit="nats")],
        "series": series,
    }
    return Lines(**given | more)


def line(values: Any, name: str = "loss", **more: Any) -> Series:
    return Series(name=name, values=np.asarray(values, dtype=float), **more)


def colour_of(share: float) -> tuple[int, ...]:
    """The naive twin of ``gm.palette``: straight lines between the anchors, 257 colours."""
    at = round(share * 256) / 256 * (len(VIRIDIS) - 1)
    low = min(int(at), len(VIRIDIS) - 2)
    first, second = (bytes.fromhex(VIRIDIS[one]) for one in (low, low + 1))
    return tuple(round(a + (b - a) * (at - low)) for a, b in zip(first, second, strict=True))


def pixel(page: Any, row: int, column: int) -> tuple[int, ...]:
    """Colour of the middle of a cell on the canvas."""
    found = page.evaluate(
        """([row, column]) => {
          const {handle, element} = [...gm.figures.values()].find((one) => one.handle.cell);
          const {x, y} = handle.cell(row, column);
          const context = element.querySelector('.heat-stage canvas').getContext('2d');
          return [...context.getImageData(Math.floor(x), Math.floor(y), 1, 1).data];
        }""",
        [row, column],
    )
    return tuple(found[:3])


def point_at(page: Any, row: int, column: int, *, click: bool = False) -> None:
    """Move the pointer to the middle of a cell."""
    where = page.evaluate(
        "([row, column]) => [...gm.figures.values()].find((one) => one.handle.cell)"
        ".handle.cell(row, column)",
        [row, column],
    )
    stage = page.locator(".heat-stage")
    (stage.click if click else stage.hover)(position=where)
    settled(page)


def until(page: Any, condition: str) -> None:
    """Wait for a condition; the page's policy forbids what Playwright does for this."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


def settled(page: Any) -> None:
    """Wait until what follows a frame later is there."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def readout(page: Any, figure: str = "heat") -> str:
    return str(page.locator(f"#fig-{figure} .fig-readout").inner_text()).replace("\n", " ")


def downloaded(page: Any, label: str, figure: str = "heat") -> bytes:
    with page.expect_download() as waiting:
        page.locator(f"#fig-{figure} .fig-buttons").get_by_text(label, exact=True).click()
    return Path(waiting.value.path()).read_bytes()


class TestArraysAndNumbers:
    def test_arrays_are_what_python_decodes(self, opened: Any) -> None:
        page = opened(heat([[1.0]]))
        for packed in (
            exact(np.array([0.1, -2.5, np.nan, np.inf, -np.inf], dtype=np.float32)),
            exact(np.array([0, 7, -100_000])),
            exact(np.array([2**40, 1])),
            quantised(np.array([[1.0, 2.0, np.nan], [np.inf, -np.inf, 1.7]])),
            quantised(np.full((2, 2), 3.0)),
            exact(np.zeros(0)),
        ):
            told = page.evaluate("(packed) => Array.from(gm.array(packed).values, String)", packed)
            np.testing.assert_allclose(
                np.array([float(one.replace("Infinity", "inf")) for one in told]),
                decoded(packed).ravel().astype(float),
                rtol=1e-7,
            )

    def test_numbers_have_four_digits(self, opened: Any) -> None:
        page = opened(heat([[1.0]]))
        expected = {
            "0": "0",
            "1234": "1,234",
            "0.123456": "0.1235",
            "-2.5": "−2.5",
            "1.2344e-14": "1.234×10⁻¹⁴",
            "-3e9": "−3×10⁹",
            "NaN": "n/a",
            "Infinity": "+inf",
            "-Infinity": "−inf",
        }
        assert {value: page.evaluate(f"gm.number({value})") for value in expected} == expected

    def test_ticks_are_round_and_few(self, opened: Any) -> None:
        page = opened(heat([[1.0]]))
        assert page.evaluate("gm.ticks(0, 1, 5)") == [0, 0.2, 0.4, 0.6, 0.8, 1]
        assert page.evaluate("gm.ticks(1e-8, 1e-2, 4, {log: true})") == [1e-8, 1e-6, 1e-4, 1e-2]
        assert page.evaluate("gm.ticks(3, 3, 4)") == [3]
        assert page.evaluate("gm.ticks(0, 3, 9, {whole: true})") == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("ticks", "axis", "texts"),
        [
            ([0.005, 0.01, 0.02], "log", ["5×10⁻³", "1×10⁻²", "2×10⁻²"]),
            ([1e-4, 1e-2, 1.0], "log", ["10⁻⁴", "10⁻²", "10⁰"]),
            ([0.1, 1, 10], "log", ["0.1", "1", "10"]),
            ([0.05, 0.1, 0.2], "log", ["0.05", "0.10", "0.20"]),
            ([-1, -1.5, -2], "", ["−1.0", "−1.5", "−2.0"]),
            ([0, 5e-7, 1e-6], "", ["0", "0.5×10⁻⁶", "1.0×10⁻⁶"]),
            ([0, 0.025, 0.05], "percent", ["0.0", "2.5", "5.0"]),
        ],
    )
    def test_numbers_of_an_axis_have_one_form(
        self, opened: Any, ticks: list[float], axis: str, texts: list[str]
    ) -> None:
        page = opened(heat([[1.0]]))
        form = "([ticks, axis]) => ticks.map((one) => gm.tickText(one, ticks, {[axis]: true}))"
        assert page.evaluate(form, [ticks, axis]) == texts

    def test_a_long_name_is_cut_in_the_middle_and_whole_in_its_tooltip(self, opened: Any) -> None:
        page = opened(heat([[1.0]]))
        name = "blocks.0." + "x" * 80
        script = "(name) => [gm.name(name, 20)].map((one) => [one.textContent, one.title])[0]"
        shown, title = page.evaluate(script, name)
        assert (len(shown), title) == (20, name)
        assert shown.startswith("blocks.0.") and shown.endswith("xxx")

    def test_triangles_at_the_edge_are_in_the_legend(self, opened: Any) -> None:
        values = np.array([1.0, -np.inf, np.inf, 2.0])
        page = opened(lines(line(values)))
        assert {"+inf", "−inf"} <= set(page.locator(".fig-legend").inner_text().split())


class TestHeat:
    def test_cells_have_the_colours_of_their_numbers(self, opened: Any) -> None:
        # Given numbers from 0 to 8.
        values = np.arange(9.0).reshape(3, 3)
        # When drawn, then each cell has the colour of its share of the way.
        page = opened(heat(values))
        for row in range(3):
            for column in range(3):
                assert pixel(page, row, column) == colour_of(values[row, column] / 8)

    def test_what_is_no_number_looks_like_none(self, opened: Any) -> None:
        page = opened(heat([[0.0, np.inf, -np.inf, np.nan, 1.0]]))
        assert pixel(page, 0, 0) == colour_of(0)
        assert pixel(page, 0, 1) == (232, 23, 93)
        assert pixel(page, 0, 2) == (0, 0, 0)
        assert sum(pixel(page, 0, 3)) > 3 * 200
        legend = page.locator(".heat-legend").inner_text()
        for words in ("not measured (1 cell)", "+inf (1 cell)", "−inf (1 cell)"):
            assert words in legend

    def test_columns_reach_to_the_middle_between_steps(self, opened: Any) -> None:
        # Given steps 0, 10 and 100: the second column is from 5 to 55.
        page = opened(heat([[0.0, 0.5, 1.0]], at=np.array([0, 10, 100])))
        wide = page.evaluate(
            "() => { const h = gm.figures.values().next().value.handle;"
            " return [0, 1, 2].map((column) => h.cell(0, column).x) }"
        )
        # Then middles are those of the ranges -5..5, 5..55 and 55..145.
        assert (wide[1] - wide[0]) / (wide[2] - wide[0]) == pytest.approx(30 / 100, abs=1e-6)

    def test_two_ways_from_a_centre(self, opened: Any) -> None:
        page = opened(heat([[-4.0, -3.0, -2.0]], centre=-3.0, levels=[Level(y=-3.0, text="usual")]))
        low, middle, high = (pixel(page, 0, column) for column in range(3))
        assert middle == (0xF1, 0xEF, 0xEA)
        assert low[2] > low[0] and high[0] > high[2]
        assert "−3 units: usual" in page.locator(".heat-legend").inner_text()

    def test_pointing_reads_the_number(self, opened: Any) -> None:
        values = np.random.default_rng(0).normal(size=(20, 30))
        page = opened(heat(values))
        point_at(page, 13, 21)
        text = readout(page)
        assert "block.13" in text and "optimizer step 210" in text
        told = re.search(r"(−?[\d.]+) units", text)
        assert told is not None
        assert float(told[1].replace("−", "-")) == pytest.approx(values[13, 21], rel=2e-3, abs=2e-4)

    def test_a_logarithm_is_said_with_what_it_is_of(self, opened: Any) -> None:
        page = opened(heat([[-3.0, 0.0]], colour=Axis(label="log10 rms", unit="decades")))
        point_at(page, 0, 0)
        assert "−3 decades (0.001)" in readout(page)

    def test_moving_does_not_draw_the_matrix_again(self, opened: Any) -> None:
        page = opened(heat(np.random.default_rng(0).normal(size=(40, 50))))
        page.evaluate(
            "() => { window.puts = 0; const put = CanvasRenderingContext2D.prototype.putImageData;"
            " CanvasRenderingContext2D.prototype.putImageData = function (...all)"
            " { window.puts += 1; return put.apply(this, all); }; }"
        )
        for column in range(5):
            point_at(page, 3, column)
        assert page.evaluate("puts") == 0

    def test_keys_move_a_cursor_that_is_said_and_selects(self, opened: Any) -> None:
        page = opened(heat(np.arange(12.0).reshape(3, 4)))
        page.locator(".heat-stage").focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        until(page, "document.querySelector('.unseen').textContent.includes('block.1')")
        assert "optimizer step 10, 5 units" in page.locator(".unseen").inner_text()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        assert page.evaluate("gm.selection") == {"layer": "block.1", "step": 30}

    def test_rows_are_zoomed_moved_and_reset(self, opened: Any) -> None:
        values = np.linspace(0, 1, 400)[:, None] * np.ones((1, 5))
        page = opened(heat(values))
        stage = page.locator(".heat-stage")
        stage.focus()
        page.keyboard.press("+")
        page.keyboard.press("+")
        settled(page)
        note = page.locator(".fig-note")
        assert "Rows 151 to 250 of 400" in note.inner_text()
        assert pixel(page, 200, 0) == pytest.approx(colour_of(200 / 399), abs=1)
        # Dragging down by a tenth of the height shows ten rows from before.
        box = stage.bounding_box()
        page.mouse.move(box["x"] + 400, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 400, box["y"] + 223, steps=4)
        settled(page)
        page.mouse.move(box["x"] + 400, box["y"] + 246, steps=4)
        page.mouse.up()
        settled(page)
        assert "Rows 141 to 240 of 400" in note.inner_text()
        assert page.evaluate("gm.selection.layer") is None
        page.keyboard.press("0")
        settled(page)
        assert "Rows" not in note.inner_text()

    def test_steps_are_zoomed_by_drag_and_keys_and_kept_by_the_address(self, opened: Any) -> None:
        # Given a map of one colour a step.
        values = np.ones((5, 1)) * np.linspace(0, 1, 100)
        page = opened(heat(values))
        stage = page.locator(".heat-stage")
        box = stage.bounding_box()
        note = page.locator(".fig-note")
        width = page.evaluate("document.querySelector('.heat-stage canvas').width")
        assert "Drag sideways" in readout(page)
        # When somebody draws sideways over a part of it.
        page.mouse.move(box["x"] + width * 0.4, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + width * 0.6, box["y"] + 22, steps=4)
        page.mouse.up()
        settled(page)
        # Then it fills the figure, nothing is selected, and the address leads back to it.
        said = note.inner_text()
        assert "of 0 to 990" in said
        assert page.evaluate("gm.selection") == {"layer": None, "step": None}
        assert "zoom=heat" in page.url
        low = page.evaluate("Number(gm.zoom.view[2])")
        assert 200 < low < 600
        page.goto("about:blank")
        page = opened(heat(values), fragment="#zoom=heat~0~5~395~595")
        assert "400 to 590 of 0 to 990" in note.inner_text()
        # Keys part it further, carry it along with the cursor and show all again.
        page.locator(".heat-stage").focus()
        page.keyboard.press("x")
        settled(page)
        assert "450 to 540 of 0 to 990" in note.inner_text()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("End")
        settled(page)
        assert "900 to 990 of 0 to 990" in note.inner_text()
        page.keyboard.press("Shift+X")
        page.keyboard.press("0")
        settled(page)
        assert note.inner_text() == ""
        assert "#zoom" not in page.url

    def test_a_zoom_that_makes_no_sense_shows_all(self, opened: Any) -> None:
        for words in ("heat~0~5~9~x", "heat~9~1~500~-500", "nothing~1~2", "heat~~~"):
            page = opened(heat(np.ones((5, 9))), fragment=f"#zoom={words}")
            settled(page)
            assert page.locator(".heat-stage").is_visible()
            page.goto("about:blank")

    def test_ten_thousand_rows_hide_nothing_that_stands_out(self, opened: Any) -> None:
        # Given one infinite cell and one far off among two million.
        values = np.random.default_rng(0).normal(size=(10_000, 200)) * 0.05
        values[1234, 50], values[7777, 100], values[0, 0], values[1, 0] = np.inf, 9.0, 10.0, -10.0
        page = opened(heat(values))
        # When drawn, twenty rows share a pixel; then both are seen, and read out where they are.
        assert pixel(page, 1234, 50) == (232, 23, 93)
        assert pixel(page, 7777, 100) == pytest.approx(colour_of(19 / 20), abs=2)
        point_at(page, 7777, 100)
        assert "block.7777" in readout(page) and "9 units" in readout(page)
        assert "up to 23 × 1 cells" in page.locator(".fig-note").inner_text()

    def test_a_quantity_can_be_chosen(self, opened: Any) -> None:
        choices = [("heat", "Gradient"), ("other", "Updates")]
        first = heat([[1.0, 2.0]], choices=choices)
        other = heat([[3.0, 4.0]], id="other", title="Updates", choices=choices)
        page = opened(first, other, shown=["heat"])
        page.get_by_role("tab", name="Updates").click()
        point_at(page, 0, 1)
        assert "4 units" in readout(page)
        assert "Updates" in page.locator("figcaption").inner_text()
        assert page.get_by_role("tab", name="Updates").get_attribute("aria-selected") == "true"
        page.get_by_role("tab", name="Updates").press("ArrowLeft")
        settled(page)
        point_at(page, 0, 1)
        assert "2 units" in readout(page)

    def test_many_choices_are_a_list(self, opened: Any) -> None:
        choices = [(f"h{i}", f"Layer {i}") for i in range(12)]
        page = opened(
            *(heat([[float(i)]], id=f"h{i}", choices=choices) for i in range(12)), shown=["h0"]
        )
        page.locator("select").select_option("h7")
        point_at(page, 0, 0)
        assert "7 units" in readout(page, "h0")
        assert page.locator("select").input_value() == "h7"

    def test_layers_along_x(self, opened: Any) -> None:
        names = ["first", "second"]
        page = opened(
            heat(
                [[0.25, 0.5], [0.75, 0.5]],
                rows=["2^0", "2^-1"],
                layers=names,
                categories=names,
                across=True,
                x=Axis(label="layer"),
                colour=Axis(label="share", percent=True),
            )
        )
        point_at(page, 1, 0, click=True)
        assert "2⁻¹" in readout(page) and "first" in readout(page) and "75 %" in readout(page)
        assert page.evaluate("gm.selection") == {"layer": "first", "step": None}

    def test_the_least_and_the_worst(self, opened: Any) -> None:
        worst = [
            ([[0.25]], "0.25 units"),
            ([[1.0, 2.0, 3.0]], "1 units"),
            (np.full((3, 4), np.nan), "not measured"),
            (np.full((3, 4), -2.0), "−2 units"),
            (np.full((3, 4), np.inf), "+inf"),
        ]
        page = opened(*(heat(values, id=f"h{i}") for i, (values, _) in enumerate(worst)))
        for i, (_, words) in enumerate(worst):
            page.locator(f"#fig-h{i} .heat-stage").focus()
            page.keyboard.press("Home")
            settled(page)
            assert words in readout(page, f"h{i}")
        assert page.locator(".fig-problem").count() == 0

    def test_no_cells_at_all(self, opened: Any) -> None:
        page = opened(heat(np.zeros((2, 0))), heat(np.zeros((0, 0)), id="none"))
        assert page.locator(".fig-problem").count() == 0


class TestLines:
    def test_a_line_is_drawn_in_its_colour(self, opened: Any) -> None:
        page = opened(lines(line(np.full(50, 2.0), role="loss")))
        seen = page.evaluate(
            """() => {
              const canvas = document.querySelector('.fig-panel canvas');
              const {width, height} = canvas;
              const {data} = canvas.getContext('2d').getImageData(0, 0, width, height);
              let count = 0;
              for (let i = 0; i < data.length; i += 4)
                if (data[i] === 0 && data[i + 1] === 0x67 && data[i + 2] === 0xa8) count += 1;
              return count / width;
            }"""
        )
        assert 1 < seen < 4  # a level line, two pixels thick

    def test_pointing_reads_values_with_units_and_spread(self, opened: Any) -> None:
        values = np.linspace(3, 1, 101)
        page = opened(lines(line(values, low=values - 0.5, high=values + 0.5)))
        box = page.locator(".fig-plot").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
        settled(page)
        assert "optimizer step 500" in readout(page, "lines")
        assert "2 nats (1.5 to 2.5)" in readout(page, "lines")

    def test_drag_zooms_and_a_double_click_shows_all(self, opened: Any) -> None:
        page = opened(
            lines(
                line(np.arange(101.0)),
                line(np.arange(101.0), "norm", panel=1),
                panels=[Axis(label="loss"), Axis(label="norm", log=True)],
            )
        )
        boxes = [page.locator(".fig-plot").nth(panel).bounding_box() for panel in (0, 1)]
        box = boxes[0]
        page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 30, steps=5)
        page.mouse.up()
        settled(page)
        # Both panels show steps 200 to 400, so their middle is 300.
        for panel in boxes:
            page.mouse.move(panel["x"] + panel["width"] / 2, panel["y"] + 30)
            settled(page)
            assert "optimizer step 300" in readout(page, "lines")
        page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + 30)
        page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + 30)
        settled(page)
        assert "optimizer step 500" in readout(page, "lines")

    def test_keys_move_zoom_and_select(self, opened: Any) -> None:
        page = opened(lines(line(np.arange(101.0), layer="a.b")))
        page.locator(".fig-stage").focus()
        page.keyboard.press("Home")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        until(page, "document.querySelector('.unseen').textContent.includes('3 nats')")
        assert "optimizer step 30" in readout(page, "lines")
        page.keyboard.press("Enter")
        assert page.evaluate("gm.selection") == {"layer": "a.b", "step": 30}
        page.keyboard.press("+")
        page.keyboard.press("0")

    def test_a_click_selects_the_step_and_the_nearest_line(self, opened: Any) -> None:
        page = opened(
            lines(
                line(np.full(11, 0.0), "low", layer="low"),
                line(np.full(11, 9.0), "high", layer="up.high"),
            )
        )
        box = page.locator(".fig-plot").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + 25)
        assert page.evaluate("gm.selection") == {"layer": "up.high", "step": 70}

    def test_of_a_thousand_lines_the_nearest_is_named(self, opened: Any) -> None:
        # Given a thousand level lines.
        many = [line(np.full(50, float(i)), f"block.{i}", layer=f"block.{i}") for i in range(1000)]
        page = opened(lines(*many, panels=[Axis(label="norm", lo=0.0, hi=1000.0)]))
        assert "1,000 lines" in page.locator(".fig-legend").inner_text()
        # When the pointer is at 3/4 of the height, then a line near 250 is named.
        box = page.locator(".fig-plot").bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + box["height"] * 0.75)
        settled(page)
        found = re.search(r"block\.(\d+)", readout(page, "lines"))
        assert found is not None and abs(int(found[1]) - 250) < 8

    def test_one_thing_in_two_panels_has_one_colour(self, opened: Any) -> None:
        panels = [Axis(label="radius"), Axis(label="gate")]
        series = [line([1, 2], name, panel=i) for i in range(2) for name in ("rnn.0", "rnn.1")]
        page = opened(lines(*series, panels=panels))
        assert page.locator(".fig-legend .key").all_inner_texts() == ["rnn.0", "rnn.1"]
        head = downloaded(page, "CSV", "lines").decode().splitlines()[0]
        assert head.count("rnn.0") == 2 and "rnn.0, gate" in head

    def test_layers_over_depth(self, opened: Any) -> None:
        names = [f"encoder.layers.{i}.linear" for i in range(40)]
        page = opened(
            lines(
                line(10.0 ** -np.arange(40)),
                at=np.arange(40),
                x=Axis(label="layer"),
                panels=[Axis(label="rms", log=True)],
                categories=names,
                layers=names,
            )
        )
        page.locator(".fig-stage").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        settled(page)
        assert names[1] in readout(page, "lines") and "0.1" in readout(page, "lines")
        page.keyboard.press("Enter")
        assert page.evaluate("gm.selection") == {"layer": names[1], "step": None}

    def test_signs_of_one_place_are_one_with_a_count(self, opened: Any) -> None:
        marks = [Mark(x=500.0, kind="spike", text=f"Spike {i}") for i in range(5)]
        marks.append(Mark(x=501.0, kind="finding", text="Exploding"))
        marks.append(Mark(x=900.0, kind="cleared", text="Gone", layer="a"))
        page = opened(lines(line(np.arange(101.0)), marks=marks))
        signs = page.locator(".sign")
        assert signs.count() == 2
        assert signs.nth(0).inner_text() == "6"
        signs.nth(1).hover()
        settled(page)
        assert "cleared: Gone" in readout(page, "lines")
        signs.nth(1).click()
        assert page.evaluate("gm.selection") == {"layer": "a", "step": 900}
        legend = page.locator(".fig-legend").inner_text()
        assert all(kind in legend for kind in ("spike", "finding", "cleared"))

    def test_the_least_and_the_worst(self, opened: Any) -> None:
        worst: list[Any] = [[], [2.0], [np.nan]]
        worst += [np.full(20, value) for value in (np.nan, np.inf, 0.0)]
        page = opened(
            *(
                lines(line(values), id=f"l{i}{log}", panels=[Axis(label="loss", log=log)])
                for i, values in enumerate(worst)
                for log in (False, True)
            )
        )
        assert page.locator(".fig-problem").count() == 0
        drawn = page.evaluate("[...gm.figures.values()].map((one) => one.handle.svg())")
        assert len(drawn) == 12 and all("NaN" not in one for one in drawn)


class TestSelection:
    def test_goes_through_figures_tables_and_the_address(self, opened: Any) -> None:
        # Given two figures and a table of layers.
        html = '<p data-layer="block.1" tabindex="0">one</p><p data-layer="block.10">ten</p>'
        page = opened(heat(np.arange(8.0).reshape(4, 2)), lines(line([1, 2, 3])), html=html)
        # When a cell is clicked, then all show it and the address holds it.
        point_at(page, 1, 1, click=True)
        assert page.locator("p.selected").all_inner_texts() == ["one"]
        assert page.locator("p.selected").get_attribute("aria-current") == "true"
        assert page.url.endswith("#layer=block.1&step=10")
        assert "block.1 at step 10" in page.locator("#selection").inner_text()
        # And a fresh page at this address too.
        page.reload()
        until(page, "gm.selection.layer === 'block.1' && gm.selection.step === 10")
        assert page.locator("p.selected").count() == 1
        page.keyboard.press("Escape")
        assert page.evaluate("gm.selection") == {"layer": None, "step": None}
        assert "#" not in page.url

    def test_a_container_holds_what_is_in_it(self, opened: Any) -> None:
        html = "".join(f'<p data-layer="{name}">{name}</p>' for name in ("a", "a.b", "a.b.c", "ab"))
        page = opened(heat([[1.0]]), html=html)
        page.locator("p").filter(has_text=re.compile(r"^a\.b$")).click()
        assert page.locator("p.selected").all_inner_texts() == ["a.b", "a.b.c"]

    def test_enter_and_the_address_select(self, opened: Any) -> None:
        page = opened(heat([[1.0]]), html='<p data-layer="x" tabindex="0">x</p>')
        page.locator("p[data-layer]").press("Enter")
        assert page.evaluate("gm.selection.layer") == "x"
        page.evaluate("location.hash = 'layer=block.0&step=5'")
        until(page, "gm.selection.layer === 'block.0' && gm.selection.step === 5")

    def test_the_selected_are_seen_in_a_picture(self, opened: Any) -> None:
        page = opened(heat(np.zeros((30, 3))))
        blank = (
            "document.querySelector('.heat-stage .fig-overlay').getContext('2d')"
            ".getImageData(0, 0, 1000, 400).data.some((one) => one)"
        )
        assert not page.evaluate(blank)
        page.evaluate("gm.select({layer: 'block.3'})")
        assert page.evaluate(blank)


class TestAroundThePage:
    def test_search_finds_layers_of_figures(self, opened: Any) -> None:
        page = opened(heat(np.zeros((30, 3))))
        page.keyboard.press("/")
        page.keyboard.type("block.2")
        assert page.locator("#layers option").count() == 11
        page.keyboard.press("Enter")
        assert page.evaluate("gm.selection.layer") == "block.2"
        page.locator("#search").fill("nowhere")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('.unseen').textContent.includes('nowhere')")

    def test_search_finds_layers_of_figures_nobody_has_seen(
        self, page: Any, tmp_path: Path
    ) -> None:
        # Given figures far below what is in view, with layers of rows and of lines.
        below = [heat(np.zeros((3, 2))), lines(line([1, 2], "deep", layer="deep.down"))]
        inner = '<div style="height:9000px"></div>' + "".join(place(one.id) for one in below)
        path = tmp_path / "page.html"
        path.write_text(document("T", [Section(id="s", title="", html=inner)], figures=below))
        page.goto(f"file://{path}")
        # When something is searched for, then their layers are offered and nothing is drawn.
        page.keyboard.press("/")
        until(page, "document.querySelectorAll('#layers option').length === 4")
        page.keyboard.type("down")
        page.keyboard.press("Enter")
        assert page.evaluate("gm.selection.layer") == "deep.down"
        assert page.locator(".fig.drawn").count() == 0

    def test_keys_are_told(self, opened: Any) -> None:
        page = opened(heat([[1.0]]))
        page.keyboard.press("?")
        assert page.locator("dialog.keys").is_visible()
        page.get_by_text("Close").click()
        assert not page.locator("dialog.keys").is_visible()

    def test_the_theme_is_kept(self, opened: Any) -> None:
        page = opened(heat(np.eye(3), centre=0.5))
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator("#theme").click()
        page.locator("#theme").click()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        page.reload()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"

    def test_figures_are_drawn_when_near_and_all_for_print(self, page: Any, tmp_path: Path) -> None:
        figures = [heat([[1.0]], id=f"f{i}") for i in range(3)]
        gap = '<div style="height:4000px"></div>'
        inner = gap.join(place(one.id) for one in figures)
        path = tmp_path / "page.html"
        path.write_text(document("T", [Section(id="s", title="", html=inner)], figures=figures))
        page.goto(f"file://{path}")
        page.wait_for_selector("#fig-f0.drawn")
        assert page.locator(".fig.drawn").count() == 1
        page.locator("#fig-f1").scroll_into_view_if_needed()
        page.wait_for_selector("#fig-f1.drawn")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator(".fig.drawn").count() == 3

    def test_a_phone_shows_all_within_its_width(self, opened: Any, page: Any) -> None:
        page.set_viewport_size({"width": 390, "height": 800})
        opened(heat(np.random.default_rng(0).normal(size=(40, 50))), lines(line(np.arange(30.0))))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

    def test_another_width_draws_again(self, opened: Any, page: Any) -> None:
        opened(heat(np.eye(3)))
        page.set_viewport_size({"width": 600, "height": 800})
        until(page, "document.querySelector('.heat-stage canvas').clientWidth < 600")
        assert pixel(page, 1, 1) == colour_of(1)


class TestFiles:
    def test_tables_hold_the_numbers(self, opened: Any) -> None:
        page = opened(heat([[1.5, np.nan], [-2.0, np.inf]]))
        page.locator("summary").click()
        page.wait_for_selector(".fig-scroll table")
        cells = page.locator(".fig-scroll tbody tr").all_inner_texts()
        assert [one.split() for one in cells] == [
            ["block.0", "1.5", "–"],
            ["block.1", "−2.0", "+inf"],
        ]
        page.locator(".fig-scroll tbody tr").nth(1).click()
        assert page.evaluate("gm.selection.layer") == "block.1"

    def test_a_long_table_says_where_it_is_cut(self, opened: Any) -> None:
        page = opened(lines(line(np.arange(5000.0))))
        page.locator("summary").click()
        page.wait_for_selector(".fig-scroll table")
        assert page.locator(".fig-scroll tbody tr").count() == 2000
        assert "the first 2,000 of 5,000 rows" in page.locator("details").inner_text()

    def test_csv_holds_all_numbers(self, opened: Any) -> None:
        values = np.random.default_rng(0).normal(size=(3, 4))
        values[1, 2], values[2, 3] = np.nan, -np.inf
        page = opened(heat(values))
        rows = list(csv.reader(downloaded(page, "CSV").decode().splitlines()))
        assert rows[0][1:] == ["0", "10", "20", "30"]
        assert [row[0] for row in rows[1:]] == ["block.0", "block.1", "block.2"]
        told = np.array([[float(cell or "nan") for cell in row[1:]] for row in rows[1:]])
        np.testing.assert_allclose(told, values, atol=1e-4)

    def test_csv_of_lines(self, opened: Any) -> None:
        page = opened(
            lines(line([0.1, 0.25], low=np.array([0.0, 0.2])), line([5.0, np.nan], "b, c"))
        )
        rows = list(csv.reader(downloaded(page, "CSV", "lines").decode().splitlines()))
        assert rows[0] == ["optimizer step", "loss (nats)", "loss least (nats)", "b, c (nats)"]
        assert rows[1:] == [["0", "0.1", "0", "5"], ["10", "0.25", "0.2", ""]]

    def test_json_holds_the_figure(self, opened: Any) -> None:
        page = opened(heat([[1.0, np.nan], [np.inf, 3.0]]))
        told = json.loads(downloaded(page, "JSON"))
        assert told["values"] == [[1.0, None], ["inf", 3.0]]
        assert told["at"] == [0, 10] and told["rows"] == ["block.0", "block.1"]

    @pytest.mark.parametrize("kind", ["heat", "lines"])
    def test_pictures(self, opened: Any, kind: str) -> None:
        marks = [Mark(x=10.0, kind="spike", text="A spike")]
        figure: Heat | Lines = heat(np.eye(4), marks=marks)
        if kind == "lines":
            values = np.linspace(0, 1, 20)
            figure = lines(
                line(values, low=values - 1, high=values + 1, layer=HOSTILE),
                line(values, HOSTILE),
                marks=marks,
                levels=[Level(y=0.5, text="half")],
            )
        page = opened(figure)
        drawn = ET.fromstring(downloaded(page, "SVG", kind).decode())
        words = "".join(drawn.itertext())
        assert figure.title in words and "optimizer step" in words and "spike" in words
        assert len(drawn.findall(".//{*}polyline")) > 2
        png = downloaded(page, "PNG", kind)
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(png[16:20], "big") == 2 * round(float(drawn.get("width", "0")))
        assert len(png) > 5000

    def test_a_link_leads_to_the_figure(self, opened: Any) -> None:
        page = opened(heat(np.eye(4)))
        page.evaluate("gm.select({layer: 'block.2', step: 20})")
        page.evaluate(
            "navigator.clipboard.writeText = (text) =>"
            " { window.copied = text; return Promise.resolve(); }"
        )
        page.locator(".fig-buttons").get_by_text("Link").click()
        assert page.evaluate("copied").endswith("#figure=heat&layer=block.2&step=20")


class TestFromAServer:
    URL = "http://gradmend.test/run/one"

    def serve(self, page: Any, figures: dict[str, Any]) -> None:
        html = document("T", [Section(id="s", title="", html=place("heat"))], source="/run/one")

        def answer(route: Any) -> None:
            name = route.request.url.removeprefix(self.URL)
            if name == "":
                route.fulfill(body=html, content_type="text/html")
            elif name == "/figure/heat.json" and figures["heat"] is not None:
                body = json.dumps(figures["heat"].plain())
                route.fulfill(body=body, content_type="application/json")
            else:
                route.fulfill(status=503, body="")

        page.route("http://gradmend.test/**", answer)
        page.goto(self.URL)

    def test_figures_are_fetched_and_fetched_again(self, page: Any) -> None:
        figures: dict[str, Any] = {"heat": heat([[1.0, 2.0]])}
        self.serve(page, figures)
        page.wait_for_selector(".fig.drawn")
        figures["heat"] = heat([[1.0, 2.0, 3.0]])
        page.evaluate("gm.refetch(['heat', 'unknown'])")
        point_at(page, 0, 2)
        assert "3 units" in readout(page)

    def test_a_cursor_stays_when_numbers_come(self, page: Any) -> None:
        figures: dict[str, Any] = {"heat": heat([[1.0, 2.0]])}
        self.serve(page, figures)
        page.wait_for_selector(".fig.drawn")
        page.locator(".heat-stage").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        figures["heat"] = heat([[1.0, 5.0, 3.0]])
        page.evaluate("gm.refetch(['heat'])")
        settled(page)
        assert "5 units" in readout(page)

    def test_a_zoom_stays_when_numbers_come(self, page: Any) -> None:
        # Given a heat map zoomed to a quarter of its rows.
        figures: dict[str, Any] = {"heat": heat(np.zeros((40, 2)))}
        self.serve(page, figures)
        page.wait_for_selector(".fig.drawn")
        page.locator(".heat-stage").focus()
        page.keyboard.press("+")
        page.keyboard.press("+")
        settled(page)
        assert "Rows 16 to 25 of 40" in page.locator(".fig-note").inner_text()
        # When it comes with more rows, then the same are in view.
        figures["heat"] = heat(np.zeros((44, 3)))
        page.evaluate("gm.refetch(['heat'])")
        settled(page)
        assert "Rows 16 to 25 of 44" in page.locator(".fig-note").inner_text()

    def test_a_failure_is_a_sentence_and_passes(self, page: Any) -> None:
        figures: dict[str, Any] = {"heat": None}
        self.serve(page, figures)
        page.wait_for_selector(".fig-problem")
        assert (
            "could not be drawn: the server answered 503"
            in page.locator(".fig-problem").inner_text()
        )
        figures["heat"] = heat([[1.0, 2.0]])
        page.evaluate("gm.refetch(['heat'])")
        page.wait_for_selector(".fig.drawn")
        assert page.locator(".fig-problem").is_hidden()


class TestHostileNames:
    def test_nothing_of_them_runs(self, opened: Any) -> None:
        # Given names that would be markup, reorder text, or be ten thousand letters long.
        names = [HOSTILE, "=cmd|' /C calc'!A0", "x" * 10_000, "a.b"]
        first = heat(
            np.eye(4),
            rows=names,
            layers=names,
            title=HOSTILE,
            caption=HOSTILE,
            words=HOSTILE,
            marks=[Mark(x=0.0, kind=HOSTILE, text=HOSTILE, layer=HOSTILE)],
            choices=[("heat", HOSTILE), ("heat", "b")],
            levels=[Level(y=0.5, text=HOSTILE)],
        )
        second = lines(
            *(line(np.arange(4.0), name, layer=name) for name in names),
            title=HOSTILE,
            marks=first.marks,
            levels=first.levels,
            panels=[Axis(label=HOSTILE, unit=HOSTILE)],
        )
        page = opened(first, second)
        # When they are pointed at, selected, listed and downloaded.
        point_at(page, 0, 0, click=True)
        assert page.evaluate("gm.selection.layer") == visible(HOSTILE)
        page.locator("#fig-lines .fig-stage").focus()
        page.keyboard.press("ArrowRight")
        for summary in page.locator("summary").all():
            summary.click()
        settled(page)
        page.keyboard.press("/")
        rows = downloaded(page, "CSV").decode()
        page.reload()
        # Then nothing ran, nothing was added, and no letter without a glyph is shown.
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        assert "\u202e" not in page.locator("main").inner_text()
        assert "\n'=cmd" in rows

    def test_wide_names_leave_the_page_as_wide_as_it_was(self, opened: Any, page: Any) -> None:
        page.set_viewport_size({"width": 390, "height": 800})
        name = "x" * 10_000
        long = heat(np.eye(2), rows=[name, "b"], layers=[name, "b"])
        opened(long, lines(line([1, 2], name, layer=name), line([2, 1], "b")))
        page.evaluate("(layer) => gm.select({layer})", name)
        point_at(page, 0, 0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_accessible(opened: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    values = np.random.default_rng(0).normal(size=(30, 40))
    choices = [("heat", "Gradient"), ("other", "Updates")]
    marks = [Mark(x=100.0, kind="spike", text="A spike")]
    first = heat(values, choices=choices, marks=marks)
    page = opened(
        first,
        replace(first, id="other"),
        lines(line(values[0], layer="a"), line(values[1], "b", layer="b"), marks=marks),
        shown=["heat", "lines"],
    )
    for summary in page.locator("summary").all():
        summary.click()
    page.evaluate("gm.select({layer: 'block.3', step: 100})")
    settled(page)
    found = axe.Axe().run(page).response["violations"]
    mine = [one for one in found if any(".fig" in str(node["target"]) for node in one["nodes"])]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in mine] == []
