from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import pytest

from gradmend.records.verdict import Figure, Verdict, Yardstick
from gradmend.renderers.script_figures import figure_table
from gradmend.renderers.unseen_dots import rows_of, unseen_dots

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)
arm = reports.arm


def verdict_of(**arms: object) -> Verdict:
    return Verdict(kept=True, reason="", **arms)  # type: ignore[arg-type]


def test_seeds_of_other_lengths_are_no_part_of_one_mean() -> None:
    # given the first seed trained to the end and two that agreed early
    winner = (
        arm("init", 0, 0.2, steps=300),
        arm("init", 1, 0.6, steps=25),
        arm("init", 2, 0.8, steps=25),
    )
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
