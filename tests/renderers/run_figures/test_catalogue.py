"""Every figure on every kind of run: it is built, or it is not there, and JSON can hold it."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradmend.errors import BadInput, UnknownName
from gradmend.records.exponents import Exponents
from gradmend.records.history import TABLES, Column, Event, History, RunFacts
from gradmend.renderers.page.figure import Figure, Heat, Lines
from gradmend.renderers.run_figures import catalogue
from gradmend.store.reader import RunReader, open_run
from gradmend.store.writer import RunWriter

HOSTILE = ("</script><img src=x onerror=alert(1)>", "\u202eevil\u202c", "a" * 10_000, "q\"uo'te&")


def every(reader: RunReader) -> dict[str, Figure]:
    """All figures; each must stand in the run if it is said to, and be sound."""
    found: dict[str, Figure] = {}
    for section, ids in catalogue.figures(reader).items():
        for name in ids:
            figure = catalogue.build(reader, name)
            assert figure is not None, name
            sound(figure)
            assert figure.id == name
            entry = next(entry for entry in catalogue.CATALOGUE if entry.id == name)
            assert (entry.section, entry.title) == (section, figure.title)
            found[name] = figure
    return found


def sound(figure: Figure) -> None:
    """Shapes fit, places ascend, words and units are there."""
    json.dumps(figure.plain(), allow_nan=False)
    assert figure.title and figure.caption.endswith(".") and figure.words.endswith(".")
    assert "\n" not in figure.title
    assert (np.diff(figure.at) > 0).all()
    if isinstance(figure, Heat):
        assert figure.values.shape == (len(figure.rows), len(figure.at))
        assert len(figure.layers) in (0, len(figure.at if figure.across else figure.rows))
        assert len(figure.rows) <= 2000 and len(figure.at) <= 2000
        assert not np.isnan(figure.values).all()
        return
    assert figure.series and figure.panels
    for series in figure.series:
        assert series.values.shape == figure.at.shape
        assert 0 <= series.panel < len(figure.panels)
        assert not np.isnan(series.values).all()
        if series.low is not None and series.high is not None:
            known = ~np.isnan(series.values)
            assert (series.low[known] <= series.values[known]).all()
            assert (series.values[known] <= series.high[known]).all()
    assert {series.panel for series in figure.series} == set(range(len(figure.panels)))
    assert all(0 <= level.panel < len(figure.panels) for level in figure.levels)
    assert len(figure.categories) in (0, len(figure.at))
    assert len(figure.layers) in (0, len(figure.at))
    assert len(figure.marks) <= 200


BINS = {3: {0: Exponents(counts={-30: 5, -10: 15}), 2: Exponents(counts={-9: 4}, stride=8)}}


def test_a_run_with_everything(runs: ModuleType, disk: Any) -> None:
    reader = disk(runs.run(clip=True), BINS, "both")
    found = every(reader)
    assert list(found) == [entry.id for entry in catalogue.CATALOGUE]
    assert catalogue.figures(reader)["histograms"] == (
        "hist-gradient-depth", "hist-gradient-time", "hist-output-depth", "hist-output-time",
    )  # fmt: skip
    sections = list(catalogue.figures(reader))
    assert sections == ["heat", "histograms", "ratio", "training", "books", "depth", "time",
                        "attention"]  # fmt: skip


def test_figures_that_share_a_place(runs: ModuleType, disk: Any) -> None:
    # given a run whose outputs were never measured
    history = runs.run()
    tables = {name: t for name, t in history.tables.items() if name != "output"}
    reader = disk(replace(history, tables=tables))
    # then the place shows the first, and offers those that are there
    assert catalogue.places(reader)["heat"] == ("heat-gradient",)
    figure = catalogue.build(reader, "heat-gradient")
    assert isinstance(figure, Heat)
    assert [name for name, _ in figure.choices] == ["heat-gradient", "heat-ratio", "heat-unchanged"]
    assert [label for _, label in figure.choices] == ["gradient", "update / weight",
                                                      "unchanged weights"]  # fmt: skip
    # and without histograms or recurrence there is no section of them
    assert "histograms" not in catalogue.figures(reader)
    assert catalogue.build(reader, "hist-gradient-depth") is None
    assert catalogue.build(reader, "hist-gradient-time") is None
    assert catalogue.build(reader, "heat-dead") is None


def test_a_run_of_nothing(disk: Any, runs: ModuleType, tmp_path: Path) -> None:
    # given a run without a table, one of columns only, and one that was never flushed again
    empty = disk(History())
    columns = disk(
        History(tables={name: runs.table(name, runs.parameters(["a"]), [], {}) for name in TABLES})
    )
    for reader in (empty, columns):
        assert catalogue.figures(reader) == {} and catalogue.places(reader) == {}
        for entry in catalogue.CATALOGUE:
            assert catalogue.build(reader, entry.id) is None


def test_one_step(runs: ModuleType, disk: Any) -> None:
    found = every(disk(runs.run(1), {0: BINS[3]}, "both"))
    assert len(found) == len(catalogue.CATALOGUE)
    assert all(len(f.at) == 1 for name, f in found.items() if f.x.label == "optimizer step")


def test_one_layer(runs: ModuleType, disk: Any) -> None:
    found = every(disk(runs.run(names=("only",)), {0: {0: Exponents(counts={0: 1})}}))
    assert found["heat-gradient"].rows == ("only.weight",)
    assert found["heat-gradient"].layers == ("only",)


def test_nothing_but_nan_and_infinities(runs: ModuleType, disk: Any) -> None:
    for value in (math.nan, -math.inf, math.inf):
        history = runs.run(12)
        tables = {
            name: replace(t, values={q: np.full_like(v, value) for q, v in t.values.items()})
            for name, t in history.tables.items()
        }
        found = every(disk(replace(history, tables=tables)))
        assert bool(found) is not math.isnan(value)


def test_numbers_beyond_single_precision(runs: ModuleType, disk: Any) -> None:
    # given a norm of 1e-60 and one of 1e55
    history = runs.run(12)
    step = history["step"]
    norms = np.linspace(-60, 55, 12)[:, None]
    values = {**step.values, "log10_norm": norms, "log10_raw_norm": norms}
    tables = {**history.tables, "step": replace(step, values=values)}
    figure = every(disk(replace(history, tables=tables)))["training"]
    # then logarithms are drawn, of which none is lost
    assert isinstance(figure, Lines)
    panel = next(at for at, axis in enumerate(figure.panels) if "gradient" in axis.label)
    assert figure.panels[panel].unit == "decades" and not figure.panels[panel].log
    (line,) = [series for series in figure.series if series.panel == panel]
    assert line.values == pytest.approx(norms[:, 0], rel=1e-6)


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_carried_as_they_are(runs: ModuleType, disk: Any, text: str) -> None:
    event = Event(step=3, kind="finding-begins", where=text, text=text, facts={"name": text})
    history = runs.run(8, names=(text, f"{text}.1"), optimizer=text, events=[event])
    reader = disk(history, {2: {0: Exponents(counts={-3: 1})}})
    found = every(reader)
    assert found["heat-gradient"].layers == (text, f"{text}.1")
    assert found["heat-gradient"].rows == (f"{text}.weight", f"{text}.1.weight")
    assert found["heat-gradient"].marks[0].layer == text
    assert found["depth"].layers == (text, f"{text}.1")
    named = catalogue.build(reader, f"hist-gradient-time:{text}.weight")
    assert named is not None and named.id.endswith(f":{text}.weight")
    sound(named)


def test_ten_thousand_layers(disk: Any, runs: ModuleType) -> None:
    # given weight and bias of each of 10,000 layers over a few steps
    count = 10_000
    parameters = [
        Column(name=f"layers.{at // 2}.{kind}", module=f"layers.{at // 2}", kind=kind, order=at,
               shape=(4, 4) if kind == "weight" else (4,))
        for at in range(count) for kind in [("weight", "bias")[at % 2]]
    ]  # fmt: skip
    line = np.linspace(-90, -2, count)
    tables = {
        "gradient": runs.table("gradient", parameters, range(4), {"log10_rms": line}),
        "update": runs.table(
            "update", parameters, range(4), {"log10_ratio": line / 10, "log10_weight": -1.0}
        ),
    }
    counts = {at: Exponents(counts={int(line[at] * 3.3): 2}) for at in range(0, count, 2)}
    reader = disk(History(tables=tables), {0: counts})
    found = every(reader)
    # then neighbours share rows, in order, each with its module's path
    heat = found["heat-gradient"]
    assert len(heat.rows) == 2000 and "neighbouring layers" in heat.caption
    assert (np.diff(heat.values[:, 0]) > 0).all()
    assert heat.rows[0] == "layers.0.weight .. layers.2.bias" or " .. " in heat.rows[0]
    assert heat.layers[0] == "layers.0" and heat.layers[-1].startswith("layers.49")
    assert len(found["hist-gradient-depth"].at) == 2000
    assert len(found["depth"].at) == len(found["books"].at) == 2000
    # and no figure is too large for a page
    sizes = {name: len(json.dumps(figure.plain())) for name, figure in found.items()}
    assert sum(sizes.values()) < 3e6, sizes


def test_a_run_that_was_cut_off(runs: ModuleType, tmp_path: Path) -> None:
    # given a writer that has flushed and then says nothing more, its log still beside it
    writer = RunWriter.create(tmp_path / "run", RunFacts(name="cut"))
    history = runs.run(300)
    for name, table in history.tables.items():
        writer.columns(name, table.columns, at=0)
        for row, step in enumerate(table.steps):
            writer.append(name, int(step), {q: v[row] for q, v in table.values.items()})
    writer.flush()
    writer.append("gradient", 400, {"log10_rms": [1, 2, 3]})
    reader = open_run(tmp_path / "run")
    found = every(reader)
    assert found["heat-gradient"].at[-1] == 299
    # when the file itself is torn, it is told in one line
    writer.close()
    path = tmp_path / "run" / "rank-0.db"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    for entry in catalogue.CATALOGUE:
        try:
            catalogue.build(reader, entry.id)
        except BadInput:
            continue


def test_a_column_declared_between_two_readings(runs: ModuleType, disk: Any) -> None:
    # given a reader whose run grows by a column while a figure is built
    history = runs.run(20)
    reader = disk(history, BINS)
    known = {name: table.columns[:1] for name, table in history.tables.items()}

    class Before(RunReader):
        def table_columns(self, table: str) -> tuple[Column, ...]:
            return known.get(table, ())

    for entry in catalogue.CATALOGUE:
        figure = catalogue.build(Before(reader.folder), entry.id)  # type: ignore[arg-type]
        if figure is not None:
            sound(figure)


def test_what_is_no_figure(runs: ModuleType, disk: Any) -> None:
    reader = disk(runs.run(5), {0: {0: Exponents(counts={0: 1})}})
    for name in ("", "nonsense", "heat-gradient:3", "hist-gradient-time:99", "__class__",
                 "hist-gradient-time:-1", "hist-gradient-time:²"):  # fmt: skip
        with pytest.raises(UnknownName):
            catalogue.build(reader, name)


def test_nothing_is_unpacked_to_know_which_there_are(
    runs: ModuleType, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = disk(runs.run(clip=True), BINS, "both")

    def never(*_: object) -> None:
        raise AssertionError("a blob was unpacked")

    for place in ("points", "overview"):
        monkeypatch.setattr(f"gradmend.store.{place}.unpack", never)
    assert sum(map(len, catalogue.figures(reader).values())) == len(catalogue.CATALOGUE)


def test_damaged_numbers_are_told_in_one_line(runs: ModuleType, disk: Any) -> None:
    reader = disk(runs.run(20))
    with sqlite3.connect(reader.path) as db:
        db.execute("UPDATE part SET cells = x'00ff'")
    db.close()
    with pytest.raises(BadInput):
        catalogue.build(reader, "heat-gradient")
