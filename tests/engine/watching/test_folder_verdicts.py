"""A run says the same from its folder as from memory."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradmend.engine.watching.record import Record
from gradmend.engine.watching.script import ScriptWatch
from gradmend.engine.watching.summary import report_of
from gradmend.engine.watching.watch import Watch
from gradmend.records.history import QUANTITIES, Column, Event, History, RunFacts
from gradmend.store.reader import open_run
from gradmend.zoo.training import build_training

Verdict = list[tuple[Any, ...]]

TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "healthy": ("perceptron", {}),
    "healthy, Adam": ("perceptron", {"optimizer": "Adam"}),
    "rate too high": ("step_size", {"rate": 100.0}),
    "one huge step": ("huge_step", {}),
    "NaN": ("breaking", {"at": 30}),
    "bad batch": ("bad_batch", {"size": 1e6}),
    "not cleared": ("miswired_loop", {"fault": "not_cleared"}),
    "healthy pair": ("two_players", {}),
}


def verdict(history: History, watch: Watch | None = None) -> Verdict:
    report = report_of(history, () if watch is None else watch.looks)
    watched = report.watched
    assert watched is not None
    said: Verdict = [
        (f.name, f.severity, f.modules, f.summary, f.explained_by) for f in report.findings
    ]
    return [*said, (watched.loss_first, repr(watched.loss_last), watched.learns, watched.notes)]


def trained(name: str, watch: Watch, steps: int | None = None) -> Watch:
    kind, arguments = TRAININGS[name]
    training = build_training(kind, **arguments)
    with watch:
        for number in range(steps or training.steps):
            training.step(number)
    return watch


def scripted(folder: Path, budget: str) -> ScriptWatch:
    """As ``gradmend run`` does: the folder is made when the first step has been taken."""
    return ScriptWatch(
        folder=lambda: folder, budget=budget, looks=True, stop_when_dead=False, name="r", command=""
    )


def same_tables(one: History, other: History) -> None:
    assert set(one.tables) == set(other.tables)
    for name, table in one.tables.items():
        assert np.array_equal(table.steps, other[name].steps), name
        assert table.names == other[name].names
        for quantity in QUANTITIES[name]:
            assert np.array_equal(table[quantity], other[name][quantity], equal_nan=True), quantity


@pytest.mark.parametrize("budget", ["2%", "all"])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_run_is_judged_alike_from_its_folder(name: str, budget: str, tmp_path: Path) -> None:
    watch = trained(name, scripted(tmp_path / "run", budget))
    read = open_run(tmp_path / "run").history()
    same_tables(watch.history(), read)
    assert watch.history().events == read.events
    assert verdict(watch.history(), watch) == verdict(read)
    if name.startswith("healthy"):
        assert not any(f[1] == "error" for f in verdict(read)[:-1])
    elif budget == "all":
        assert len(verdict(read)) > 1, "something to compare"


def test_a_long_run_is_judged_alike_from_its_folder(tmp_path: Path) -> None:
    watch = trained("healthy", scripted(tmp_path / "run", "20%"), steps=2500)
    read = open_run(tmp_path / "run").history()
    assert watch.history().run.steps == 2500
    same_tables(watch.history(), read)
    assert verdict(watch.history(), watch) == verdict(read)


@pytest.mark.parametrize("rows", [10, 447, 449, 2500, 9000])
def test_the_rows_between_are_the_same_ones(rows: int, tmp_path: Path) -> None:
    record = Record(RunFacts(name="r"), None)
    record.columns("step", [Column(name="SGD")])
    for step in range(rows):
        record.append("step", step, np.full((len(QUANTITIES["step"]), 1), math.sqrt(step)))
        if step == min(rows // 3, 100):  # what was before is written then
            record.open(tmp_path / "run")
    record.close()
    same_tables(record.history(), open_run(tmp_path / "run").history())


def test_events_are_remembered_as_they_are_read(tmp_path: Path) -> None:
    record = Record(RunFacts(name="r"), None)
    record.open(tmp_path / "run")
    facts = {
        "shape": (2, 3),
        "std": math.nan,
        "largest": math.inf,
        "why": None,
        "more": {"a": (1.5,)},
    }
    for step in range(1500):
        record.event(Event(step=step, kind="input", where="x", facts=facts))
    record.event(Event(step=700, kind="crash", text="late"))
    record.close()
    events = record.history().events
    assert events == open_run(tmp_path / "run").history().events
    assert len(events) == 513
    assert events[0].facts["shape"] == [2, 3] and events[0].facts["largest"] is None
