from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np

from gradmend.records.verdict import Verdict
from gradmend.renderers.trial_figure import trial_curves, trial_figure

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)
arm = reports.arm


def verdict_of(**arms: object) -> Verdict:
    return Verdict(kept=True, reason="", **arms)  # type: ignore[arg-type]


def test_every_seed_is_a_line_and_their_spread_a_band() -> None:
    # given three seeds that end at different losses
    ends = (1.0, 2.0, 6.0)
    seeds = tuple(arm("init", k, end, losses=((0, 8.0), (10, end))) for k, end in enumerate(ends))
    figure = trial_figure(verdict_of(winner=seeds))
    assert figure is not None
    # then
    assert [line.role for line in figure.series] == ["after-seed"] * 3 + ["after"]
    spread = figure.series[-1]
    assert spread.low is not None and spread.high is not None
    assert (spread.values[-1], spread.low[-1], spread.high[-1]) == (3.0, 1.0, 6.0)


def test_one_seed_has_no_spread() -> None:
    figure = trial_figure(verdict_of(original=(arm("original", 0, 2.3),)))
    assert figure is not None
    assert [(line.name, line.role) for line in figure.series] == [("original", "before")]
    assert figure.series[0].low is None


def test_a_seed_that_was_stopped_early_ends_and_so_does_the_mean() -> None:
    long = arm("init", 0, 1.0, losses=tuple((k, 2.0) for k in range(100)))
    short = arm("init", 1, 1.0, losses=tuple((k, 4.0) for k in range(25)))
    figure = trial_figure(verdict_of(winner=(long, short)))
    assert figure is not None
    by_name = {line.name: line.values for line in figure.series}
    assert np.isnan(by_name["repaired, seed 1"][25:]).all()
    mean = by_name["repaired, mean and range of 2 seeds"]
    assert mean[24] == 3.0 and np.isnan(mean[25:]).all()


def test_a_diverged_training_is_drawn_up_to_where_it_broke() -> None:
    broken = arm(
        "bad", 0, None, diverged=True, losses=((0, 2.0), (1, 3.0), (2, math.nan), (3, 1.0))
    )
    fine = arm("init", 0, 1.0, losses=((0, 2.0), (3, 1.0)))
    figure = trial_figure(verdict_of(winner=(fine,), rivals=(broken,)))
    assert figure is not None
    rival = figure.series[0]
    assert rival.role == "background" and rival.name == "bad"
    assert list(figure.at) == [0, 1, 3]
    assert list(rival.values[:2]) == [2.0, 3.0] and np.isnan(rival.values[2])
    assert "1 training diverged or failed" in figure.caption


def test_no_losses_no_figure() -> None:
    nothing = verdict_of(original=(arm("original", 0, None, losses=()),))
    assert trial_figure(nothing) is None and trial_curves(nothing) is None
    assert trial_figure(verdict_of()) is None


def test_losses_over_decades_are_on_a_logarithmic_axis() -> None:
    wide = arm("init", 0, 1.0, losses=((0, 1.0), (1, 1e-4)))
    figure = trial_figure(verdict_of(winner=(wide,)))
    assert figure is not None and figure.panels[0].log
