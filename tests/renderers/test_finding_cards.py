from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from gradmend.records.finding import Evidence
from gradmend.registry import rules
from gradmend.renderers import run_words
from gradmend.renderers.finding_cards import FIGURES, SHOWN_BY, figure_for, finding_cards

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)


def test_a_card_says_all_there_is_to_say() -> None:
    (card,) = finding_cards(reports.deep(201), {"ledger"})
    for part in (
        "attenuating-activation",
        'href="#explain-1"',
        'id="explain-1"',
        "gradmend explain ACT101",
        'data-layer="1"',
        "train.py:42  nn.Sigmoid()",
        "57.2 decades above",
        "a skip that pays the loss back",
        "Explains 1 other finding",
        "critical-init",
        "Changes: initialisation, optimizer.",
        'href="#fig-ledger"',
        "gradmend.fix(model, batches, loss_fn, optimizer=optimizer)",
    ):
        assert part in card


def test_nothing_found_is_said() -> None:
    assert finding_cards(reports.empty()) == ["<p>No rule found anything.</p>"]


@pytest.mark.parametrize(
    ("steps", "status", "said"),
    [
        (30, "finished", "No rule found anything in 30 steps."),
        (0, "finished", "none was seen"),
        (0, "running", "none has been written yet"),
    ],
)
def test_nothing_found_in_a_run_says_in_what(steps: int, status: str, said: str) -> None:
    run = replace(run_words.watched_of(reports.empty()), steps=steps, status=status)
    (card,) = finding_cards(replace(reports.empty(), watched=run))
    assert said in card


def test_many_modules_and_figures_are_folded_and_bounded() -> None:
    report = reports.deep(20_001)
    evidence = tuple(Evidence(quantity=f"q{k}", observed=1.0) for k in range(1000))
    report = replace(report, findings=(replace(report.findings[0], evidence=evidence),))
    (card,) = finding_cards(report)
    assert "and 9,994 more, to" in card
    assert card.count("data-layer") == 200
    assert "The first 40 of 1,000 figures." in card


def test_what_was_prescribed_comes_first_and_the_rest_is_folded() -> None:
    # given a finding with five remedies, the last of which was chosen and the first refused
    report = reports.repaired()
    names = ("add-skip", "critical-init", "replace-activation", "he-init", "rescale-by-data")
    finding = replace(report.findings[0], name="x", remedies=names)
    prescription = replace(report.prescription, remedies=("rescale-by-data",))
    (card,) = finding_cards(replace(report, findings=(finding,), prescription=prescription))
    # then
    assert card.index("rescale-by-data") < card.index("4 other remedies") < card.index("add-skip")
    assert card.index("he-init") < card.index("refused: <bdi>keep forbids it")


def test_every_rule_points_at_a_figure_that_exists() -> None:
    for rule in rules():
        assert figure_for(rule.code, FIGURES) in FIGURES
        assert figure_for(rule.code, ()) is None
    assert {name for names in SHOWN_BY.values() for name in names} <= set(FIGURES)
    assert figure_for("ACT103", {"heat-flat", "ledger"}) == "heat-flat"
    assert figure_for("ACT103", {"ledger"}) == "ledger"
    assert figure_for("OPT221", {"ratio", "training"}) == "ratio"


@pytest.mark.parametrize("text", reports.HOSTILE)
def test_foreign_text_stays_text(text: str) -> None:
    shown = "".join(finding_cards(reports.hostile(text), {"ledger"}))
    assert "<script>alert" not in shown and "<img" not in shown
    assert "\u202e" not in shown and "\x1b" not in shown
