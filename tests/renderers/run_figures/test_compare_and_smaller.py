"""Several runs in one figure, and heat maps in fewer cells."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradmend.errors import UnknownName
from gradmend.records.exponents import Exponents
from gradmend.records.history import History
from gradmend.renderers.page.figure import Heat
from gradmend.renderers.run_figures import catalogue
from gradmend.renderers.run_figures.compare import COMPARED, _placed, overlay
from gradmend.renderers.run_figures.smaller import smaller


@pytest.mark.parametrize("name", list(COMPARED))
def test_lines_of_several_runs(runs: ModuleType, disk: Any, name: str) -> None:
    # given runs of different lengths, and one of nothing
    readers = {"long": disk(runs.run(60)), "short": disk(runs.run(30, seed=1)),
               "empty": disk(History())}  # fmt: skip
    figure = overlay(readers, name)
    assert figure is not None and figure.id == name
    assert [series.name for series in figure.series] == ["long", "short"]
    for series in figure.series:
        known = ~np.isnan(series.values)
        reader = readers[series.name]
        if name == "compare-ratio":
            steps, cells = reader.matrix("update", "log10_ratio", 1000)
            expected = np.median(cells, axis=1)
        else:
            quantity = "loss" if name == "compare-loss" else "log10_raw_norm"
            steps, expected = reader.series("step", quantity, 0)
            expected = expected if name == "compare-loss" else 10.0**expected
        assert figure.at[known].tolist() == steps.tolist()
        assert series.values[known] == pytest.approx(expected)


def test_a_line_goes_on_between_its_own_points_and_not_beyond_them() -> None:
    at = np.arange(7)
    placed = _placed(at, np.array([1, 3, 5]), np.array([10.0, 30.0, -np.inf]))
    assert placed[1:4].tolist() == [10.0, 20.0, 30.0]
    assert placed[5] == -np.inf
    assert np.isnan(placed[[0, 6]]).all()


def test_nothing_to_compare(disk: Any) -> None:
    assert overlay({"a": disk(History())}, "compare-loss") is None
    assert overlay({}, "compare-loss") is None
    with pytest.raises(UnknownName):
        overlay({}, "loss")


def test_a_report_offers_only_what_it_holds(runs: ModuleType, disk: Any) -> None:
    # given a run whose histograms over time can be chosen by layer
    counts = {at: Exponents(counts={-at: 2}) for at in range(3)}
    reader = disk(runs.run(20), {0: counts, 9: counts})
    name = "hist-gradient-time"
    live, report = catalogue.build(reader, name), catalogue.build(reader, name, most_cells=1000)
    assert isinstance(live, Heat) and isinstance(report, Heat)
    assert len(live.choices) == 3 and report.choices == ()
    report = catalogue.build(reader, "heat-gradient", most_cells=1000)
    assert isinstance(report, Heat) and len(report.choices) == 6


def test_a_smaller_heat_map_keeps_means_order_and_layers(runs: ModuleType, disk: Any) -> None:
    # given 300 layers over 400 steps
    columns = runs.parameters([f"l.{at}" for at in range(300)])
    values = np.arange(300.0)[None, :] + np.arange(400.0)[:, None] / 1000
    tables = {"gradient": runs.table("gradient", columns, range(400), {"log10_rms": values})}
    reader = disk(History(tables=tables))
    whole = catalogue.build(reader, "heat-gradient")
    small = catalogue.build(reader, "heat-gradient", most_cells=20_000)
    assert whole is not None and small is not None
    rows, across = small.values.shape
    assert rows * across <= 20_000 and across >= 100
    assert len(small.rows) == len(small.layers) == rows and len(small.at) == across
    assert small.at[0] == 0 and small.at[-1] == 399 and (np.diff(small.at) > 0).all()
    assert small.layers[0] == "l.0" and (np.diff(small.values[:, 0]) > 0).all()
    # then the mean over equal groups is the mean of all
    assert small.values.mean() == pytest.approx(whole.values.mean(), rel=1e-2)
    assert smaller(whole, 10**6) is whole
    # and infinities and what is not measured survive where they are alone
    whole.values[:, :200] = np.nan
    whole.values[:, 200:] = -np.inf
    cells = smaller(whole, 1000).values
    assert np.isnan(cells[:, 0]).all() and (cells[:, -1] == -np.inf).all()
