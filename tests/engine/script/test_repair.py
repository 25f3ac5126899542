"""What the repair of a script may say of what it saw: words and figures, without any process."""

from types import SimpleNamespace
from typing import Any

import pytest

from gradmend.engine.budget import FEWEST_STEPS
from gradmend.engine.script import repair
from gradmend.engine.script.repair import Wishes


@pytest.mark.parametrize(
    ("watched", "cut_short", "said", "unsaid"),
    [
        (300, False, "healthy", "steps"),
        (100, True, "nothing was found in 100 steps", "healthy"),
        (FEWEST_STEPS - 1, True, "too few to call it healthy", "healthy:"),
        (1, True, "in one step", "healthy:"),
    ],
)
def test_a_search_that_the_budget_ended_calls_nothing_healthy(
    watched: int, cut_short: bool, said: str, unsaid: str
) -> None:
    fixed: Any = SimpleNamespace(watched=watched, cut_short=cut_short)
    reason = repair._nothing_found(fixed, Wishes(budget="7 min"))
    assert said in reason and unsaid not in reason and "nothing was changed" in reason
    assert ("--budget" in reason) is cut_short


def test_a_step_takes_what_the_script_takes_not_what_watching_it_takes() -> None:
    # given 101 steps of which the first was looked at for a minute
    word = {"trained": [100, 5.0], "t": 75.0, "step": 101}
    assert repair._seconds_of_a_step(word, first_step=10.0) == pytest.approx(0.05)
    # and where only one was seen, the most that it can be
    assert repair._seconds_of_a_step({"t": 75.0, "step": 1}, 10.0) == pytest.approx(65.0)
    assert repair._seconds_of_a_step({"trained": [0, 0.0], "t": 75.0, "step": 1}, 10.0) == 65.0


@pytest.mark.parametrize(
    ("variable", "threads"), [(None, 4), ("1", 1), ("3,2", 3), ("", 4), ("0", 4), ("many", 4)]
)
def test_threads_are_those_the_user_has_set(
    variable: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert repair._threads(jobs=2) == threads


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ({"how": "raised", "error": "KeyError: 'timestamps'"}, "failed before its first step"),
        ({"how": "raised", "error": "RuntimeError: no NVIDIA driver"}, "needs a GPU"),
        ({"how": "raised", "error": "Torch not compiled with CUDA enabled"}, "needs a GPU"),
        ({"how": "raised", "error": "device 'cuda:0' is not there"}, "needs a GPU"),
        ({"how": "raised", "error": "EOFError: EOF when reading a line"}, "asks for input"),
        ({"how": "exited", "status": 3}, "ended with status 3, and no optimizer"),
        ({"how": "finished", "status": 0}, "no optimizer of torch took a step"),
    ],
)
def test_why_nothing_was_learned_is_said_in_the_users_terms(
    word: dict[str, Any], said: str
) -> None:
    child: Any = SimpleNamespace(step=0, last_lines=lambda count: "")
    error = repair._why_nothing({"kind": "ended", **word}, child)
    assert said in error.found
