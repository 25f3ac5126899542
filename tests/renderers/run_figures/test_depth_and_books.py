"""Figures over depth, against profiles of the store."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradmend.renderers.run_figures.books import over_depth
from gradmend.renderers.run_figures.depth import gradient_flow


def test_gradient_flow_first_and_last(runs: ModuleType, disk: Any) -> None:
    reader = disk(runs.run(60, lost=1.5))
    figure = gradient_flow(reader)
    assert figure is not None
    first, last = figure.series
    assert first.name == "rms, first (step 0)" and last.name == "rms, last (step 59)"
    assert np.array_equal(first.values, reader.profile("gradient", "log10_rms", 0))
    assert np.array_equal(last.values, reader.profile("gradient", "log10_rms", 59))
    assert figure.layers == ("layers.0", "layers.1", "layers.2")
    assert figure.categories == tuple(f"{layer}.weight" for layer in figure.layers)


def test_one_step_is_told_once(runs: ModuleType, disk: Any) -> None:
    figure = gradient_flow(disk(runs.run(1)))
    assert figure is not None and [series.name for series in figure.series] == [
        "rms, last (step 0)"
    ]


def test_books_are_of_the_last_measured_step(runs: ModuleType, disk: Any) -> None:
    # given raw gradients at every tenth step only, and clipping that takes a decade
    history = runs.run(60)
    gradient = history["gradient"]
    raw = np.where(np.arange(60)[:, None] % 10 == 0, gradient["log10_rms"] + 1, np.nan)
    table = replace(gradient, values={**gradient.values, "log10_raw": raw})
    reader = disk(replace(history, tables={**history.tables, "gradient": table}))
    figure = over_depth(reader)
    assert figure is not None
    found = {series.name: series.values for series in figure.series}
    # then raw and handed-over gradient are of the same step
    assert "step 50" in figure.caption
    assert np.array_equal(found["raw gradient"], reader.profile("gradient", "log10_raw", 50))
    handed = found["gradient that the optimizer got"]
    assert np.array_equal(handed, reader.profile("gradient", "log10_rms", 50))
    assert found["raw gradient"] - handed == pytest.approx(np.ones(3), abs=1e-6)
    # and the update is the weights' size times its ratio
    weight = reader.profile("update", "log10_weight", 59)
    ratio = reader.profile("update", "log10_ratio", 59)
    assert np.array_equal(found["weights"], weight)
    assert np.array_equal(found["update"], weight + ratio)


def test_books_of_weights_that_are_zero(runs: ModuleType, disk: Any) -> None:
    # given zero-initialised weights: their size is none, and the change's ratio to it infinite
    history = runs.run(5)
    update = history["update"]
    values = {"log10_weight": np.full((1, 3), -np.inf), "log10_ratio": np.full((1, 3), np.inf)}
    tables = {**history.tables, "update": replace(update, values=values)}
    figure = over_depth(disk(replace(history, tables=tables)))
    assert figure is not None
    assert [series.name for series in figure.series] == [
        "gradient that the optimizer got", "weights",
    ]  # fmt: skip


def test_parameters_that_no_optimizer_holds(runs: ModuleType, disk: Any) -> None:
    # given updates of other columns than the gradients, in another order
    history = runs.run(5)
    update = history["update"]
    table = replace(
        update,
        columns=(update.columns[2], update.columns[0]),
        values={"log10_weight": np.array([[2.0, 0.0]]), "log10_ratio": np.array([[-3.0, -1.0]])},
    )
    figure = over_depth(disk(replace(history, tables={**history.tables, "update": table})))
    assert figure is not None
    found = {series.name: series.values for series in figure.series}
    assert np.array_equal(found["update"], [-1.0, np.nan, -1.0], equal_nan=True)
    assert np.array_equal(found["weights"], [0.0, np.nan, 2.0], equal_nan=True)
