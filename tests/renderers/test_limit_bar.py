from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmend.records.finding import Evidence
from gradmend.renderers.limit_bar import beyond, limit_bar


@pytest.mark.parametrize(
    ("observed", "limit", "unit", "said"),
    [
        (61.2, 4.0, "decades", "57.2 decades above"),
        (1.0, 4.0, "decades", "3 decades below"),
        (0.233, 0.5, "1", "0.47 × the limit"),
        (30.0, 2.0, "norms", "15 × the limit"),
        (3.0, 0.0, "parameters", "3 parameters above"),
        (-0.5, 0.5, "1", "1 below"),
        (2.0, 2.0, "1", "at the limit"),
        (math.nan, 2.0, "1", ""),
        (2.0, math.inf, "1", ""),
        (2.0, None, "1", ""),
    ],
)
def test_how_far_in_words(observed: float, limit: float | None, unit: str, said: str) -> None:
    item = Evidence(quantity="q", observed=observed, limit=limit, unit=unit)
    assert beyond(item) == said
    assert bool(limit_bar(item, "error")) == bool(said)


def test_a_logarithm_differs_by_a_difference() -> None:
    item = Evidence(quantity="log10 update over weight", observed=-6.5, limit=-6.0)
    assert beyond(item) == "0.5 below"


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_no_part_of_a_bar_is_outside(observed: float, limit: float) -> None:
    shown = limit_bar(Evidence(quantity="q", observed=observed, limit=limit), "note")
    numbers = [float(part.split('"')[-1]) for part in shown.split("%")[1:-1]]
    assert all(-0.01 <= number <= 100.01 for number in numbers)


def test_a_small_figure_beside_a_large_one_is_on_a_logarithmic_scale() -> None:
    far = limit_bar(Evidence(quantity="q", observed=1e6, limit=1.0), "error")
    near = limit_bar(Evidence(quantity="q", observed=10.0, limit=1.0), "error")
    assert "logarithmic" in far and "linear" in near
