"""Where two runs part: planted differences, exact and noisy, and runs that do not."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradmend.engine.watching.difference import difference
from gradmend.engine.watching.watch import watch
from gradmend.records.codec import to_plain
from gradmend.records.history import Event, History, RunFacts, Table

_path = Path(__file__).parents[1] / "renderers" / "runs.py"
_spec = importlib.util.spec_from_file_location("runs", _path)
assert _spec is not None and _spec.loader is not None
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)


def changed(
    history: History, name: str, quantity: str, since: int, column: int, add: float
) -> History:
    """The same history with something added to one column from a step on."""
    table = history[name]
    values = {key: grid.copy() for key, grid in table.values.items()}
    values[quantity][table.steps >= since, column] += add
    new = Table(name=name, columns=table.columns, steps=table.steps, values=values)
    return replace(history, tables={**history.tables, name: new})


def only_rows(history: History, name: str, keep: Any) -> History:
    table = history[name]
    rows = np.array([keep(int(step)) for step in table.steps])
    values = {key: grid[rows] for key, grid in table.values.items()}
    new = Table(name=name, columns=table.columns, steps=table.steps[rows], values=values)
    return replace(history, tables={**history.tables, name: new})


@given(seed=st.integers(0, 5), steps=st.integers(0, 40))
@settings(deadline=None, max_examples=20)
def test_a_run_does_not_differ_from_itself(seed: int, steps: int) -> None:
    history = runs.run(steps, seed=seed)
    found = difference(history, history)
    assert found.same
    assert found.bitwise
    assert found.first is None
    assert found.compared == steps


@pytest.mark.parametrize(
    ("table", "quantity", "step", "column", "name"),
    [
        ("gradient", "log10_rms", 37, 1, "layers.1.weight"),
        ("step", "loss", 12, 0, "AdamW"),
        ("output", "log10_rms", 25, 2, "layers.2"),
        ("update", "log10_ratio", 0, 0, "layers.0.weight"),
    ],
)
def test_a_planted_difference_is_found_where_it_is(
    table: str, quantity: str, step: int, column: int, name: str
) -> None:
    good = runs.run(seed=3)
    bad = changed(good, table, quantity, step, column, 0.01)
    found = difference(good, bad)
    assert found.exact
    assert found.bitwise
    assert found.first is not None
    assert (found.first.step, found.first.table, found.first.quantity) == (step, table, quantity)
    assert found.first.column == name
    assert found.first.columns == 1
    assert len(found.partings) == 1
    before = [s for s in good[table].steps if s < step]
    assert found.first.last_same == (before[-1] if before else -1)
    assert not found.same


@given(
    plants=st.lists(
        st.tuples(
            st.sampled_from(["gradient", "output", "update"]),
            st.integers(0, 59),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=40)
def test_the_first_of_several_and_the_same_from_either_side(
    plants: list[tuple[str, int, int]],
) -> None:
    good = runs.run(seed=1)
    bad = good
    quantity = {"gradient": "log10_rms", "output": "log10_rms", "update": "log10_ratio"}
    seen = []
    for table, since, column in plants:
        bad = changed(bad, table, quantity[table], since, column, 0.5)
        seen += [int(s) for s in good[table].steps if s >= since][:1]
    forth, back = difference(good, bad), difference(bad, good)
    key = [(p.step, p.table, p.quantity, p.column, p.columns) for p in forth.partings]
    assert key == [(p.step, p.table, p.quantity, p.column, p.columns) for p in back.partings]
    assert [(p.a, p.b) for p in forth.partings] == [(p.b, p.a) for p in back.partings]
    # An update is measured every five steps, so a late plant may fall behind the last row.
    assert (forth.first.step if forth.first else None) == (min(seen) if seen else None)


def test_causes_come_before_effects_within_a_step() -> None:
    good = runs.run(seed=2)
    bad = good
    for table, quantity in (
        ("update", "log10_ratio"), ("gradient", "log10_rms"), ("step", "loss"),
        ("step", "log10_norm"), ("output", "log10_rms"),
    ):  # fmt: skip
        for column in range(len(good[table].columns)):
            bad = changed(bad, table, quantity, 20, column, 0.3)
    found = difference(good, bad)
    said = [(p.table, p.quantity, p.column) for p in found.partings]
    assert said == [
        ("output", "log10_rms", "layers.0"),  # forward order
        ("step", "loss", "AdamW"),
        ("gradient", "log10_rms", "layers.2.weight"),  # backward order
        ("step", "log10_norm", "AdamW"),
        ("update", "log10_ratio", "layers.0.weight"),
    ]


def test_clipping_comes_between_the_raw_gradient_and_the_optimizer() -> None:
    for clip, first in ((True, "log10_raw_norm"), (False, "log10_rms")):
        good = runs.run(seed=2, clip=clip)
        bad = changed(good, "step", "log10_raw_norm", 20, 0, 0.3)
        bad = changed(bad, "gradient", "log10_rms", 20, 1, 0.3)
        assert difference(good, bad).partings[0].quantity == first


def test_rounding_is_no_difference_but_is_told() -> None:
    good = runs.run(seed=4)
    nearly = changed(good, "gradient", "log10_rms", 10, 0, 3e-7)
    found = difference(good, nearly)
    assert found.exact
    assert found.same
    assert not found.bitwise
    later = changed(nearly, "gradient", "log10_rms", 30, 0, 1e-3)
    found = difference(good, later)
    assert found.first is not None and found.first.step == 30
    assert not found.bitwise


def test_a_sample_and_all_entries_are_not_compared() -> None:
    """A gradient looked at in full in one run and by sample in the other differs a little."""
    good = runs.run(seed=5)
    big = tuple(replace(c, shape=(500, 500)) for c in good["gradient"].columns)
    table = replace(good["gradient"], columns=big)
    good = replace(good, tables={**good.tables, "gradient": table})
    other = only_rows(good, "update", lambda step: step % 10 == 0)
    for column in range(3):  # at steps 5, 15, ... only the first run looked at every entry
        for step in range(5, 60, 10):
            other = changed(other, "gradient", "log10_rms", step, column, 0.02)
            other = changed(other, "gradient", "log10_rms", step + 1, column, -0.02)
    assert difference(good, other).first is None
    small = replace(other, tables={**other.tables, "gradient": runs.run(seed=5)["gradient"]})
    assert difference(good, small).first is None
    plain = changed(other, "gradient", "log10_rms", 11, 1, 0.02)
    first = difference(good, plain).first
    assert first is not None and first.step == 11


def test_buckets_of_long_runs_are_not_compared_with_steps() -> None:
    good = runs.run(600, seed=6)
    thin = good
    for name in ("step", "gradient"):
        thin = only_rows(thin, name, lambda step: step < 64 or step >= 400 or step % 8 == 3)
    # A bucket's mean is not the step's own number.
    for step in range(67, 400, 8):
        thin = changed(thin, "step", "loss", step, 0, 0.05)
        thin = changed(thin, "step", "loss", step + 1, 0, -0.05)
    assert difference(good, thin).first is None
    parted = changed(thin, "step", "loss", 500, 0, 0.05)
    first = difference(good, parted).first
    assert first is not None and first.step == 500


@pytest.mark.parametrize("since", [0, 200, 320])
def test_a_lasting_difference_between_seeds_is_found(since: int) -> None:
    good, bad = runs.run(400, seed=7), runs.run(400, seed=8)
    bad = changed(bad, "gradient", "log10_rms", since, 0, -2.0)
    found = difference(good, bad)
    assert not found.exact
    assert found.first is not None
    assert (found.first.table, found.first.column) == ("gradient", "layers.0.weight")
    assert since - 20 <= found.first.step <= since + 20
    assert difference(bad, good).first == replace(found.first, a=found.first.b, b=found.first.a)


@pytest.mark.parametrize("seed", range(12))
def test_seeds_alone_do_not_part(seed: int) -> None:
    found = difference(runs.run(300, seed=2 * seed), runs.run(300, seed=2 * seed + 1))
    assert not found.exact
    assert found.first is None
    assert not found.same  # their numbers are not the same, and nothing says they were


def test_a_passing_difference_is_none_that_lasts() -> None:
    good, bad = runs.run(400, seed=7), runs.run(400, seed=8)
    bad = changed(bad, "gradient", "log10_rms", 100, 0, -2.0)
    bad = changed(bad, "gradient", "log10_rms", 200, 0, 2.0)
    assert difference(good, bad).first is None


def test_zero_and_none_against_numbers() -> None:
    good = runs.run(seed=3)
    zero = changed(good, "gradient", "log10_rms", 30, 0, -np.inf)
    zero = changed(zero, "gradient", "state", 30, 0, -1.0)
    found = difference(good, zero)
    assert {(p.step, p.quantity, p.column) for p in found.partings} == {
        (30, "log10_rms", "layers.0.weight"),
        (30, "state", "layers.0.weight"),
    }
    assert difference(zero, zero).same
    json.dumps(to_plain(found), allow_nan=False)


def test_nan_is_not_measured() -> None:
    good = runs.run(seed=3)
    holes = changed(good, "gradient", "log10_rms", 30, 0, np.nan)
    assert difference(good, holes).first is None


def test_the_first_bad_value_of_one_run() -> None:
    event = Event(step=33, kind="non-finite", where="layers.1", facts={"direction": "forward"})
    good, bad = runs.run(seed=3), runs.run(seed=3, events=[event])
    first = difference(good, bad).first
    assert first is not None
    assert (first.step, first.table, first.column, first.a, first.b) == (
        33, "event", "layers.1", 0.0, 1.0,
    )  # fmt: skip
    assert difference(bad, bad).first is None


def test_length_emptiness_and_columns() -> None:
    long, short = runs.run(60), History(run=RunFacts(name="none"))
    found = difference(long, short)
    assert (found.compared, found.first, found.same) == (0, None, False)
    assert difference(short, short).compared == 0
    cut = only_rows(only_rows(long, "step", lambda s: s < 30), "gradient", lambda s: s < 30)
    found = difference(long, replace(cut, run=replace(cut.run, steps=30)))
    assert found.first is None
    assert found.steps == (60, 30)
    deeper = runs.run(names=("layers.0", "layers.1", "layers.2", "head"))
    found = difference(long, deeper)
    assert found.columns == ((), ("gradient: head.weight", "update: head.weight", "output: head"))


def test_settings_that_differ() -> None:
    a = runs.run(seed=1)
    b = runs.run(seed=1, optimizer="SGD", rate=0.1, clip=True, torch="2.9.0")
    found = {s.name: (s.a, s.b) for s in difference(a, b).settings}
    assert found["optimizers"] == ("AdamW", "SGD")
    assert found["torch"] == ("2.13.0", "2.9.0")
    assert found["SGD learning rate, first"] == ("-", "0.1")
    same = {s.name: (s.a, s.b) for s in difference(a, runs.run(seed=1, rate=0.1)).settings}
    assert same == {"AdamW learning rate, first": ("0.001", "0.1")}


def test_findings_of_one_run_only() -> None:
    facts = {"code": "GRF102", "name": "vanishing-gradient", "severity": "error"}
    event = Event(step=10, kind="finding-begins", facts=facts)
    found = difference(runs.run(), runs.run(events=[event]))
    assert found.findings == ((), ("GRF102 vanishing-gradient",))
    assert not found.same


def trained(
    steps: int, *, seed: int = 0, rate_from: int | None = None, cut: bool = False
) -> History:
    """A small training, watched; its rate may change, or a layer be cut off from the loss."""
    torch.manual_seed(seed)
    first, second = nn.Linear(8, 16), nn.Linear(16, 1)
    model = nn.Sequential(first, nn.Tanh(), second)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = torch.randn(steps, 32, 8)
    if cut:
        first.register_forward_hook(lambda module, inputs, output: output.detach())
    with watch(model, optimizer, looks=False) as seen:
        for step, batch in enumerate(batches):
            if step == rate_from:
                optimizer.param_groups[0]["lr"] = 0.2
            optimizer.zero_grad()
            (model(batch) - batch.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
    return seen.history()


@pytest.mark.slow  # compiles kernels
def test_real_trainings() -> None:
    good = trained(60)
    again = difference(good, trained(60))
    assert again.same and again.bitwise
    other = difference(good, trained(60, rate_from=23))
    assert other.exact and other.bitwise
    assert other.first is not None
    assert (other.first.step, other.first.quantity) == (23, "learning_rate")
    assert other.settings == ()  # they began with the same ones
    detached = difference(good, trained(60, cut=True))
    assert detached.exact
    assert detached.first is not None
    assert (detached.first.step, detached.first.quantity) == (0, "state")
    assert detached.first.column in ("0.weight", "0.bias")
    assert not difference(good, trained(60, seed=1)).exact
