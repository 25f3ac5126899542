from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmend.records.ledger import CAUSES, Entry
from gradmend.renderers.by_cause import cause_figure
from gradmend.renderers.waterfall import _stack, bins, ledger_figure, pile

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)

values = st.lists(st.floats(-9, 9), min_size=3, max_size=3)


@given(st.dictionaries(st.sampled_from(CAUSES), values, min_size=1))
def test_the_stack_ends_where_losses_and_gains_add_up(piles: dict[str, list[float]]) -> None:
    layers = _stack(piles)
    for k in range(3):
        drawn = math.fsum(high[k] - low[k] for _, low, high in layers)
        assert math.isclose(drawn, math.fsum(p[k] for p in piles.values()), abs_tol=1e-9)
        lowest = min((min(low[k], high[k]) for _, low, high in layers), default=0.0)
        losses = math.fsum(min(p[k], 0.0) for p in piles.values())
        assert math.isclose(lowest, losses, abs_tol=1e-9)


def test_a_cause_that_loses_here_and_gains_there_is_two_areas() -> None:
    # given a pile that changes its sign over depth
    layers = _stack({"normalisation": [0.5, -0.5, 0.0]})
    # then no area crosses zero
    assert [cause for cause, _, _ in layers] == ["normalisation", "normalisation"]
    assert layers[0][2] == [0.0, -0.5, 0.0] and layers[1][2] == [0.5, 0.0, 0.0]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50), st.integers(1, 20))
def test_bins_hold_every_entry_once(decades: list[float], most: int) -> None:
    leaves = [
        Entry(name=str(k), kind="module", decades=v, cause="weights") for k, v in enumerate(decades)
    ]
    parts = bins(leaves, most)
    assert sum(part.size for part in parts) == len(leaves)
    assert len(parts) == min(len(leaves), most)
    assert math.isclose(pile([part.decades for part in parts])[0], math.fsum(decades), abs_tol=1e-9)


def test_the_figure_has_its_words_and_a_table() -> None:
    shown = ledger_figure(reports.deep(201).ledger)
    assert 'data-figure="ledger"' in shown and 'id="fig-ledger"' in shown
    assert "Layer by layer, like ones grouped" in shown
    assert "[Linear(64, 64), Sigmoid] x 100" in shown
    assert "20,001 entries are drawn as 400 bins" in ledger_figure(reports.deep(20_001).ledger)


def test_no_bar_leaves_its_cell() -> None:
    shown = cause_figure(reports.deep(11).ledger)
    shares = [float(found) for found in re.findall(r'"(-?[\d.]+)%"', shown)]
    assert shares and all(-0.01 <= share <= 100.01 for share in shares)
    assert "activation-derivative" in shown and "total" in shown


@pytest.mark.parametrize("text", reports.HOSTILE)
def test_foreign_names_stay_text(text: str) -> None:
    ledger = reports.hostile(text).ledger
    shown = ledger_figure(ledger) + cause_figure(ledger)
    assert "<script>" not in shown and "<img" not in shown and "\u202e" not in shown
