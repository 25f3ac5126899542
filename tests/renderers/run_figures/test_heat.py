"""Heat maps: the numbers of the store, in forward order."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradmend.records.history import Column, Event, History
from gradmend.renderers.run_figures.heat import MAPS, gapless
from gradmend.store.reader import RunReader

BY_ID = {each.id: each for each in MAPS}


@pytest.mark.parametrize("each", MAPS, ids=lambda each: each.id)
def test_cells_are_the_profiles_at_their_steps(runs: ModuleType, disk: Any, each: Any) -> None:
    reader: RunReader = disk(runs.run(60, lost=1.0))
    figure = each(reader)
    assert figure is not None
    for at, step in enumerate(figure.at):
        told = reader.profile(each.table, each.quantity, int(step))
        assert np.array_equal(figure.values[:, at], told)
    columns = reader.table_columns(each.table)
    assert figure.rows == tuple(column.name for column in columns)
    assert figure.layers == tuple(column.module for column in columns)
    assert "several steps" not in figure.caption


def test_rows_are_in_forward_order(runs: ModuleType, disk: Any) -> None:
    # given columns declared in another order than the one they run in, one of them unknown
    columns = [
        Column(name="c", module="c", order=2),
        Column(name="a", module="a", order=0),
        Column(name="b", module="b"),
    ]
    values = {"log10_rms": np.array([[3.0, 1.0, 2.0]])}
    history = History(tables={"gradient": runs.table("gradient", columns, [0], values)})
    figure = BY_ID["heat-gradient"](disk(history))
    assert figure is not None
    assert dict(zip(figure.rows, figure.values[:, 0], strict=True)) == {"c": 3, "a": 1, "b": 2}
    assert figure.rows == ("a", "c", "b")


def test_steps_whose_gradients_are_not_finite_are_there(runs: ModuleType, disk: Any) -> None:
    # given two steps of numbers, one of NaN without a size, and one at which nothing was measured
    columns = [Column(name="a", module="a", order=0), Column(name="b", module="b", order=1)]
    values = {
        "log10_rms": np.array([[1.0, 2.0], [1.5, 2.5], [np.nan, 3.0], [np.nan, np.nan]]),
        "non_finite": np.array([[0.0, 0.0], [0.0, 0.0], [4.0, 0.0], [0.0, 0.0]]),
    }
    history = History(tables={"gradient": runs.table("gradient", columns, [0, 1, 3, 5], values)})
    # when
    figure = BY_ID["heat-gradient"](disk(history))
    # then
    assert figure is not None
    assert figure.at.tolist() == [0, 1, 3]
    assert figure.values.tolist() == [[1.0, 1.5, np.inf], [2.0, 2.5, 3.0]]
    assert "held NaN or infinity" in figure.caption


def test_rows_that_were_never_measured(runs: ModuleType, disk: Any) -> None:
    # given a parameter that never got a gradient, and a module that is no activation
    history = runs.run(10)
    gradient, output = history["gradient"], history["output"]
    rms = gradient["log10_rms"].copy()
    flat = output["flat_share"].copy()
    rms[:, 1] = flat[:, 1] = np.nan
    tables = {
        "gradient": replace(gradient, values={"log10_rms": rms}),
        "output": replace(output, values={"flat_share": flat}),
    }
    reader = disk(replace(history, tables=tables))
    # then the one is an empty row, and the other no row
    figure = BY_ID["heat-gradient"](reader)
    assert figure is not None and np.isnan(figure.values[1]).all() and len(figure.rows) == 3
    figure = BY_ID["heat-flat"](reader)
    assert figure is not None and figure.rows == ("layers.0", "layers.2")


def test_exact_zeros_stay_apart_from_what_is_not_measured(runs: ModuleType, disk: Any) -> None:
    history = runs.run(3)
    rms = np.array([[-np.inf, np.nan, -2.0]] * 3)
    table = replace(history["gradient"], values={"log10_rms": rms})
    figure = BY_ID["heat-gradient"](disk(replace(history, tables={"gradient": table})))
    assert figure is not None
    assert np.array_equal(figure.values, rms.T, equal_nan=True)
    assert figure.words.endswith("All finite values are -2 decades. 3 of 9 are of exactly zero.")


def test_a_long_run_is_pooled_and_says_so(runs: ModuleType, disk: Any) -> None:
    # given more steps than columns, every value its own step
    columns = runs.parameters(["a"])
    steps = np.arange(5000)
    values = {"log10_rms": steps[:, None].astype(float)}
    history = History(tables={"gradient": runs.table("gradient", columns, steps, values)})
    figure = BY_ID["heat-gradient"](disk(history))
    assert figure is not None
    assert 600 < len(figure.at) <= 2000
    assert "several steps (means)" in figure.caption
    # then each column is the mean of steps around it
    assert figure.values[0] == pytest.approx(figure.at, abs=3)


def test_rows_that_are_measured_in_turns_make_no_stripes(runs: ModuleType, disk: Any) -> None:
    # given three steps of one optimizer for each of the other, and a row that ended early
    columns = runs.parameters(["d", "g", "ended"])
    steps = np.arange(400)
    values = np.tile(steps[:, None].astype(float), (1, 3))
    values[:, 1][steps % 3 != 0] = np.nan
    values[10:, 2] = np.nan
    table = runs.table("gradient", columns, steps, {"log10_rms": values})
    figure = BY_ID["heat-gradient"](disk(History(tables={"gradient": table})))
    assert figure is not None
    # then neighbouring steps share a column, in which both were measured
    assert 100 <= len(figure.at) <= 150 and figure.at[0] == 0 and figure.at[-1] == 399
    assert not np.isnan(figure.values[:2]).any()
    assert figure.values[0][1:-1] == pytest.approx(figure.at[1:-1], abs=1)
    assert np.isnan(figure.values[2, 6:]).all()
    assert "several steps" in figure.caption
    # but a hole or two is no reason
    steps, cells = np.arange(50), np.ones((50, 1))
    cells[20] = np.nan
    assert gapless(steps, cells)[0] is steps


def test_marks_are_those_of_layers(runs: ModuleType, disk: Any) -> None:
    events = [
        Event(step=1, kind="look"),
        Event(step=2, kind="finding-begins", where="layers.0", text="t", facts={"name": "n"}),
    ]
    figure = BY_ID["heat-gradient"](disk(runs.run(5, events=events)))
    assert figure is not None
    assert [(mark.kind, mark.layer) for mark in figure.marks] == [("finding", "layers.0")]
