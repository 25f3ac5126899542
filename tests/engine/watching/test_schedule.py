"""The budget is held whatever things cost; urgent things come first, on a small credit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("written", "share"), [("2%", 0.02), ("0.5 %", 0.005), (0.1, 0.1), ("all", float("inf"))]
)
def test_budgets_are_read(written: str | float, share: float) -> None:
    assert read_budget(written) == pytest.approx(share)


@pytest.mark.parametrize("written", ["", "2", "two", "-1%", 0, -0.1, float("nan"), 1e9, "0%"])
def test_what_is_no_budget_is_refused(written: str | float) -> None:
    with pytest.raises(BadInput, match="budget"):
        read_budget(written)
