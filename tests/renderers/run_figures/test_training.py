"""The training over steps, against the step table."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradmend.records.history import Column, Event, History
from gradmend.renderers.page.figure import Lines
from gradmend.renderers.run_figures.training import over_steps


def lines(figure: Lines | None) -> dict[str, Any]:
    assert figure is not None
    return {series.name: series for series in figure.series}


def test_every_panel_against_the_store(runs: ModuleType, disk: Any) -> None:
    # given a clipped run with a loss scale
    history = runs.run(40, clip=True)
    step = history["step"]
    values = {**step.values, "loss_scale": np.full((40, 1), 65536.0)}
    reader = disk(replace(history, tables={"step": replace(step, values=values)}))
    figure = over_steps(reader)
    found = lines(figure)
    assert figure is not None
    assert [axis.label for axis in figure.panels] == [
        "loss", "|gradient|", "|update|", "learning rate", "loss scale",
    ]  # fmt: skip
    _, loss = reader.series("step", "loss", 0)
    assert np.array_equal(found["loss"].values, loss)
    assert found["loss"].low is None and found["loss"].role == "loss"
    for name, quantity, role in (
        ("gradient norm before clipping", "log10_raw_norm", "before"),
        ("gradient norm after clipping", "log10_norm", "after"),
    ):
        _, logs = reader.series("step", quantity, 0)
        assert found[name].values == pytest.approx(10.0**logs) and found[name].role == role
    assert found["clip limit"].values == pytest.approx(np.ones(40))
    assert found["clip limit"].role == "limit"
    assert set(found["loss scale"].values) == {65536.0}
    assert figure.panels[1].log and not figure.panels[3].log


def test_panels_only_where_measured(runs: ModuleType, disk: Any) -> None:
    history = runs.run(10)
    step = history["step"]
    only = {"loss": step["loss"]}
    figure = over_steps(disk(replace(history, tables={"step": replace(step, values=only)})))
    assert figure is not None
    assert [axis.label for axis in figure.panels] == ["loss"]
    skipped = {"skipped": step["skipped"]}
    assert (
        over_steps(disk(replace(history, tables={"step": replace(step, values=skipped)}))) is None
    )


def test_without_clipping_there_is_one_norm(runs: ModuleType, disk: Any) -> None:
    found = lines(over_steps(disk(runs.run(10))))
    assert "gradient norm" in found and not any("clip" in name for name in found)


def test_a_limit_of_values_is_no_norm(runs: ModuleType, disk: Any) -> None:
    # given clipping by value: a limit without a factor
    history = runs.run(10, clip=True)
    step = history["step"]
    values = {**step.values, "clip_factor": np.full((10, 1), np.nan)}
    found = lines(over_steps(disk(replace(history, tables={"step": replace(step, values=values)}))))
    assert not any("clip" in name for name in found)


def test_two_optimizers_of_a_gan(runs: ModuleType, disk: Any) -> None:
    # given a discriminator that steps twice as often as the generator
    columns = [
        Column(name="Adam", kind="Adam", order=0),
        Column(name="Adam#2", kind="Adam", order=1),
    ]
    loss = np.array([[0.7, np.nan], [0.6, 2.0], [0.5, np.nan], [0.4, 3.0]])
    table = runs.table("step", columns, range(4), {"loss": loss, "log10_norm": loss})
    figure = over_steps(disk(History(tables={"step": table})))
    found = lines(figure)
    assert np.array_equal(found["loss, Adam"].values, np.float32(loss[:, 0]))
    assert np.array_equal(found["loss, Adam#2"].values, np.float32(loss[:, 1]), equal_nan=True)
    assert found["gradient norm, Adam#2"].panel == 1
    # then colours tell them apart, no role
    assert {series.role for series in found.values()} == {""}


def test_a_long_run_keeps_its_spikes_in_the_band(runs: ModuleType, disk: Any) -> None:
    steps = np.arange(6000)
    loss = np.ones((6000, 1))
    loss[3333] = 40.0
    table = runs.table("step", [Column(name="SGD")], steps, {"loss": loss})
    figure = over_steps(disk(History(tables={"step": table})))
    assert figure is not None and "the lowest and the highest" in figure.caption
    (line,) = figure.series
    assert line.high is not None and line.low is not None
    assert line.high.max() == 40.0 and line.values.max() < 40.0 and line.low.min() == 1.0
    assert len(figure.at) <= 768


def test_marks_of_all_that_happened(runs: ModuleType, disk: Any) -> None:
    # given a run in which everything happens
    events = [
        Event(step=1, kind="look", facts={"findings": [{}]}),
        Event(step=2, kind="note", text="not told"),
        Event(step=3, kind="finding-begins", where="layers.0", text="why",
              facts={"name": "vanishing-gradient"}),
        Event(step=4, kind="finding-begins", facts={"name": "loss-spike"}),
        Event(step=6, kind="finding-clears", facts={"name": "vanishing-gradient"}),
        Event(step=7, kind="non-finite", where="layers.1",
              facts={"direction": "forward", "operation": "log"}),
        Event(step=8, kind="intervention", text="rate halved"),
        Event(step=9, kind="stopped", text="hopeless"),
        Event(step=9, kind="crash", text="ValueError: x"),
    ]  # fmt: skip
    history = runs.run(10, events=events)
    step = history["step"]
    skipped = np.zeros((10, 1))
    skipped[[2, 3, 5]] = 1.0
    values = {**step.values, "skipped": skipped}
    figure = over_steps(disk(replace(history, tables={"step": replace(step, values=values)})))
    assert figure is not None
    found = [(mark.x, mark.kind, mark.text) for mark in figure.marks]
    assert sorted(found) == [
        (1, "look", "a full look: 1 finding"),
        (2, "skipped", "steps 2 to 3: skipped"),
        (3, "finding", "vanishing-gradient: why"),
        (4, "spike", "loss-spike"),
        (5, "skipped", "step 5 skipped"),
        (6, "cleared", "vanishing-gradient has cleared"),
        (7, "non-finite", "a value that is not finite: forward log"),
        (8, "intervention", "rate halved"),
        (9, "crash", "crash: ValueError: x"),
        (9, "stopped", "stopped: hopeless"),
    ]
    assert {mark.layer for mark in figure.marks} == {None, "layers.0", "layers.1"}
