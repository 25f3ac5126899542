from __future__ import annotations

import importlib.util
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradmend.engine.files import read_prescription
from gradmend.records.verdict import Figure, Verdict, Yardstick
from gradmend.renderers.before_after import before_after_figure, before_and_after
from gradmend.renderers.repair import repair_figures, repair_sections
from gradmend.renderers.script_figures import figure_table
from gradmend.renderers.trial_figure import trial_curves, trial_figure
from gradmend.renderers.unseen_dots import rows_of, unseen_dots

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)
arm = reports.arm


def verdict_of(**arms: object) -> Verdict:
    return Verdict(kept=True, reason="", **arms)  # type: ignore[arg-type]


# ---- the trial's curves ----


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
    broken = arm("bad", 0, None, diverged=True, losses=((0, 2.0), (1, 3.0), (2, math.nan), (3, 1.0)))
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


# ---- unseen data ----


def test_seeds_of_other_lengths_are_no_part_of_one_mean() -> None:
    # given the first seed trained to the end and two that agreed early
    winner = (arm("init", 0, 0.2, steps=300), arm("init", 1, 0.6, steps=25), arm("init", 2, 0.8, steps=25))
    original = (arm("original", 0, 2.0, steps=300), arm("original", 1, 2.0, steps=25))
    rows = rows_of(verdict_of(original=original, winner=winner))
    # then original and winner of one length stand together
    assert [(row.kind, row.steps) for row in rows] == [
        ("original", 300), ("repaired", 300), ("original", 25), ("repaired", 25),
    ]  # fmt: skip
    assert rows[1].words == "0.2"
    assert rows[3].words == "0.7 (0.6 to 0.8)"


@pytest.mark.parametrize("higher", [False, True])
def test_rivals_come_best_first(higher: bool) -> None:
    sign = -1 if higher else 1
    rivals = tuple(arm(f"r{k}", 0, float(k)) for k in (3, 1, 2))
    verdict = replace(verdict_of(rivals=rivals), judged_by=Yardstick(name="acc", higher=higher))
    assert [row.name for row in rows_of(verdict)] == ["r1", "r2", "r3"][::sign]
    assert ("more is better" if higher else "less is better") in unseen_dots(verdict)


def test_what_has_no_figure_says_why() -> None:
    verdict = verdict_of(
        original=(arm("original", 0, None, diverged=True),),
        winner=(arm("init", 0, 1.0), arm("init", 1, None, error="out of memory")),
        rivals=(arm("none", 0, math.nan),),
    )
    shown = unseen_dots(verdict)
    assert "diverged" in shown and "1 of 2: failed: out of memory" in shown and "n/a" in shown
    assert "nan" not in shown.lower()
    assert unseen_dots(verdict_of()) == ""


def test_a_hundred_rivals_are_cut_to_the_best() -> None:
    rivals = tuple(arm(f"r{k}", 0, float(k)) for k in range(100))
    shown = unseen_dots(verdict_of(rivals=rivals))
    assert shown.count("<circle") == 12 and "88 rivals that did worse left out" in shown


def test_a_scripts_own_figures_stand_side_by_side() -> None:
    def judged(name: str, seed: int, accuracy: float) -> object:
        return arm(name, seed, -accuracy, figures=(Figure("test acc", accuracy, higher=True),))

    verdict = verdict_of(
        original=(judged("original", 0, 0.1),), winner=(judged("a", 0, 0.9), judged("a", 1, 0.88))
    )
    shown = figure_table(verdict)
    assert "test acc" in shown and "0.9, 0.88" in shown and "more" in shown
    assert figure_table(verdict_of(winner=(arm("a", 0, 1.0),))) == ""


# ---- before and after ----


def test_two_looks_at_one_model_share_their_layers() -> None:
    before = reports.deep(30)
    report = replace(before, after=reports.looked_again(before).after)
    figure = before_after_figure(report)
    assert figure is not None
    assert [line.role for line in figure.series] == ["before", "after"]
    assert list(figure.layers) == [str(k) for k in range(30)]
    # the first entry holds everything from there to the output
    assert math.isclose(figure.series[0].values[0], before.ledger.total_decades)
    assert math.isclose(figure.series[1].values[-1], -0.01)


def test_two_unlike_models_are_drawn_over_a_share_of_the_depth() -> None:
    figure = before_after_figure(reports.looked_again(reports.deep(4)))
    assert figure is not None
    assert figure.x.percent and not figure.layers
    assert figure.series[0].values[-1] == 0.0
    assert all(len(line.values) == len(figure.at) for line in figure.series)


def test_one_look_has_no_before_and_after() -> None:
    for report in (reports.deep(4), reports.empty(), reports.blocked()):
        assert before_after_figure(report) is None and before_and_after(report) is None


def test_ten_thousand_layers_are_binned() -> None:
    big = reports.deep(20_001)
    figure = before_after_figure(replace(big, after=big.trace))
    assert figure is not None and len(figure.at) == 400


# ---- the panel ----


def test_the_prescription_can_be_saved_and_read_again() -> None:
    report = reports.repaired()
    page = "".join(repair_sections(report))
    found = re.search(r'id="prescription-data">(.*?)</script>', page)
    assert found is not None
    content = json.loads(found[1])
    content["edits"] = content["edits"][:2]  # the third is of no known kind
    assert read_prescription(content).remedies == report.prescription.remedies
    assert 'data-save="prescription-data"' in page


def test_a_prescription_too_large_for_a_page_is_left_out() -> None:
    report = reports.repaired()
    edit = replace(report.prescription.edits[0], targets=tuple(f"layer.{k}" for k in range(50_000)))
    large = replace(report, prescription=replace(report.prescription, edits=(edit,)))
    page = "".join(repair_sections(large))
    assert "too large for this page" in page and len(page) < 100_000


@pytest.mark.parametrize("name", list(reports.REPORTS))
def test_any_report_has_figures_that_are_json(name: str) -> None:
    report = reports.REPORTS[name]()
    page = "".join(repair_sections(report)) + (before_and_after(report) or "")
    for figure in repair_figures(report):
        json.dumps(figure.plain(), allow_nan=False).encode()
        assert f'data-figure="{figure.id}"' in page
    shown = re.sub(r"\w*nan\w+|\w+nan\w*", "", page.lower())
    assert "nan" not in shown
