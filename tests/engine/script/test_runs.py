"""Arms that are processes: here they only pretend to train, and say what a test tells them to."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradmend.engine.script import child
from gradmend.engine.script.plan import Command, plan_of
from gradmend.engine.script.runs import ScriptRuns, mean_of_last
from gradmend.engine.trial import Deadline, Trial
from gradmend.errors import BadInput
from gradmend.records.prescription import Change, Edit, Prescription


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose script is acted by the pretender."""
    folder = tmp_path / "proj"
    folder.mkdir()
    monkeypatch.setattr(child, "MODULE", "tests.engine.script.pretender")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return folder


def _runs(home: Path, act: dict[str, Any], steps: int = 40, **more: Any) -> ScriptRuns:
    (home / "act.json").write_text(json.dumps(act))
    places = home.parent / "places"
    places.mkdir(exist_ok=True)
    plan = plan_of(Command(target="act.json", home=home))
    more = {"deadline": Deadline(steps=10**6), "jobs": 2, "threads": 1} | more
    return ScriptRuns(plan=plan, places=places, steps=steps, **more)


def _remedy(name: str, change: Change = Change.INITIALISATION) -> Prescription:
    edits = (Edit(kind="scale_learning_rate", args={"factor": 2.0}),)
    return Prescription(edits=edits, remedies=(name,), changes=(change,))


def _trial(runs: ScriptRuns, **more: Any) -> Trial:
    return Trial(trainer=runs, steps=runs.steps, deadline=runs.deadline, **more)


def test_the_best_run_wins_with_every_seed(home: Path) -> None:
    # given a script that learns little, and remedies of which one makes it learn
    act = {"rate": 0.001, "by": {"good": {"rate": 0.05}, "poor": {"rate": 0.002}}}
    runs = _runs(home, act)
    # when they are raced, two at a time
    winner, verdict = _trial(runs).run((_remedy("poor"), _remedy("good")))
    # then the good one wins over three seeds, and no process is left
    assert winner is not None and winner.remedies == ("good",)
    assert [arm.seed for arm in verdict.winner] == [0, 1, 2]
    assert verdict.judged_by.name == "loss" and "confirmed over 3 seeds" in verdict.reason
    assert not runs._runs
    # and the figure is the mean of its last losses
    losses = [2.0 * math.exp(-0.05 * step) for step in range(1, 41)]
    assert verdict.winner[0].unseen == pytest.approx(sum(losses[-13:]) / 13)
    # and nothing was left in the folder
    assert sorted(path.name for path in home.iterdir()) == ["act.json"]


@pytest.mark.parametrize(("off", "noisy"), [(0.0, False), (1e-4, True)])
def test_what_was_watched_is_kept_in_float32_and_is_the_same_all_the_same(
    home: Path, off: float, noisy: bool
) -> None:
    # given a run that was watched, whose losses are no float32 numbers: sums over micro-batches
    runs = _runs(home, {"rate": 0.01})
    losses = [2.0 * math.exp(-0.01 * step) for step in range(1, 11)]
    runs.reference = tuple(float(np.float32(loss * (1.0 + off))) for loss in losses)
    assert all(a != b for a, b in zip(runs.reference, losses, strict=True))
    # when it is run again
    _trial(runs).run(())
    # then it is the same training, and one that is off by a ten thousandth is another
    assert runs.noisy is noisy


def test_nothing_wins_where_nothing_is_better(home: Path) -> None:
    runs = _runs(home, {"rate": 0.01, "by": {"same": {}}})
    winner, verdict = _trial(runs).run((_remedy("same"),))
    assert winner is None and "nothing tried beats" in verdict.reason


def test_a_remedy_that_does_not_fit_is_refused_and_the_rest_go_on(home: Path) -> None:
    refused = {"instead": [{"kind": "refused", "reason": "no module 'x'"}]}
    act = {"rate": 0.001, "by": {"misfit": refused, "good": {"rate": 0.05}}}
    runs = _runs(home, act)
    winner, _ = _trial(runs).run((_remedy("misfit"), _remedy("good")))
    assert winner is not None and winner.remedies == ("good",)
    assert [(r.remedy, r.reason) for r in runs.refusals] == [("misfit", "no module 'x'")]


def test_an_edited_script_that_raises_is_refused(home: Path) -> None:
    raises = {"length": 3, "how": "raised", "error": "ValueError: shapes"}
    runs = _runs(home, {"rate": 0.001, "by": {"odd": raises}})
    winner, _ = _trial(runs).run((_remedy("odd"),))
    assert winner is None and "ValueError: shapes" in runs.refusals[0].reason


def test_a_process_that_dies_is_told(home: Path) -> None:
    runs = _runs(
        home, {"rate": 0.001, "by": {"dies": {"instead": [{"kind": "progress", "step": 1}]}}}
    )
    winner, _ = _trial(runs).run((_remedy("dies"),))
    assert winner is None and "the process ended" in runs.refusals[0].reason


def test_a_run_that_diverges_loses_and_one_that_does_not_beats_an_original_that_does(
    home: Path,
) -> None:
    act = {"rate": 0.001, "breaks": 20, "by": {"good": {"rate": 0.05, "breaks": 10**9}, "bad": {}}}
    runs = _runs(home, act)
    winner, verdict = _trial(runs).run((_remedy("bad"), _remedy("good")))
    assert winner is not None and winner.remedies == ("good",)
    assert verdict.original[0].diverged


def test_a_script_that_ends_earlier_with_a_remedy_is_judged_where_it_ended(home: Path) -> None:
    runs = _runs(home, {"rate": 0.001, "by": {"brief": {"rate": 0.05, "length": 30}}})
    winner, _ = _trial(runs).run((_remedy("brief"),))
    assert winner is not None


def test_writing_elsewhere_ends_the_trial(home: Path) -> None:
    outside = {"instead": [{"kind": "outside", "path": "/etc/passwd", "what": "open"}]}
    runs = _runs(home, {"rate": 0.001, "by": {"writes": outside}})
    with pytest.raises(BadInput, match="writes to /etc/passwd"):
        _trial(runs).run((_remedy("writes"),))
    assert not runs._runs


def test_an_evaluation_that_gets_worse_is_no_repair(home: Path) -> None:
    # given a remedy under which the training loss falls and the evaluation falls too
    act = {
        "rate": 0.001,
        "figure": ["acc", 0.8],
        "by": {"overfit": {"rate": 0.05, "figure": ["acc", 0.4]}},
    }
    winner, verdict = _trial(_runs(home, act)).run((_remedy("overfit"),))
    assert winner is None
    # and the same with an evaluation that is as good is one
    act["by"]["overfit"]["figure"] = ["acc", 0.79]
    winner, verdict = _trial(_runs(home, act)).run((_remedy("overfit"),))
    assert winner is not None
    assert [(f.name, f.value) for f in verdict.winner[0].figures] == [("test acc", 0.79)]


def test_losses_of_two_optimizers_are_judged_by_the_evaluation(home: Path) -> None:
    act = {
        "rate": 0.05,
        "optimizers": 2,
        "figure": ["acc", 0.2],
        "by": {"good": {"figure": ["acc", 0.9]}, "poor": {"figure": ["acc", 0.1]}},
    }
    runs = _runs(home, act)
    winner, verdict = _trial(runs).run((_remedy("poor"), _remedy("good")))
    assert winner is not None and winner.remedies == ("good",)
    assert verdict.judged_by.name == "test acc" and verdict.judged_by.higher
    assert verdict.winner[0].unseen == 0.9 and "0.2 -> 0.9" in verdict.reason


def test_a_script_that_never_comes_out_the_same_is_judged_over_repeats(home: Path) -> None:
    # given losses with noise of their own, up to 0.25, and what an earlier run said
    act = {"rate": 0.001, "noise": 0.001, "by": {"good": {"rate": 0.05}}}
    runs = _runs(home, act, reference=(2.0, 1.9))
    winner, verdict = _trial(runs).run((_remedy("good"),))
    # then it is known, every seed is trained to the end, and the good one still wins
    assert runs.noisy and winner is not None
    assert [arm.steps for arm in (*verdict.winner, *verdict.original)] == [40] * 6


def test_repeats_that_overlap_prove_nothing(home: Path) -> None:
    # given a script that comes out otherwise each time, and a remedy that is better with each
    # seed, but with one no better than the original is with another
    luck = {"chance": (0.2, 0.0, 0.2)}
    act = {"rate": 0.001, "chance": (0.6, 0.1, 0.6), "by": {"luck": luck}}
    winner, _ = _trial(_runs(home, act, reference=(2.0, 1.9))).run((_remedy("luck"),))
    assert winner is None
    # and one that is better by far less than its own repeats differ has proven nothing either
    act["by"]["luck"]["chance"] = (0.05, -0.3, 0.05)
    winner, _ = _trial(_runs(home, act, reference=(2.0, 1.9))).run((_remedy("luck"),))
    assert winner is None
    # and one that is better by more has
    act["by"]["luck"]["chance"] = (-0.6, -0.7, -0.6)
    winner, _ = _trial(_runs(home, act, reference=(2.0, 1.9))).run((_remedy("luck"),))
    assert winner is not None


def test_the_budget_ends_every_process(home: Path) -> None:
    runs = _runs(home, {"rate": 0.001, "by": {"good": {"rate": 0.05}}}, deadline=Deadline(steps=60))
    winner, verdict = _trial(runs).run((_remedy("good"),))
    assert not runs._runs
    if winner is not None:
        assert "1 seed" in verdict.reason


def test_losses_are_averaged_over_the_last_third() -> None:
    losses = [(step, float(step)) for step in range(1, 31)]
    assert mean_of_last(losses, 30) == pytest.approx(sum(range(21, 31)) / 10)
    assert mean_of_last(losses, 6) == pytest.approx(sum(range(2, 7)) / 5)  # five at least
    assert mean_of_last(losses[:2], 30) == 1.5
    assert math.isnan(mean_of_last([], 30))


def test_paths_into_the_folder_mean_the_copy(home: Path) -> None:
    (home / "show.py").write_text("")
    made = child.Child(
        Command(target="show.py", arguments=(f"--out={home}/x",), home=home),
        plan_of(Command(target="show.py", home=home)).listed,
        child.Order(until=1),
        threads=1,
        places=home.parent,
        number=1,
    )
    try:
        spec = json.loads((home.parent / "1.json").read_text())
        assert spec["arguments"] == [f"--out={made.work}/x"]
        assert spec["writable"] == [str(made.work)] and made.work != home
    finally:
        made.end()
    assert not made.work.exists() and sys.executable
