"""Rules over runs judge numbers: histories built by hand, at their limits and beyond sense."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from histories import FALLING, FLAT, history, layers, optimizer, over_time, run, table

from gradmend.records.finding import Finding, Severity
from gradmend.records.history import TABLES, Column, Event, History, Table
from gradmend.records.loss_call import LossCall, Values
from gradmend.registry import Rule, find, rules

NAN = math.nan


def judged(name: str, seen: History) -> list[Finding]:
    found = find(name)
    assert isinstance(found, Rule)
    return list(found.over(seen))


def gradients(*sizes: float, kind: str = "SGD", **more: Any) -> History:
    columns = layers(len(sizes), **more)
    return history(
        run(FLAT, kind),
        table("gradient", columns, 60, state=2, log10_rms=sizes, zero_share=0.0),
    )


def updates(*ratios: float, losses: np.ndarray = FLAT, **values: Any) -> History:
    columns = layers(len(ratios))
    return history(
        run(losses, learning_rate=0.1, log10_norm=0.0),
        table("update", columns, 60, log10_ratio=ratios, **{"log10_weight": -1.0, **values}),
    )


def outputs(kind: str, losses: np.ndarray = FLAT, **values: Any) -> History:
    columns = [Column(name=n, module=n, kind=kind, order=at) for at, n in enumerate("abc")]
    return history(run(losses), table("output", columns, 60, **values))


def attention(**values: Any) -> History:
    column = Column(name="attention", module="attention", order=0)
    return history(run(FLAT), table("attention", [column], 60, **values))


def recurrence(span: float) -> History:
    column = Column(name="rnn", module="rnn", kind="RNN", order=0)
    return history(run(FLAT), table("recurrence", [column], 60, log10_span=span))


def clipped(factor: float, free: float = 200, ratio: float = -6.0, kind: str = "SGD") -> History:
    """Every step is clipped but each ``free``-th."""
    factors = np.where(np.arange(120) % int(free) == int(free) - 1, 1.0, factor)
    return history(
        run(FLAT, kind, clip_factor=over_time(factors), clip_limit=1.0),
        table("update", layers(3), 60, log10_ratio=ratio),
    )


def halved(times: float, skipped: float) -> History:
    scales = 2.0 ** -np.minimum(np.arange(120.0), times)
    left_out = (np.arange(120) % 10 < 10 * skipped).astype(float)
    return history(run(FLAT, loss_scale=over_time(scales), skipped=over_time(left_out)))


def low_precision(dtype: str, **values: Any) -> History:
    return history(
        run(FLAT, learning_rate=0.1),
        table("gradient", layers(4, dtype=dtype), 60, **{"state": 2, **values}),
        table("update", layers(4, dtype=dtype), 60, **values),
    )


def adam(eps: float, dtype: str, size: float, losses: np.ndarray = FLAT) -> History:
    step = table("step", [optimizer("Adam", eps=eps)], 120, loss=over_time(losses))
    return history(step, table("gradient", layers(4, dtype=dtype), 60, state=2, log10_rms=size))


def game(winner: float, lost: float) -> History:
    columns = [optimizer("Adam", "maker"), optimizer("Adam", "judge")]
    norms = np.where(np.arange(120) < 40, 0.0, -lost)
    loss = np.stack([np.full(120, -0.1), np.where(np.arange(120) < 20, 1.4, winner)], axis=1)
    return history(
        table(
            "step", columns, 120, loss=loss,
            log10_norm=np.stack([norms, np.zeros(120)], axis=1),
        )
    )  # fmt: skip


def spiked(factor: float, times: int) -> History:
    sizes = np.full(120, -2.0) + 0.02 * np.sin(np.arange(120.0))
    sizes[20 : 20 + 25 * times : 25] += factor
    return history(run(FALLING, log10_update_norm=over_time(sizes)))


def jumped(height: float, shock: float = 2.0, back: int = 200) -> History:
    losses = np.linspace(2.0, 1.0, 120) + 0.001 * np.sin(np.arange(120.0))
    losses[70 : 70 + back] = losses[69] + height
    norms = np.where(np.arange(120) == 70, shock, 0.0)
    return history(run(losses, log10_norm=over_time(norms)))


E = 1e-3
LIMITS: dict[str, tuple[str, Callable[[float], History], float]] = {
    # what: (rule, history at a distance from the limit, the distance that fires)
    "vanishing": ("vanishing-gradient", lambda d: gradients(-7.5 - d, -2, -2), E),
    "vanishing, eps": (
        "vanishing-gradient", lambda d: gradients(-8.0 - d, -2, -2, kind="Adam"), E,
    ),
    "exploding": ("exploding-gradient", lambda d: gradients(2.0 + d, 0, -2), E),
    "stalled": ("stalled-layers", lambda d: updates(-6.0 - d, -3, -3), E),
    "stalled, decades": ("stalled-layers", lambda d: updates(-7.0 - d, -4, -4), E),
    "flat": ("saturated-activation", lambda d: outputs("tanh", flat_share=0.5 + d), E),
    "flat, learned": (
        "saturated-activation", lambda d: outputs(  # not so from the beginning
            "tanh", FALLING, flat_share=over_time([0.1] + 59 * [0.9 + d])
        ), E,
    ),
    "dead": ("dead-relu", lambda d: outputs("relu", FALLING, dead_share=0.7 + d), E),
    "silent": (
        "dead-relu", lambda d: outputs("relu", FALLING, dead_share=0.0, zero_share=0.999 + d),
        1e-4,
    ),
    "diverging": (
        "diverging-loss",
        lambda d: history(run(np.where(np.arange(120) < 40, 1.0, 5.0 + d))), E,
    ),
    "plateau": (
        "loss-plateau", lambda d: history(run(np.where(np.arange(120) < 9, 1.0, 0.98 + d))), E,
    ),
    "spike": ("loss-spike", lambda d: jumped(0.3 + d), 0.15),
    "spike, shock": ("loss-spike", lambda d: jumped(3.0, shock=0.5 + d), E),
    "updates spike": ("update-norm-spike", lambda d: spiked(0.72 + d, 3), 0.05),
    "rate high": (
        "learning-rate-too-high", lambda d: updates(-1.0 + d, -1.0 + d, -1.0 + d), E,
    ),
    "rate low": ("learning-rate-too-low", lambda d: updates(-6.0 - d, -8, -8), E),
    "collapse": (
        "weight-collapse",
        lambda d: updates(
            -3, -3, log10_weight=over_time(np.where(np.arange(60) < 30, -1.0, -2.0 - d))
        ), E,
    ),
    "clip": ("clip-too-tight", lambda d: clipped(0.1 - d), E),
    "clip, share": ("clip-too-tight", lambda d: clipped(0.01, free=20 + d), 8),
    "clip, ratio": ("clip-too-tight", lambda d: clipped(0.01, ratio=-4.0 - d), E),
    "scale": ("loss-scale-collapse", lambda d: halved(20 + d, 1.0), 0.5),
    "scale, skipped": ("loss-scale-collapse", lambda d: halved(60, 0.5 + d), 0.1),
    "underflow": ("gradient-underflow", lambda d: low_precision("float16", underflow_share=0.5 + d),
                  E),
    "lost": ("updates-lost-to-rounding",
        lambda d: low_precision("bfloat16", lost_share=0.5 + d), E,
    ),
    "eps small": ("unsuited-epsilon", lambda d: adam(2.0**-25 - d, "float16", -1.0), 1e-10),
    "eps large": ("unsuited-epsilon", lambda d: adam(1e-8, "float32", -9.0 - d), E),
    "logits": (
        "attention-logit-growth",
        lambda d: attention(
            largest_logit=over_time(np.where(np.arange(60) < 20, 5.0, 100.0 + d))
        ), E,
    ),
    "one key": (
        "saturated-attention",
        lambda d: attention(entropy=0.1 - d, largest_share=0.95, largest_logit=50.0), E,
    ),
    "through time, lost": ("gradient-lost-through-time", lambda d: recurrence(-4.0 - d), E),
    "through time, grown": ("gradient-grown-through-time", lambda d: recurrence(3.0 + d), E),
    "game, loss": ("saturated-adversarial-loss", lambda d: game(0.02 - d, 4.0), E),
    "game, gradient": ("saturated-adversarial-loss", lambda d: game(0.001, 2.0 + d), E),
}  # fmt: skip


@pytest.mark.parametrize("what", LIMITS)
def test_a_rule_fires_just_beyond_its_limit_and_is_silent_just_before_it(what: str) -> None:
    name, history_at, distance = LIMITS[what]
    assert judged(name, history_at(distance)), "just beyond"
    assert not judged(name, history_at(-distance)), "just before"


# -- near misses: the neighbouring cause, and what is meant


def test_adam_makes_up_for_small_gradients_until_its_eps_and_sgd_does_not() -> None:
    assert not judged("vanishing-gradient", gradients(-7.9, -2, -2, kind="Adam"))
    assert judged("vanishing-gradient", gradients(-7.9, -2, -2, kind="SGD"))


def test_one_small_layer_in_the_middle_has_not_vanished() -> None:
    assert not judged("vanishing-gradient", gradients(-2, -12, -2))
    assert not judged("stalled-layers", updates(-3, -12, -3))


def test_rarely_used_rows_are_no_vanished_gradient() -> None:
    rare = table(
        "gradient", layers(3), 60, state=2, log10_rms=[-7.6, -2.0, -2.0],
        zero_share=[0.9999, 0.0, 0.0],
    )  # fmt: skip
    assert not judged("vanishing-gradient", history(run(FLAT), rare))


def test_layers_with_a_rate_of_their_own_do_not_stand_still() -> None:
    columns = (*layers(1, group=0), *layers(2, group=1))
    seen = table("update", columns, 60, log10_ratio=[-9.0, -3.0, -3.0])
    assert not judged("stalled-layers", history(run(FLAT), seen))


def test_layers_that_are_bitwise_the_same_stand_still() -> None:
    (finding,) = judged("stalled-layers", updates(-math.inf, -math.inf, -3))
    assert "nothing at all" in finding.summary
    assert finding.modules == ("layer0", "layer1")
    assert finding.severity is Severity.ERROR


def test_layers_without_a_gradient_are_another_finding() -> None:
    seen = updates(-math.inf, -3, -3)
    states = table("gradient", layers(3), 60, state=[1, 2, 2], log10_rms=[-math.inf, -2, -2])
    assert not judged("stalled-layers", history(*seen.tables.values(), states))


def test_saturation_of_an_output_that_has_learned_is_right() -> None:
    flat = [0.0, 0.0, 0.99]
    assert not judged("saturated-activation", outputs("sigmoid", FALLING, flat_share=flat))
    assert judged("saturated-activation", outputs("sigmoid", FLAT, flat_share=flat))
    assert not judged("saturated-activation", outputs("relu", FLAT, flat_share=0.99))


def test_sparse_rectifiers_of_a_run_that_learns_are_alive() -> None:
    assert not judged("dead-relu", outputs("relu", FALLING, dead_share=0.1, zero_share=0.97))
    assert judged("dead-relu", outputs("relu", FLAT, dead_share=0.1, zero_share=0.97))


def test_a_huge_step_is_named_beside_the_units_it_killed() -> None:
    seen = outputs("relu", FLAT, dead_share=1.0)
    ratios = np.full((60, 3), -3.0)
    ratios[20] = 0.7
    seen = history(*seen.tables.values(), table("update", layers(3), 60, log10_ratio=ratios))
    (finding,) = judged("dead-relu", seen)
    assert "step 20" in finding.summary


@pytest.mark.parametrize("back", [1, 5, 12])
def test_a_spike_that_comes_back_is_no_finding(back: int) -> None:
    assert not judged("loss-spike", jumped(3.0, back=back))


def test_a_jump_without_a_large_step_may_be_the_data() -> None:
    assert not judged("loss-spike", jumped(3.0, shock=0.0))


@pytest.mark.parametrize("times", [1, 2])
def test_one_or_two_spikes_of_the_update_recover(times: int) -> None:
    assert not judged("update-norm-spike", spiked(2.0, times))


def test_heavy_tails_are_no_spikes() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        sizes = -2.0 + 0.5 * draw.normal(size=120)
        assert not judged(
            "update-norm-spike", history(run(FALLING, log10_update_norm=over_time(sizes)))
        )


def test_a_bad_batch_is_not_the_learning_rate() -> None:
    ratios = np.full((60, 3), -3.0)
    ratios[30] = 0.5
    norms = np.where(np.arange(120) == 30, 3.0, 0.0)
    seen = table("update", layers(3), 60, log10_ratio=ratios, log10_weight=-1.0)
    assert not judged(
        "learning-rate-too-high", history(run(FLAT, log10_norm=over_time(norms)), seen)
    )
    assert judged("learning-rate-too-high", history(run(FLAT, log10_norm=0.0), seen))


@pytest.mark.parametrize(
    "name", ["learning-rate-too-high", "learning-rate-too-low", "loss-plateau"]
)
def test_a_loss_that_falls_acquits_the_rate(name: str) -> None:
    assert not judged(name, updates(-0.5, -0.5, losses=FALLING))
    assert not judged(name, updates(-9, -9, losses=FALLING))


@pytest.mark.parametrize(
    ("rates", "severity"),
    [
        (np.zeros(120), Severity.ERROR),
        (np.where(np.arange(120) < 20, 0.1, 0.0), Severity.WARNING),
        (np.where(np.arange(120) < 80, 0.1, 0.0), None),
        (np.where(np.arange(120) < 5, 0.0, 0.1), None),
        (np.linspace(0.0, 0.1, 120), None),
        (np.full(120, 1e-12), None),
    ],
)
def test_a_rate_of_zero_is_judged_by_when_it_was(
    rates: np.ndarray, severity: Severity | None
) -> None:
    found = judged("learning-rate-zero", history(run(FLAT, learning_rate=over_time(rates))))
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_another_group_that_moves_acquits_a_rate_of_zero() -> None:
    seen = history(run(FLAT, learning_rate=0.0, log10_update_norm=-2.0))
    assert not judged("learning-rate-zero", seen)


def test_clipping_means_nothing_to_adam() -> None:
    assert not judged("clip-too-tight", clipped(0.001, kind="AdamW"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_narrow_formats_underflow(dtype: str) -> None:
    assert not judged("gradient-underflow", low_precision(dtype, underflow_share=0.9))


def test_wide_weights_lose_no_updates() -> None:
    assert not judged("updates-lost-to-rounding", low_precision("float32", lost_share=1.0))


def test_sharp_attention_that_was_learned_is_right() -> None:
    entropy = over_time(np.where(np.arange(60) < 20, 0.9, 0.02))
    sharp = table(
        "attention", [Column(name="a", module="a")], 60, entropy=entropy, largest_share=0.95,
        largest_logit=30.0,
    )  # fmt: skip
    assert not judged("saturated-attention", history(run(FALLING), sharp))
    assert judged("saturated-attention", history(run(FLAT), sharp))


@pytest.mark.parametrize(
    ("deviation", "entropy", "fires"), [(45.0, 0.15, True), (8.0, 0.15, False), (45.0, 0.6, False)]
)
def test_logits_that_begin_tens_apart_are_too_large_even_where_the_loss_falls(
    deviation: float, entropy: float, *, fires: bool
) -> None:
    loud = table(
        "attention", [Column(name="a", module="a")], 60, entropy=entropy, largest_share=0.78,
        largest_logit=4.0 * deviation, logit_std=deviation,
    )  # fmt: skip
    assert bool(judged("saturated-attention", history(run(FALLING), loud))) is fires


def test_a_loss_of_both_signs_neither_diverges_nor_stands_still() -> None:
    noise = np.random.default_rng(0).normal(size=200)
    assert not judged("diverging-loss", history(run(noise * np.linspace(1, 50, 200))))
    assert not judged("loss-plateau", history(run(noise)))


def test_alternating_batches_of_a_run_that_learns_do_not_oscillate() -> None:
    zigzag = FALLING + 0.3 * (-1.0) ** np.arange(120)
    assert not judged("oscillating-loss", history(run(zigzag)))
    assert judged("oscillating-loss", history(run(1.4 + 0.5 * (-1.0) ** np.arange(120))))
    thinned = table(
        "step", [optimizer()], 120, every=7, loss=over_time(1.4 + 0.5 * (-1.0) ** np.arange(120))
    )
    assert not judged("oscillating-loss", history(thinned))


# -- non-finite values


def broken(step: int, rows: int = 120, **facts: Any) -> History:
    given = {"direction": "forward", "operation": "log", "last_good": step - 1, **facts}
    event = Event(step=step, kind="non-finite", where="head", facts=given)
    return history(run(np.full(rows, 1.0)), events=[event])


def test_the_first_bad_value_is_named_with_the_last_good_step() -> None:
    (finding,) = judged("non-finite-value", broken(110))
    assert finding.modules == ("head",)
    assert "step 110" in finding.summary and "step 109" in finding.summary
    assert finding.severity is Severity.ERROR


def test_a_run_that_is_bad_from_its_first_step_has_no_last_good_one() -> None:
    (finding,) = judged("non-finite-value", broken(0, rows=20))
    assert "no step before was good" in finding.summary
    assert "-1" not in finding.summary


def test_a_bad_value_that_was_recovered_from_clears() -> None:
    assert not judged("non-finite-value", broken(20))
    still = table("gradient", layers(2), 60, state=[2, 3])
    seen = broken(20)
    assert judged(
        "non-finite-value", History(tables={**seen.tables, "gradient": still}, events=seen.events)
    )


def test_a_loss_scaler_that_searches_meets_infinities_on_purpose() -> None:
    seen = broken(115, direction="backward")
    assert judged("non-finite-value", seen)
    scaled = run(np.full(120, 1.0), loss_scale=1024.0)
    assert not judged("non-finite-value", history(scaled, events=seen.events))


# -- beyond sense


LIVE = [rule for rule in rules() if rule.live is not None]


def everything(columns: int, rows: int, value: Any) -> History:
    tables = []
    for name, quantities in TABLES.items():
        many = layers(columns) if name in {"gradient", "update"} else None
        made = many or tuple(
            Column(name=f"c{at}", module=f"c{at}", kind="relu", order=at, facts={"eps": 1e-8})
            for at in range(2 if name == "step" else columns)
        )
        numbers: dict[str, Any] = {}
        for quantity in quantities:
            given = value((rows, len(made))) if callable(value) else value
            bounded = quantity.unit in {"share", "0 or 1"}
            numbers[quantity.name] = np.clip(given, 0.0, 1.0) if bounded else given
        tables.append(table(name, made, rows, **numbers))
    return history(*tables)


HOSTILE: list[Any] = [NAN, math.inf, -math.inf, 0.0, -1.0, 1e300, -1e300, 1e-300]


@pytest.mark.parametrize("rule", LIVE, ids=lambda rule: rule.name)
def test_a_rule_survives_numbers_without_sense_and_without_a_warning(rule: Rule) -> None:
    draw = np.random.default_rng(0)

    def mixed(shape: tuple[int, int]) -> np.ndarray:
        return draw.choice(HOSTILE, size=shape)

    for value in (*HOSTILE, *[mixed] * 10):
        for rows in (1, 9, 60):
            for finding in rule.over(everything(3, rows, value)):
                assert finding.summary
                assert not math.isnan(finding.weight)


@pytest.mark.parametrize("rule", LIVE, ids=lambda rule: rule.name)
@pytest.mark.parametrize("empty", [True, False])
def test_a_rule_says_nothing_of_nothing(rule: Rule, empty: bool) -> None:
    tables = [Table(name=name) for name in TABLES] if not empty else []
    assert list(rule.over(history(*tables))) == []


NOISE = 1e-4 * np.sin(np.arange(120))


def stuck(
    fallen: float, lost: int = 6, last: float = 0.0, level: float = 2.0, heard: bool = True
) -> History:
    """Ten Adam layers, some of whose gradients fall away while the loss stays near ln 10."""
    sizes = np.full((60, 10), -2.0)
    sizes[20:, :lost] -= fallen
    sizes[20:, -1] -= last
    call = LossCall(
        function="cross_entropy",
        prediction=Values(shape=(64, 10), mean=0.0, std=1.0),
        target=Values(shape=(64,), mean=4.5, std=2.9),
    )
    said = Event(step=0, kind="loss-call", where="cross_entropy", facts=call.to_facts())
    return history(
        table(
            "step", [optimizer("Adam", eps=1e-8)], 120, loss=level + 0.01 * over_time(FLAT - 1.4)
        ),
        table("gradient", layers(10), 60, state=2, log10_rms=sizes),
        events=[said] if heard else [],
    )


def test_a_gradient_that_goes_in_the_middle_while_a_loss_stays_near_a_guess_has_vanished() -> None:
    (finding,) = judged("vanishing-gradient", stuck(3.1))
    assert "6 of 10 weight matrices" in finding.summary
    assert not judged("vanishing-gradient", stuck(2.9))
    assert not judged("vanishing-gradient", stuck(3.1, lost=4))
    assert not judged("vanishing-gradient", stuck(3.1, last=1.0))  # all have become smaller
    assert not judged("vanishing-gradient", stuck(3.1, level=1.6))  # it learns
    assert not judged("vanishing-gradient", stuck(3.1, heard=False))  # what a guess costs?
