"""A race fits into its budget; where it would not, a smaller one does, or the reason is given."""

import pytest

from gradmend.engine.budget import FEWEST_STEPS
from gradmend.engine.script.afford import Race, affordable_race
from gradmend.engine.trial import Deadline


def race(budget: float, *, start: float = 30.0, step: float = 0.1, **more: int) -> Race:
    wanted = {"candidates": 8, "seeds": 3, "jobs": 1, "most": 300, **more}
    return affordable_race(Deadline(seconds=budget), start=start, step=step, **wanted)


def test_a_budget_that_is_large_buys_the_whole_race_at_its_full_length() -> None:
    assert race(3600.0) == Race(steps=300)


def test_a_script_that_begins_slowly_gets_a_smaller_race_before_none() -> None:
    # Twelve starts of 30 s do not fit into four minutes; five do.
    found = race(240.0)
    assert found.thrifty
    assert found.steps >= FEWEST_STEPS
    assert 5 * 30.0 + 0.1 * found.steps < 240.0


def test_where_nothing_fits_it_says_what_would() -> None:
    found = race(60.0)
    assert found.steps < FEWEST_STEPS
    assert found.seconds is not None
    assert race(60.0, start=1.0).seconds is None
    again = race(found.seconds + 1.0)  # and that is no empty promise
    assert again.steps >= FEWEST_STEPS


def test_several_at_a_time_begin_together() -> None:
    assert race(400.0).thrifty
    assert not race(400.0, jobs=4).thrifty


@pytest.mark.parametrize("budget", [100, 2000, 20_000])
def test_a_budget_in_steps_knows_no_seconds(budget: int) -> None:
    found = affordable_race(
        Deadline(steps=budget), start=1e9, step=1e9, candidates=8, seeds=3, jobs=1, most=300
    )
    assert found.seconds is None
    assert not found.thrifty
    assert (found.steps >= FEWEST_STEPS) is (budget >= 2000)
