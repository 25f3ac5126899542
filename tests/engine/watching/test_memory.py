"""What a watcher remembers: bounded, the beginning and the end whole."""

import gc
import time
import weakref
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradmend.engine.watching.dead import why_dead
from gradmend.engine.watching.live import CLEARS_AFTER, Live
from gradmend.engine.watching.recent import Recent
from gradmend.engine.watching.script import ScriptWatch
from gradmend.records.finding import Finding, Severity
from gradmend.records.history import QUANTITIES, Column, Event, History, RunFacts, Table
from gradmend.store.keeping import BETWEEN, FIRST, LAST, MOST_EVENTS, Room


def remembered(rows: int, columns: int = 1) -> Table:
    recent = Recent()
    recent.columns("step", [Column(name=f"c{i}") for i in range(columns)])
    for step in range(rows):
        recent.append("step", step, np.full((len(QUANTITIES["step"]), columns), float(step)))
    return recent.history(RunFacts())["step"]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 4_000))
def test_first_and_last_rows_are_whole_and_the_rest_is_spread(rows: int) -> None:
    table = remembered(rows)
    assert len(table) <= FIRST + BETWEEN + LAST + 1
    assert (np.diff(table.steps) > 0).all()
    assert (table["loss"][:, 0] == table.steps).all(), "every row keeps its own numbers"
    kept = set(table.steps.tolist())
    assert set(range(min(rows, FIRST))) <= kept
    assert set(range(max(0, rows - LAST), rows)) <= kept
    assert table.steps.tolist() == Room.of(len(QUANTITIES["step"])).places(rows).tolist()
    gaps = np.diff(table.steps)
    assert rows < 1_000 or gaps.max() <= 4 * rows / BETWEEN


def test_wide_tables_keep_fewer_rows() -> None:
    recent = Recent()
    recent.columns("step", [Column(name=f"c{i}") for i in range(200_000)])
    block = np.zeros((len(QUANTITIES["step"]), 200_000))
    for step in range(40):
        recent.append("step", step, block)
    assert len(recent.history(RunFacts())["step"]) < 30


def test_columns_may_come_later() -> None:
    recent = Recent()
    recent.columns("step", [Column(name="a")])
    recent.append("step", 0, np.ones((len(QUANTITIES["step"]), 1)))
    recent.columns("step", [Column(name="a"), Column(name="b")])
    recent.append("step", 1, np.ones((len(QUANTITIES["step"]), 2)))
    loss = recent.history(RunFacts())["step"]["loss"]
    assert np.array_equal(loss, [[1, np.nan], [1, 1]], equal_nan=True)


def test_events_are_bounded_and_the_ends_are_kept() -> None:
    recent = Recent()
    for step in range(3 * MOST_EVENTS):
        recent.event(Event(step=step, kind="note", text=str(step)))
    events = recent.history(RunFacts()).events
    assert len(events) == MOST_EVENTS
    assert events[0].step == 0 and events[-1].step == 3 * MOST_EVENTS - 1


def test_frequent_events_crowd_out_no_rare_one() -> None:
    recent = Recent()
    for step in range(3 * MOST_EVENTS):
        recent.event(Event(step=step, kind="note", text=str(step)))
        if step == MOST_EVENTS:
            recent.event(Event(step=step, kind="non-finite"))
    assert [e.step for e in recent.history(RunFacts()).of_kind("non-finite")] == [MOST_EVENTS]


class Scripted(Live):
    """Judges by a list instead of the rules."""

    def __init__(self, answers: list[list[str]]) -> None:
        self.events: list[Event] = []
        super().__init__(self.events.append, lambda error: None)
        self.answers = answers

    def play(self) -> list[tuple[str, str, int]]:
        import gradmend.engine.watching.live as module

        original = module.judged
        try:
            for step, names in enumerate(self.answers):
                found = [
                    Finding(
                        code="X", name=n, severity=Severity.WARNING, modules=(), summary=str(step)
                    )
                    for n in names
                ]
                module.judged = lambda history, fails, found=found: found
                steps = Table(name="step", columns=(Column(name="o"),), steps=np.array([step]))
                self.judge(History(tables={"step": steps}))
        finally:
            module.judged = original
        return [(e.kind, str(e.facts["name"]), e.step) for e in self.events]


def test_findings_begin_hold_and_clear() -> None:
    live = Scripted([[], ["a"], ["a", "b"], ["b"], ["a", "b"], ["b"], ["b"], ["b"]])
    told = live.play()
    assert told == [
        ("finding-begins", "a", 1),
        ("finding-begins", "b", 2),
        ("finding-clears", "a", 4 + CLEARS_AFTER),
    ], "one judgement without it does not clear a finding"
    assert [spell.finding.name for spell in live.open] == ["b"]
    assert live.worst() is Severity.WARNING
    assert live.open[0].finding.summary == "7", "the newest words"


def still(shares: list[float], rate: float = 0.1, stride: int = 10) -> History:
    rows = len(shares)
    column = np.array(shares, dtype=float)[:, None]
    values = {
        "unchanged_share": column,
        "learning_rate": np.full((rows, 1), rate),
        "loss": np.ones((rows, 1)),
    }
    table = Table(
        name="step", columns=(Column(name="SGD"),), steps=np.arange(rows) * stride, values=values
    )
    return History(tables={"step": table})


def test_a_run_in_which_nothing_moves_is_dead() -> None:
    assert "since step 0" in (why_dead(still([1.0] * 20)) or "")
    assert "since step 50" in (why_dead(still([0.9] * 5 + [1.0] * 15)) or "")


def test_a_run_that_may_still_move_is_not() -> None:
    assert why_dead(still([])) is None
    assert why_dead(still([1.0] * 5)) is None, "too early"
    assert why_dead(still([1.0] * 20, stride=1)) is None, "a warm-up may take that long"
    assert why_dead(still([1.0] * 19 + [0.999])) is None
    assert why_dead(still([1.0] * 20, rate=0.0)) is None, "the rate may rise"
    assert why_dead(still([float("nan")] * 20)) is None, "not measured"


def await_death(ref: weakref.ref[Any]) -> None:
    """Collect until it is gone: ``gc.collect`` does nothing while another thread collects."""
    for _ in range(100):
        gc.collect()
        if ref() is None:
            return
        time.sleep(0.01)
    holders = [type(holder).__name__ for holder in gc.get_referrers(ref())]
    raise AssertionError(f"still held, by {holders}")


def test_what_is_kept_for_an_optimizer_goes_with_it() -> None:
    """Python gives its ``id`` out again, often to the next one: that must find nothing there."""
    watch = ScriptWatch(
        folder=None, budget="all", looks=False, stop_when_dead=False, name="s", command=""
    )
    with watch:
        for size in range(4, 24):
            model = nn.Linear(size, 2)
            opt = torch.optim.SGD(model.parameters(), 1e-2)
            for _ in range(2):
                opt.zero_grad()
                model(torch.randn(8, size)).square().mean().backward()
                opt.step()
            parameters = [weakref.ref(p) for p in model.parameters()]
            del model, opt
            await_death(parameters[0])
    shapes = {column.shape for column in watch.history()["gradient"].columns}
    assert shapes == {(2, size) for size in range(4, 24)} | {(2,)}


def test_models_made_anew_take_the_places_of_the_old() -> None:
    """A sweep of ten trainings in one process grows neither tables nor what is held."""
    seen: list[weakref.ref[nn.Module]] = []
    watch = ScriptWatch(
        folder=None, budget="all", looks=False, stop_when_dead=False, name="s", command=""
    )
    with watch:
        for seed in range(10):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            seen.append(weakref.ref(model))
            opt = torch.optim.Adam(model.parameters(), 1e-2)
            for _ in range(5):
                opt.zero_grad()
                model(torch.randn(8, 4)).square().mean().backward()
                opt.step()
            weight = weakref.ref(model[0].weight)
            del model, opt
            await_death(weight)
    history = watch.history()
    assert watch.observer.failures == []
    assert history.run.steps == 50
    assert history["gradient"].names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert history["step"].names == ("Adam",)
    assert (history["gradient"]["state"] == 2).all()
    assert [ref() for ref in seen[:-1]] == [None] * 9
