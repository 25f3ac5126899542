"""Update over weight over steps, against the store."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from gradmend.records.history import Column, History
from gradmend.renderers.run_figures.ratio import over_steps


def test_lines_are_the_series(runs: ModuleType, disk: Any) -> None:
    reader = disk(runs.run(60))
    figure = over_steps(reader)
    assert figure is not None
    for at, series in enumerate(figure.series):
        steps, values = reader.series("update", "log10_ratio", at)
        assert figure.at.tolist() == steps.tolist()
        assert np.array_equal(series.values, values)
        assert (series.layer, series.role) == (f"layers.{at}", "")
    assert [(level.y, level.text) for level in figure.levels] == [
        (-3.0, "1e-3: rule of thumb, CS231n")
    ]


def test_biases_are_left_out_where_there_are_matrices(runs: ModuleType, disk: Any) -> None:
    columns = [Column(name="w", shape=(2, 2)), Column(name="b", shape=(2,))]
    table = runs.table("update", columns, [0, 1], {"log10_ratio": -3.0})
    figure = over_steps(disk(History(tables={"update": table})))
    assert figure is not None and [series.name for series in figure.series] == ["w"]
    table = runs.table("update", columns[1:], [0, 1], {"log10_ratio": -3.0})
    figure = over_steps(disk(History(tables={"update": table})))
    assert figure is not None and [series.name for series in figure.series] == ["b"]


def test_many_stand_behind_their_median(runs: ModuleType, disk: Any) -> None:
    # given 301 matrices, one of which was never measured
    columns = runs.parameters([f"l.{at}" for at in range(301)])
    values = np.tile(np.arange(301.0), (3, 1))
    values[:, 300] = np.nan
    values[1, :150] = np.nan
    table = runs.table("update", columns, range(3), {"log10_ratio": values})
    figure = over_steps(disk(History(tables={"update": table})))
    assert figure is not None
    *behind, median = figure.series
    assert len(behind) == 120 and {series.role for series in behind} == {"background"}
    assert behind[0].name == "l.0.weight" and behind[-1].name == "l.299.weight"
    assert "120 of 300 are drawn" in figure.caption
    assert median.values.tolist() == [149.0, 224.0, 149.0]
    assert median.low is not None and median.low.tolist() == [29.0, 164.0, 29.0]
    assert median.high is not None and median.high.tolist() == [269.0, 284.0, 269.0]
