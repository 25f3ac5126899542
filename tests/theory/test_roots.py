"""The bracketing root finder against known roots."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gradmend.theory._roots import find_root

CASES: list[tuple[Callable[[float], float], float, float, float]] = [
    (lambda x: x**3 - 2, 0.0, 2.0, 2 ** (1 / 3)),
    (lambda x: math.exp(x) - 1e-3, -50.0, 3.0, math.log(1e-3)),
    (lambda x: math.atan(x - 700.0), -1e6, 1e6, 700.0),
    (lambda x: x**9, -1.0, 1.5, 0.0),  # so flat that f underflows; Brent's method gives up
    (lambda x: -1.0 if x < 0.123 else 1.0, 0.0, 1.0, 0.123),
]


@pytest.mark.parametrize(("f", "low", "high", "root"), CASES)
def test_root_is_found(f: Callable[[float], float], low: float, high: float, root: float) -> None:
    assert find_root(f, low, high) == pytest.approx(root, rel=1e-12, abs=1e-12)


def test_order_of_the_ends_does_not_matter_and_an_end_may_be_the_root() -> None:
    assert find_root(lambda x: x - 1, 3.0, 0.0) == pytest.approx(1.0)
    assert find_root(lambda x: x - 3, 3.0, 0.0) == 3.0
    assert find_root(lambda x: x, 3.0, 0.0) == 0.0


def test_smooth_functions_take_few_evaluations() -> None:
    calls = 0

    def f(x: float) -> float:
        nonlocal calls
        calls += 1
        return math.tanh(x) - 0.3

    find_root(f, -5.0, 5.0)
    assert calls < 20  # bisection would take 50


def test_missing_sign_change_is_refused() -> None:
    with pytest.raises(ValueError, match="same sign"):
        find_root(lambda x: x * x + 1, -1.0, 1.0)
