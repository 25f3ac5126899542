"""Windows against naive twins, with holes, zeros and nothing at all."""

import math

import numpy as np
import pytest
from histories import history, layers, optimizer, over_time, run, table
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradmend.records.history import Table
from gradmend.theory import windows

HOLED = arrays(
    float,
    st.tuples(st.integers(0, 12), st.integers(1, 4)),
    elements=st.one_of(
        st.just(math.nan), st.just(-math.inf), st.floats(-9, 9, allow_subnormal=False)
    ),
)


def naive_rank(values: np.ndarray, share: float) -> list[float]:
    found = []
    for column in values.T:
        known = sorted(v for v in column if not math.isnan(v))
        found.append(known[int(share * (len(known) - 1))] if known else math.nan)
    return found


@given(HOLED, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_rank_is_what_sorting_each_column_gives(values: np.ndarray, share: float) -> None:
    np.testing.assert_array_equal(windows.rank(values, share), naive_rank(values, share))


@given(
    arrays(float, st.integers(0, 9), elements=st.one_of(st.just(math.nan), st.floats(-20, 5))),
    st.floats(0.5, 8),
)
def test_a_lost_prefix_is_the_longest_that_lies_below_something_later(
    sizes: np.ndarray, decades: float
) -> None:
    longest = 0
    for count in range(1, len(sizes)):
        before = [v for v in sizes[:count] if not math.isnan(v)]
        after = [v for v in sizes[count:] if not math.isnan(v)]
        if before and after and max(after) >= max(before) + decades:
            longest = count
    assert windows.lost_prefix(sizes, sizes, decades)[0] == longest


def test_a_lost_prefix_tells_the_decades_of_the_very_first_layer() -> None:
    sizes = np.array([-9.0, -8.0, -5.0, -1.0])
    assert windows.lost_prefix(sizes, sizes, 5.0) == (2, 8.0)
    assert windows.lost_prefix(sizes[::-1], sizes[::-1], 1.0) == (0, 0.0)
    assert windows.lost_prefix(sizes[:1], sizes[:1], 1.0) == (0, 0.0)


def test_the_recent_window_is_never_more_than_half_of_what_was_measured() -> None:
    rows = over_time(np.arange(20.0))
    assert len(windows.recent(table("step", [optimizer()], 20, loss=rows), "loss")) == 10
    assert len(windows.recent(table("step", [optimizer()], 9, loss=rows[:9]), "loss")) == 8
    many = over_time(np.arange(400.0))
    found = windows.recent(table("step", [optimizer()], 400, loss=many), "loss")
    assert found[0, 0] == 400 - windows.RECENT


def test_rows_that_measured_nothing_are_no_rows() -> None:
    values = np.full((60, 2), np.nan)
    values[::7] = 1.0
    seen = table("output", layers(2), 60, zero_share=values)
    assert windows.recent(seen, "zero_share").shape == (8, 2)
    assert windows.lasting(seen, "zero_share").tolist() == [1.0, 1.0]
    values[-28:, 1] = np.nan  # the second was not measured of late
    seen = table("output", layers(2), 60, zero_share=values)
    assert np.isnan(windows.lasting(seen, "zero_share")).tolist() == [False, True]


def test_one_odd_row_changes_no_lasting_number() -> None:
    values = np.zeros((60, 1))
    values[-3] = 1e9
    seen = table("output", layers(1), 60, zero_share=values)
    assert windows.lasting(seen, "zero_share", 0.75) == 0.0


@pytest.mark.parametrize("empty", [Table(name="step"), Table(name="step", columns=(optimizer(),))])
def test_empty_tables_have_no_numbers_and_no_warnings(empty: Table) -> None:
    assert windows.recent(empty, "loss").size == 0
    assert np.isnan(windows.lasting(empty, "loss")).all()
    assert np.isnan(windows.early(empty, "loss")).all()
    assert windows.loss_course(history(empty)) == []
    assert windows.learned(history(empty)) is None


@pytest.mark.parametrize(
    ("losses", "learned"),
    [
        (np.linspace(2.0, 1.0, 60), True),
        (np.full(60, 2.0), False),
        (np.linspace(1.0, 2.0, 60), False),
        (np.linspace(2.0, 1.95, 60), False),  # less than a twentieth
        (np.linspace(-1.0, -2.0, 60), True),
        (2.0 + np.random.default_rng(0).normal(0, 1, 60) - 0.004 * np.arange(60), False),
        ([*np.linspace(2, 0.1, 200), *np.full(200, 0.1)], True),
    ],
)
def test_a_run_has_learned_when_its_loss_fell_by_more_than_noise(
    losses: np.ndarray, learned: bool
) -> None:
    assert windows.learned(history(run(losses))) is learned


def test_losses_that_are_not_finite_are_left_out() -> None:
    losses = np.linspace(2.0, 1.0, 60)
    losses[::5] = np.inf
    losses[1::5] = np.nan
    assert windows.learned(history(run(losses))) is True


def test_alternation_of_closed_forms() -> None:
    up_and_down = np.where(np.arange(64) % 2, 1.0, 2.0)
    assert windows.alternation(up_and_down) == pytest.approx(-1.0, abs=0.03)
    assert windows.alternation(up_and_down + 0.3 * np.arange(64)) == pytest.approx(-1.0, abs=0.05)
    assert windows.alternation(np.arange(64.0)) == 0.0
    assert windows.alternation(np.full(64, 3.0)) == 0.0
    assert windows.alternation(up_and_down[:5]) == 0.0


def test_noise_does_not_alternate() -> None:
    draw = np.random.default_rng(1)
    found = [windows.alternation(draw.normal(size=64)) for _ in range(2000)]
    assert min(found) > -0.6


@given(arrays(float, st.integers(1, 30), elements=st.floats(-5, 5)))
def test_rolling_median_is_the_median_of_each_window(values: np.ndarray) -> None:
    width = min(9, len(values))
    twin = [float(np.median(values[at : at + width])) for at in range(len(values) - width + 1)]
    np.testing.assert_allclose(windows.rolling_median(values), twin)


def test_a_rate_is_passing_while_it_warms_up_or_runs_out() -> None:
    def passing(rates: np.ndarray) -> bool:
        losses = np.ones(len(rates))
        return windows.rate_is_passing(history(run(losses, learning_rate=over_time(rates))), 0)

    assert passing(np.linspace(0.0, 1.0, 60))
    assert passing(np.linspace(1.0, 0.0, 60))
    assert not passing(np.ones(60))
    assert not passing(np.linspace(1.0, 0.5, 60))
    assert not passing(np.minimum(np.linspace(0, 10, 60), 1.0))


def test_matrices_are_trainable_and_in_forward_order() -> None:
    second, first = layers(2)[::-1]
    bias = layers(1, shape=(8,))[0]
    frozen = layers(1, facts={"trainable": False})[0]
    assert windows.matrices([second, bias, frozen, first]).tolist() == [3, 0]


def test_groups_are_of_an_optimizer_and_its_parameter_group() -> None:
    columns = [*layers(2), *layers(1, group=1), *layers(1, optimizer=1)]
    parts = windows.by_group(columns, windows.matrices(columns))
    assert {key: len(found) for key, found in parts.items()} == {(0, 0): 2, (0, 1): 1, (1, 0): 1}
    every = windows.matrices(columns)
    assert windows.of_optimizer(columns, every, 1).tolist() == [3]
