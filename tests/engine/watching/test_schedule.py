"""The budget is held whatever things cost; urgent things come first, on a small credit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gradmend
from gradmend.engine.watching.budget import read_budget
from gradmend.engine.watching.schedule import (
    AWAKE,
    FREE_LISTENING,
    FREE_SECONDS,
    MOST_ASLEEP,
    Schedule,
    Tier,
)
from gradmend.errors import BadInput
from gradmend.theory.wiring import EXACT


def simulate(
    schedule: Schedule, steps: int, step_seconds: float, costs: dict[str, float], base: float = 0.0
) -> dict[str, int]:
    """A training on a made-up clock; returns how often each tier measured."""
    times = dict.fromkeys(costs, 0)
    step = 0
    while step < steps:
        for name, cost in costs.items():
            if schedule.due(name, step):
                schedule.took(name, step, cost)
                times[name] += 1
        schedule.base += base
        schedule.heard += 1
        asleep = schedule.sleeps(step)
        schedule.passed(step_seconds * (1 + asleep), 1 + asleep)
        step += 1 + asleep
    return times


@given(
    budget=st.floats(0.002, 0.2),
    step=st.floats(1e-4, 1.0),
    dear=st.floats(1e-5, 5.0),
    cheap=st.floats(1e-6, 0.05),
)
def test_the_budget_is_held(budget: float, step: float, dear: float, cheap: float) -> None:
    tiers = {"dear": Tier(share=0.5, cost_in_steps=dear / step), "cheap": Tier(share=0.5)}
    schedule = Schedule(budget, tiers)
    simulate(schedule, 2_000, step, {"dear": dear, "cheap": cheap})
    # Beyond the free credit, one measurement that was paid for in part may still be on the way.
    assert schedule.spent <= budget * schedule.trained + FREE_SECONDS + dear + cheap


@given(step=st.floats(1e-5, 1e-3), base=st.floats(1e-5, 1e-3), budget=st.floats(0.005, 0.1))
def test_listening_itself_is_within_the_budget(step: float, base: float, budget: float) -> None:
    schedule = Schedule(budget, {})
    simulate(schedule, 20_000, step, {}, base)
    asleep_too_little = base / step > 0.5 * budget * MOST_ASLEEP
    free = max(FREE_LISTENING * FREE_SECONDS, AWAKE * base) + base
    assert schedule.base <= budget * schedule.trained + free or asleep_too_little


def test_everything_is_due_without_a_budget() -> None:
    schedule = Schedule(float("inf"), {"a": Tier(share=0.5, stride=3)})
    assert simulate(schedule, 9, 1e-3, {"a": 10.0}) == {"a": 3}
    assert schedule.sleeps(1000) == 0


def test_a_stride_is_kept_however_rich() -> None:
    schedule = Schedule(0.5, {"a": Tier(share=1.0, stride=10)})
    assert simulate(schedule, 100, 1.0, {"a": 1e-9}) == {"a": 10}


def test_urgent_things_come_at_once_but_not_at_any_price() -> None:
    tiers = {"a": Tier(share=1.0, stride=50), "b": Tier(share=0.1, stride=1, cost_in_steps=100)}
    schedule = Schedule(0.01, tiers)
    simulate(schedule, 20, 0.1, {"a": 0.01, "b": 5.0})
    assert not schedule.due("a", 20)
    schedule.hurry("a", "b")
    assert schedule.due("a", 20) and not schedule.due("b", 20)
    schedule.took("a", 20, 0.01)
    assert not schedule.due("a", 21)


def test_what_is_done_once_is_on_no_bill() -> None:
    schedule = Schedule(0.01, {"a": Tier(share=1.0)})
    schedule.once("a")
    assert schedule.due("a", 0) and schedule.is_free("a")
    schedule.took("a", 0, 100.0, once=schedule.is_free("a"))
    assert schedule.spent == 0 and not schedule.is_free("a")


COSTS = {
    "pulse": 4e-4,
    "rows": 1.2e-3,
    "outputs": 2e-3,
    "graph": 2e-4,
    "rules": 7e-3,
    "looks": 0.22,
}
FIRST = {**COSTS, "rows": 0.05, "outputs": 0.06}
LISTENING = 2e-4
"""Seconds as measured with the default budget on a perceptron of three layers, rounded up."""


def short_run(slower: float, steps: int = 100) -> dict[str, list[int]]:
    """At which steps each tier measures in a training of 1 ms a step, everything so much slower."""
    watch = gradmend.watch(nn.Linear(1, 1))
    schedule = watch.observer.schedule
    watch.close()
    times: dict[str, list[int]] = {name: [] for name in COSTS}
    step = 0
    while step < steps:
        for name in COSTS:
            if schedule.due(name, step) and not (name == "rules" and step == 0):
                costs = COSTS if step else FIRST
                schedule.took(name, step, slower * costs[name], once=step == 0)
                times[name].append(step)
        schedule.base += slower * LISTENING
        schedule.heard += 1
        asleep = schedule.sleeps(step)
        schedule.passed(slower * 1e-3 * (1 + asleep), 1 + asleep)
        step += 1 + asleep
    return times


def test_a_short_run_is_measured_alike_on_a_slower_machine() -> None:
    fast = short_run(1.0)
    assert fast["rows"] == list(range(0, 100, 10)) and len(fast["pulse"]) == 100
    for slower in (2.0, 5.0):
        slow = short_run(slower)
        for name in ("pulse", "rows", "outputs", "graph"):
            assert slow[name] == fast[name], (name, slower)


def test_a_machine_under_heavy_load_still_sees_exact_facts() -> None:
    slow = short_run(20.0)
    assert len(slow["rows"]) >= 2 * EXACT
    assert len(slow["outputs"]) >= EXACT
    assert max(slow["pulse"]) >= 64


def test_loading_kernels_says_nothing_of_the_next_measurement() -> None:
    def after_the_first(*, warms_up: bool) -> bool:
        tier = Tier(share=0.3, cost_in_steps=0.2, warms_up=warms_up)
        schedule = Schedule(0.02, {"a": tier})
        schedule.took("a", 0, 5.0, once=True)
        schedule.passed(0.01)
        return schedule.due("a", 1)

    assert after_the_first(warms_up=True) and not after_the_first(warms_up=False)
    tier = Tier(share=0.3, warms_up=True)
    schedule = Schedule(0.02, {"a": tier})
    schedule.took("a", 0, 5.0, once=True)
    schedule.took("a", 1, 5.0)
    assert not schedule.due("a", 2), "the second one says it all"


@pytest.mark.parametrize(
    ("written", "share"), [("2%", 0.02), ("0.5 %", 0.005), (0.1, 0.1), ("all", float("inf"))]
)
def test_budgets_are_read(written: str | float, share: float) -> None:
    assert read_budget(written) == pytest.approx(share)


@pytest.mark.parametrize("written", ["", "2", "two", "-1%", 0, -0.1, float("nan"), 1e9, "0%"])
def test_what_is_no_budget_is_refused(written: str | float) -> None:
    with pytest.raises(BadInput, match="budget"):
        read_budget(written)
