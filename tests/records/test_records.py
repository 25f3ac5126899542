"""Records merge, add up, and survive JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradmend
from gradmend.probe.statistics import stats_of
from gradmend.records.codec import to_plain
from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.ledger import Entry, Ledger, sum_by_cause
from gradmend.records.prescription import KEEPS, Change, Edit, Prediction, Prescription
from gradmend.records.report import Report
from gradmend.records.stats import Stats
from gradmend.records.trace import Run, Trace

NUMBERS = st.lists(
    st.one_of(
        st.floats(-1e6, 1e6, allow_subnormal=False),
        st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf]),
    ),
    max_size=12,
)


def naive(numbers: list[float]) -> Stats:
    """The definition, with numpy."""
    x = np.array(numbers, dtype=np.float64)
    kept = x[np.isfinite(x)]
    nonzero = np.abs(kept[kept != 0])
    return Stats(
        count=len(kept),
        total=float(kept.sum()),
        sum_of_squares=float((kept**2).sum()),
        max_abs=float(np.abs(kept).max(initial=0.0)),
        min_abs_nonzero=float(nonzero.min(initial=math.inf)),
        zeros=int((kept == 0).sum()),
        non_finite=len(x) - len(kept),
    )


def assert_same(a: Stats, b: Stats) -> None:
    for name in ("count", "zeros", "non_finite", "max_abs", "min_abs_nonzero"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.total == pytest.approx(b.total, rel=1e-9, abs=1e-6)
    assert a.sum_of_squares == pytest.approx(b.sum_of_squares, rel=1e-9, abs=1e-9)


@settings(deadline=None, derandomize=True)
@given(a=NUMBERS, b=NUMBERS, c=NUMBERS)
def test_parts_merge_in_any_order_to_the_whole(
    a: list[float], b: list[float], c: list[float]
) -> None:
    x, y, z = naive(a), naive(b), naive(c)
    assert_same(x.merge_parts(y).merge_parts(z), x.merge_parts(y.merge_parts(z)))
    assert_same(x.merge_parts(y), y.merge_parts(x))
    assert_same(x.merge_parts(y).merge_parts(z), naive(a + b + c))
    assert x.merge_parts(Stats()) == x
    assert Stats().merge_parts(x) == x


@settings(deadline=None, derandomize=True)
@given(numbers=NUMBERS)
def test_the_tensor_kernel_says_what_numpy_says(numbers: list[float]) -> None:
    assert_same(stats_of(torch.tensor(numbers, dtype=torch.float64)), naive(numbers))


@given(numbers=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_ratios_are_numpys(numbers: list[float]) -> None:
    stats, x = naive(numbers), np.array(numbers)
    assert stats.mean == pytest.approx(float(x.mean()), abs=1e-9)
    assert stats.mean_square == pytest.approx(float((x**2).mean()), abs=1e-9)
    assert stats.rms == pytest.approx(float(np.sqrt((x**2).mean())), abs=1e-9)
    assert stats.std**2 == pytest.approx(float(x.var()), rel=1e-6, abs=1e-8)


def test_nothing_has_no_mean() -> None:
    for name in ("mean", "mean_square", "rms", "std"):
        assert math.isnan(getattr(Stats(), name))
    assert stats_of(torch.zeros(0)) == Stats()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_statistics_of_any_type_are_taken_in_wide_numbers(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    assert_same(stats_of(x), naive(x.double().reshape(-1).tolist()))


def test_complex_numbers_count_as_two() -> None:
    assert stats_of(torch.tensor([3 + 4j])) == naive([3.0, 4.0])


# --- codec ---

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


@settings(deadline=None, derandomize=True)
@given(value=PLAIN)
def test_plain_values_round_trip_through_strict_json(value: Any) -> None:
    plain = to_plain(value)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert to_plain(plain) == plain


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_word_for_is_null(value: float) -> None:
    assert to_plain(value) is None
    assert to_plain({"a": [value, (value, 1.5)]}) == {"a": [None, [None, 1.5]]}
    assert to_plain(Stats(min_abs_nonzero=value))["min_abs_nonzero"] is None


def test_records_and_enums_become_words_and_numbers() -> None:
    class Colour(Enum):
        RED = "red"

    @dataclass(frozen=True)
    class Inner:
        colour: Colour
        tags: frozenset[str]

    plain = to_plain({1: Inner(Colour.RED, frozenset({"x"}))})
    assert plain == {"1": {"colour": "red", "tags": ["x"]}}
    assert to_plain(Severity.WARNING) == "warning"
    assert to_plain(Change.RESIDUAL) == 6


@pytest.mark.parametrize("value", [object(), Stats, b"bytes", torch.zeros(1), 1j])
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="has no JSON form"):
        to_plain([value])


def test_a_whole_report_survives_json() -> None:
    # GIVEN a model with exact zeros, so that the trace holds infinities
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    batch = (torch.ones(4, 6), torch.zeros(4, dtype=torch.long))
    report = gradmend.check(model, batch, F.cross_entropy)
    assert any(p.log10_grad == -math.inf for p in report.trace.parameters)
    # WHEN it is written to JSON and read back
    plain = report.to_dict()
    read = json.loads(json.dumps(plain, allow_nan=False))
    # THEN nothing is lost but what has no word
    assert read == plain
    assert {p["name"] for p in read["trace"]["parameters"]} == {n for n, _ in model.named_parameters()}  # fmt: skip  # noqa: E501
    zeros = [p for p in read["trace"]["parameters"] if p["exact_zero"]]
    assert zeros
    assert all(p["log10_grad"] is None for p in zeros)


# --- prescriptions ---


def prescription(number: int, *changes: Change) -> Prescription:
    return Prescription(
        edits=tuple(Edit(kind=f"kind{number}{i}") for i, _ in enumerate(changes)),
        predictions=(Prediction(quantity=f"q{number}", low=0.0, high=1.0),),
        remedies=(f"remedy{number}",),
        treats=(f"finding{number}", "both"),
        changes=changes,
        reason=f"reason {number}",
        model="MLP" if number == 1 else "",
    )


ONE = prescription(1, Change.ACTIVATION, Change.INITIALISATION)
TWO = prescription(2, Change.DATA_SCALE, Change.ACTIVATION, Change.ACTIVATION)


def test_two_prescriptions_combine_in_order() -> None:
    both = ONE.plus(TWO)
    assert both.edits == ONE.edits + TWO.edits
    assert both.predictions == ONE.predictions + TWO.predictions
    assert both.remedies == ("remedy1", "remedy2")
    assert both.treats == ("finding1", "both", "finding2")
    assert both.changes == (Change.DATA_SCALE, Change.INITIALISATION, Change.ACTIVATION)
    assert both.reason == "reason 1; reason 2"
    assert both.model == "MLP"
    assert TWO.plus(ONE).model == "MLP"


def test_combining_is_associative_and_nothing_changes_nothing() -> None:
    three = prescription(3, Change.RESIDUAL)
    assert ONE.plus(TWO).plus(three) == ONE.plus(TWO.plus(three))
    assert Prescription().plus(three) == three
    assert three.plus(Prescription()) == three
    assert not Prescription()
    assert ONE


def test_size_orders_by_the_largest_change_first() -> None:
    assert Prescription().size == (0, 0, 0, 0)
    assert ONE.size[:3] == (4, 2, 2)
    assert TWO.size[:3] == (4, 2, 3)
    assert ONE.plus(TWO).size[:3] == (4, 3, 5)
    # AND of two alike, the one that changes fewer places is smaller
    one = replace(ONE, edits=(Edit(kind="initialise", targets=("a",)),))
    three = replace(ONE, edits=(Edit(kind="initialise", targets=("a", "b", "c")),))
    assert one.size < three.size
    many_small = prescription(4, *[Change.DATA_SCALE] * 9)
    assert many_small.size < prescription(5, Change.INITIALISATION).size


def test_every_change_can_be_forbidden_and_only_once() -> None:
    named = [change for kept in KEEPS.values() for change in kept]
    assert set(named) == set(Change)


# --- ledger ---


def leaf(cause: str | None, decades: float, predicted: float | None = None) -> Entry:
    return Entry(name="x", kind="operation", decades=decades, cause=cause, predicted=predicted)


TREE = Entry(
    name="",
    kind="module",
    decades=-6.0,
    children=(
        leaf("weights", -1.0, -0.5),
        Entry(
            name="inner",
            kind="module",
            decades=-5.0,
            predicted=-99.0,
            children=(leaf("weights", -2.0, -2.5), leaf("activation-derivative", -4.0)),
        ),
        leaf(None, 1.0, 1.0),
    ),
)


def test_causes_are_summed_over_leaves_only_largest_loss_first() -> None:
    sums = sum_by_cause(TREE)
    assert list(sums.items()) == [
        ("activation-derivative", -4.0),
        ("weights", -3.0),
        ("other", 1.0),
    ]
    assert math.fsum(sums.values()) == TREE.decades
    assert sum_by_cause(TREE, predicted=True) == {"weights": -3.0, "other": 1.0}


def test_walking_goes_parents_first_and_deep_without_recursion() -> None:
    assert [e.decades for e in TREE.walk()] == [-6.0, -1.0, -5.0, -2.0, -4.0, 1.0]
    deep = leaf("weights", -1.0)
    for _ in range(5000):
        deep = Entry(name="m", kind="module", decades=-1.0, children=(deep,))
    assert sum(1 for _ in deep.walk()) == 5001
    assert sum_by_cause(deep) == {"weights": -1.0}


def test_theory_has_a_total_only_where_every_entry_has_one() -> None:
    ledger = Ledger(cotangent="loss", total_decades=-6.0, unexplained_decades=0.0, root=TREE)
    assert ledger.predicted_decades is None
    known = Entry(name="", kind="module", decades=-3.0, children=(leaf("weights", -3.0, -2.0), leaf("joins", 1e-12)))  # fmt: skip  # noqa: E501
    assert Ledger(
        cotangent="loss", total_decades=-3.0, unexplained_decades=0.0, root=known
    ).predicted_decades == pytest.approx(-2.0)
    assert Ledger(
        cotangent="loss", total_decades=None, unexplained_decades=None, root=None
    ).predicted_decades is None  # fmt: skip


# --- report ---


def finding(severity: Severity) -> Finding:
    return Finding(
        code="ABC001",
        name="name",
        severity=severity,
        modules=("a",),
        summary="words",
        evidence=(Evidence(quantity="q", observed=math.inf),),
    )


def test_a_report_knows_what_counts_as_healthy() -> None:
    trace = Trace(run=Run(model="MLP"))
    assert Report(trace=trace).healthy
    assert Report(trace=trace, findings=(finding(Severity.NOTE),)).healthy
    sick = Report(trace=trace, findings=(finding(Severity.WARNING), finding(Severity.ERROR)))
    assert not sick.healthy
    assert len(sick.at_least("error")) == 1
    assert len(sick.at_least(Severity.NOTE)) == 2
    assert [s.rank for s in Severity] == [0, 1, 2]
    plain = sick.to_dict()
    assert plain["healthy"] is False
    assert plain["findings"][0]["evidence"][0]["observed"] is None
    assert "ABC001" in str(sick)
    assert "healthy" in str(Report(trace=trace))
