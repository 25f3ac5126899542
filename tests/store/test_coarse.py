import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradmend.store.coarse import Summary, merge, summarise, unpacked

VALUES = st.floats(-1000, 1000, width=32) | st.sampled_from([math.nan, math.inf, -math.inf])
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=VALUES)


def naive(column: list[float]) -> tuple[float, float, float, int]:
    """Mean, low, high and count of one column, in plain Python."""
    measured = [x for x in column if not math.isnan(x)]
    if not measured:
        return math.nan, math.nan, math.nan, 0
    finite = [x for x in measured if math.isfinite(x)]
    mean = sum(finite) / len(finite) if finite else max(measured)
    return mean, min(measured), max(measured), len(finite)


def columns(summary: Summary) -> list[tuple[float, ...]]:
    return list(
        zip(
            *(part.tolist() for part in (summary.mean, summary.low, summary.high, summary.known)),
            strict=True,
        )
    )


def same(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return right == pytest.approx(left, rel=1e-5, abs=1e-3, nan_ok=True)


@given(ROWS)
def test_summary_against_plain_python(rows: np.ndarray) -> None:
    for column, found in zip(rows.T.tolist(), columns(summarise(rows)), strict=True):
        assert same(naive(column), found)


@given(ROWS, st.integers(0, 20))
def test_merging_is_summarising_together(rows: np.ndarray, cut: int) -> None:
    cut = min(cut, len(rows))
    if cut in (0, len(rows)):
        return
    merged = merge(summarise(rows[:cut]), summarise(rows[cut:]))
    for left, right in zip(columns(summarise(rows)), columns(merged), strict=True):
        assert same(left, right)


def test_one_dead_step_does_not_hide_the_others() -> None:
    # log10 of a gradient that was exactly zero once.
    rows = np.array([[-3.0], [-5.0], [-np.inf]], dtype=np.float32)
    assert columns(summarise(rows)) == [(-4.0, -np.inf, -3.0, 2.0)]
    dead = np.full((4, 1), -np.inf, dtype=np.float32)
    assert columns(merge(summarise(rows), summarise(dead))) == [(-4.0, -np.inf, -3.0, 2.0)]
    assert columns(merge(summarise(dead), summarise(dead))) == [(-np.inf, -np.inf, -np.inf, 0.0)]


def test_columns_that_came_later() -> None:
    few, many = np.ones((2, 1), np.float32), np.full((2, 3), 3, np.float32)
    for merged in (
        merge(summarise(few), summarise(many)),
        merge(summarise(many), summarise(few)),
    ):
        assert columns(merged) == [(2, 1, 3, 4), (3, 3, 3, 2), (3, 3, 3, 2)]


def test_bytes_and_back_keep_the_order() -> None:
    rows = np.random.default_rng(0).normal(size=(64, 600)).astype(np.float32)
    back = unpacked(600, *summarise(rows).packed())
    assert np.all((back.low <= back.mean) & (back.mean <= back.high))
    assert back.mean == pytest.approx(rows.mean(axis=0), abs=1e-4)
    assert back.low == pytest.approx(rows.min(axis=0), rel=2.0**-12)
    assert np.all(back.known == 64)
