"""Who goes on in a race: the decisions, on hand-made scores."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmend.engine.trial.arm import Runner
from gradmend.engine.trial.race import (
    CLOSES,
    FEWEST,
    SURVIVES,
    agrees,
    apart,
    base_of,
    beats,
    clear_winner,
    enough,
    gain,
    goals,
    leads,
    survivors,
)
from gradmend.records.prescription import Change, Edit, Prescription

STEP = 12


def arm(score: float, change: int = 2, seed: int = 0, first: float = 2.3) -> Runner:
    edit = Edit(kind="scale_learning_rate", args={"factor": 1.0})
    made = Prescription(edits=(edit,), remedies=(f"r{score}",), changes=(Change(change),))
    return ran(made, score, seed, first)


def original(score: float, seed: int = 0, first: float = 2.3) -> Runner:
    return ran(None, score, seed, first)


def ran(made: Prescription | None, score: float, seed: int, first: float) -> Runner:
    return Runner(
        prescription=made,
        seed=seed,
        steps=STEP,
        losses=[(1, first)],
        scores={STEP: score},
        diverged=not math.isfinite(score),
    )


scores = st.floats(min_value=0.0, max_value=5.0)
fields = st.lists(st.tuples(scores, st.integers(0, 7)), min_size=1, max_size=9)


@given(fields, scores, st.integers(1, 4))
def test_the_best_and_the_smallest_able_one_always_go_on(
    field: list[tuple[float, int]], base: float, most: int
) -> None:
    # GIVEN arms of any scores and sizes
    arms = [arm(score, change) for score, change in field]
    start = original(base)
    # WHEN they are cut
    kept = survivors(arms, start, STEP, most)
    # THEN the best goes on, and no more than may
    best = min(arms, key=lambda a: a.score)
    assert 1 <= len(kept) <= most
    assert min(a.score for a in kept) == best.score
    # AND where two may, so does the smallest of those that close half of the best gap
    gap = base_of(start, arms, STEP) - best.score
    base = gap + best.score
    if gap > 0 and most > 1:
        able = [a for a in arms if base - a.score >= SURVIVES * gap]
        assert min(a.size for a in kept) == min(a.size for a in able)
        assert all(base - a.score >= SURVIVES * gap for a in kept)


@given(fields, scores)
def test_enough_is_the_naive_definition(field: list[tuple[float, int]], base: float) -> None:
    arms = [arm(score, change) for score, change in field]
    found = enough(arms, original(base), STEP)
    base = base_of(original(base), arms, STEP)
    best = max(base - a.score for a in arms)
    naive = [a for a in arms if (base - a.score) / best >= CLOSES] if best else arms
    assert {id(a) for a, _ in found} == {id(a) for a in naive}
    assert [(a.size, a.score) for a, _ in found] == sorted((a.size, a.score) for a in naive)


def test_a_small_change_as_good_as_the_best_goes_on_alone() -> None:
    small, large = arm(1.02, 1), arm(1.0, 6)
    assert clear_winner([small, large], original(2.0), STEP) == [small]
    # but not one that closes clearly less, which the rest of the training may still change
    less = arm(1.1, 1)
    assert clear_winner([less, large], original(2.0), STEP) == [less, large]
    # nor where nothing has been gained yet
    assert len(clear_winner([arm(2.1, 1), arm(2.0, 6)], original(1.9), STEP)) == 2


def test_an_original_that_diverged_counts_from_where_it_began() -> None:
    lost = original(math.inf)
    assert base_of(lost, [arm(0.5)], STEP) == 2.3
    # or from the worst arm, as long as that is not far off as well
    assert base_of(lost, [arm(0.5), arm(3.0)], STEP) == 3.0
    assert base_of(lost, [arm(0.5), arm(400.0)], STEP) == 2.3
    # AND beside a loss that exploded without becoming infinite, from where it began or a guess
    assert base_of(original(1e6), [arm(0.5)], STEP) == 2.3
    assert base_of(original(1e6, first=900.0), [arm(0.5)], STEP, guess=2.0) == 2.0
    assert base_of(original(2.5), [arm(0.5)], STEP, guess=2.0) == 2.5
    assert base_of(original(6.0), [arm(3.0)], STEP, guess=2.0) == 6.0, "nobody is below a guess"
    assert gain(math.inf, 1.0) == math.inf
    assert gain(math.inf, math.inf) == 0.0
    # a finite loss alone is no repair
    assert not beats(arm(2.25), lost)
    assert beats(arm(1.9), lost)
    assert not beats(arm(math.inf), lost)


@pytest.mark.parametrize(
    ("score", "beaten"), [(0.97, True), (0.985, False), (1.0, False), (math.nan, False)]
)
def test_two_percent_of_the_loss_is_the_least_gain(score: float, beaten: bool) -> None:
    assert beats(arm(score), original(1.0)) == beaten


def test_another_seed_agrees_if_it_is_half_as_far_ahead() -> None:
    first, first_original = arm(1.0), original(2.0)
    assert agrees(arm(1.4, seed=1), original(2.0, 1), first, first_original)
    assert not agrees(arm(1.6, seed=1), original(2.0, 1), first, first_original)
    # where the first was not ahead at this step, nothing is known yet
    assert not agrees(arm(1.0, seed=1), original(2.0, 1), arm(2.0), original(2.0))
    # where originals diverge, learning is what counts
    lost = original(math.inf)
    assert agrees(arm(1.0, seed=1), original(math.inf, 1), first, lost)
    assert not agrees(arm(2.29, seed=1), original(math.inf, 1), first, lost)


@given(st.integers(1, 5000))
def test_stops_ascend_to_the_whole_training(steps: int) -> None:
    stops = goals(steps)
    assert stops[-1] == steps
    assert list(stops) == sorted(set(stops))
    assert all(stop >= min(steps, FEWEST) for stop in stops)
    assert len(stops) <= 3


@pytest.mark.parametrize(
    ("score", "ahead"), [(2.3, False), (2.26, False), (2.25, True), (math.inf, False)]
)
def test_a_plateaus_differences_are_no_lead(score: float, ahead: bool) -> None:
    assert leads(arm(score), original(2.3), STEP) is ahead


def test_whoever_has_a_loss_leads_an_original_that_has_none() -> None:
    assert leads(arm(5.0), original(math.inf), STEP)
    assert not leads(arm(math.inf), original(math.inf), STEP)


@pytest.mark.parametrize(
    ("its", "own", "told"),
    [
        ((2.0, 2.1, 2.2), (1.0, 1.1, 1.2), True),
        ((2.0, 2.1, 2.2), (1.7, 1.8, 1.95), False),  # better, but by less than half of a spread
        ((2.0, 2.1, 2.2), (1.0, 1.1, 2.05), False),  # one of them is no better
        ((2.0, 2.0, 2.0), (2.0, 2.0, 2.0), False),
        ((2.0, 2.0, 2.0), (1.9, 1.9, 1.9), True),  # repeats that do not differ at all
        ((math.inf, 2.0, math.inf), (1.0, 1.1, 1.5), True),  # some of them diverged
    ],
)
def test_repeats_are_apart_by_more_than_they_differ(
    its: tuple[float, ...], own: tuple[float, ...], told: bool
) -> None:
    pairs = [
        (original(a, seed), arm(b, seed=seed))
        for seed, (a, b) in enumerate(zip(its, own, strict=True))
    ]
    assert apart(pairs) is told
