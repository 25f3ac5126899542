"""Figures of recurrent layers and of attention."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from gradmend.records.recurrence import Recurrence, thinned
from gradmend.records.trace import Run, Trace
from gradmend.renderers.run_figures.attention import ENTROPY, logits
from gradmend.renderers.run_figures.through_time import over_steps, through_time_of


def test_an_lstm_over_steps(runs: ModuleType, disk: Any) -> None:
    # given an LSTM whose horizon is infinite at first, and a layer without a forget gate
    history = runs.run(20)
    table = history["recurrence"]
    values = {name: cells.copy() for name, cells in table.values.items()}
    values["horizon"][0] = np.inf
    values["forget_gate"][:, 1] = np.nan
    tables = {"recurrence": replace(table, values=values)}
    reader = disk(replace(history, tables=tables))
    figure = over_steps(reader)
    assert figure is not None
    assert [axis.unit for axis in figure.panels] == ["decades", "decades", "time steps", "", ""]
    names = [(series.panel, series.name) for series in figure.series]
    assert names == [(panel, f"layers.{at}") for panel in range(4) for at in (0, 1)] + [
        (4, "layers.0")
    ]
    gain = figure.series[0]
    steps, told = reader.series("recurrence", "log10_gain", "layers.0")
    assert figure.at.tolist() == steps.tolist() and np.array_equal(gain.values, told)
    assert math.isinf(figure.series[4].values[0])
    assert [(level.panel, level.y) for level in figure.levels] == [(0, 0), (1, 0), (3, 1)]


def test_the_gradient_at_each_time_step_of_a_look() -> None:
    # given curves of different lengths, and a layer whose curve was not kept
    def layer(name: str, logs: tuple[float, ...], **facts: Any) -> Recurrence:
        curve = thinned(logs)
        return Recurrence(name=name, kind="LSTM", steps=len(logs), log10_curve=curve, **facts)

    trace = Trace(
        run=Run(model="Net"),
        recurrences=(
            layer("a", (-4.0, -3.0, -2.0)),
            layer("b", (-math.inf, -1.0), direction="backward", layer=1),
            layer("c", ()),
        ),
    )
    figure = through_time_of(trace)
    assert figure is not None
    assert figure.at.tolist() == [1, 2, 3]
    first, second = figure.series
    assert first.values.tolist() == [-4, -3, -2] and first.layer == "a"
    assert math.isnan(second.values[0]) and second.values[1:].tolist() == [-math.inf, -1.0]
    assert second.name == "b, LSTM, layer 1, backward"
    assert through_time_of(Trace(run=Run(model="Net"))) is None
    assert through_time_of(replace(trace, recurrences=trace.recurrences[2:])) is None


def test_long_curves_of_different_lengths() -> None:
    # given straight curves of which 200 points were kept, one with zeros at its beginning
    long = [-0.01 * (1000 - t) for t in range(1, 1001)]
    short = [-math.inf] * 100 + [-0.02 * (700 - t) for t in range(101, 701)]
    records = tuple(
        Recurrence(name=name, kind="GRU", steps=len(logs), log10_curve=thinned(logs))
        for name, logs in (("long", long), ("short", short))
    )
    figure = through_time_of(Trace(run=Run(model="Net"), recurrences=records))
    # then both end together, what is between kept points lies on the line, and zeros stay zeros
    assert figure is not None and len(figure.at) == 200
    assert figure.at[0] == 1 and figure.at[-1] == 1000
    first, second = figure.series
    assert np.array_equal(first.values, np.array(long)[figure.at - 1])
    assert np.isnan(second.values[figure.at < 301]).all()
    assert np.isneginf(second.values[(figure.at >= 301) & (figure.at < 398)]).all()
    later = figure.at > 405
    expected = np.array(short)[figure.at[later] - 301]
    np.testing.assert_allclose(second.values[later], expected, atol=1e-12)
    assert "200 of 1,000 time steps are drawn" in figure.caption


def test_attention_against_the_store(runs: ModuleType, disk: Any) -> None:
    reader = disk(runs.run(20))
    heat = ENTROPY(reader)
    assert heat is not None
    for at, step in enumerate(heat.at):
        told = reader.profile("attention", "entropy", int(step))
        assert np.array_equal(heat.values[:, at], told)
    assert (heat.colour.lo, heat.colour.hi, heat.colour.percent) == (0.0, 1.0, True)
    lines = logits(reader)
    assert lines is not None
    _, told = reader.series("attention", "largest_logit", 1)
    assert np.array_equal(lines.series[1].values, told)


def test_levels_of_the_literature_only_where_near(runs: ModuleType, disk: Any) -> None:
    history = runs.run(20)
    table = history["attention"]
    for top, expected in ((3.0, []), (30.0, [100.0]), (2e3, [100.0, 1e4])):
        values = {"largest_logit": np.full((4, 2), top)}
        reader = disk(replace(history, tables={"attention": replace(table, values=values)}))
        figure = logits(reader)
        assert figure is not None and [level.y for level in figure.levels] == expected
