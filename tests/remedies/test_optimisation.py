"""Remedies of rates, eps, decay, clipping and of what an optimizer trains."""

import math
from typing import Any

import pytest
from optimisation_traces import (
    ask,
    edits,
    finding,
    parameter,
    refusal,
    trace,
    weight_norm,
)

from gradmend.records.prescription import Advice, Prescription
from gradmend.records.trace import Trace
from gradmend.theory.gradient_norms import clipped_at, norm_limit, usual_norm
from gradmend.theory.step_size import GRADIENT_STEP, UNIT_STEP, rate_factor

# -- the size of a step, against closed forms


def test_for_descent_the_largest_step_over_weight_is_a_tenth() -> None:
    # |g| = 10^-1 for all, |w| = 0.1 sqrt(2048): step over weight = lr |g| / |w|
    step = 0.1 * 0.1 / weight_norm()
    assert rate_factor(trace()) == pytest.approx(GRADIENT_STEP / step)
    # the largest layer decides, and momentum m makes each step 1 / (1 - m) times as large
    large = trace(parameters=(parameter("0.weight"), parameter("2.weight", log10_grad=1.0)))
    assert rate_factor(large) == pytest.approx(GRADIENT_STEP / (100 * step))
    heavy = trace(options={"momentum": 0.9})
    assert rate_factor(heavy) == pytest.approx(0.1 * GRADIENT_STEP / step)


def test_for_adam_the_rate_over_the_typical_weight_decides_whatever_the_gradient() -> None:
    for size in (-9.0, 3.0):
        of = trace("AdamW", parameters=(parameter("0.weight", log10_grad=size),))
        assert rate_factor(of) == pytest.approx(UNIT_STEP / (0.1 / 0.1))
    assert rate_factor(trace("Lion")) == pytest.approx(0.2 * UNIT_STEP)


def test_where_a_rate_is_no_size_nothing_is_said() -> None:
    for name in ("Adadelta", "Rprop", "Muon"):
        assert rate_factor(trace(name)) is None
    assert rate_factor(trace(options={"lr": 0.0})) is None
    assert rate_factor(trace(options={"lr": 0.0}), instead_of_zero=1.0) is not None
    nothing = trace(parameters=(parameter("0.weight", log10_grad=-math.inf),))
    assert rate_factor(nothing) is None
    zeros = trace("Adam", parameters=(parameter("0.weight", rms=0.0),))
    assert rate_factor(zeros) is None


def test_a_head_that_begins_near_zero_does_not_hold_the_rate_down() -> None:
    # GIVEN weights a thousandth of the usual 1 / sqrt(64) THEN they count as a tenth of it
    head = parameter("head.weight", rms=1e-3 / 8)
    of = trace(parameters=(head,))
    assert rate_factor(of) == pytest.approx(GRADIENT_STEP / (0.1 * 0.1 / (0.1 * math.sqrt(32))))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_a_loss_in_other_units_wants_the_rate_in_other_units(scale: float) -> None:
    shifted = parameter("0.weight", log10_grad=-1.0 + math.log10(scale))
    factor, other = (
        rate_factor(trace(parameters=(parameter("0.weight"),))),
        rate_factor(trace(parameters=(shifted,))),
    )
    assert factor is not None
    assert other == pytest.approx(factor / scale)


# -- rates


def factors(answers: list[Any]) -> list[float]:
    return [float(args["factor"]) for args in edits(answers)]


def test_a_rate_too_high_comes_down_to_what_the_weights_bear_and_five_times_less() -> None:
    of = trace(options={"lr": 1e4})
    suits = rate_factor(of)
    assert suits is not None
    assert factors(ask("lower-learning-rate", of, "learning-rate-too-high")) == pytest.approx(
        [suits, suits / 5]
    )


def test_where_the_first_step_looks_sound_it_is_a_tenth() -> None:
    of = trace("Adam", options={"lr": 2e-3})
    assert factors(ask("lower-learning-rate", of, "diverging-loss")) == pytest.approx([0.1, 0.02])


def test_a_summed_loss_wants_the_rate_over_the_batch_and_depth_what_was_measured() -> None:
    assert factors(ask("lower-learning-rate", trace(), "summed-loss"))[0] == pytest.approx(1 / 64)
    deep = finding("learning-rate-unscaled-with-depth", "update over weight", 4.0)
    assert factors(ask("lower-learning-rate", trace(), deep))[0] == pytest.approx(0.05)


def test_symptoms_that_others_make_too_do_not_lower_a_sound_rate() -> None:
    # GIVEN dead rectifiers at a rate of Adam's default THEN no
    of = trace("Adam", options={"lr": 1e-3})
    assert "not what did it" in refusal(ask("lower-learning-rate", of, "dead-relu"))
    # AND at a thousand times that, yes
    assert factors(ask("lower-learning-rate", trace("Adam", options={"lr": 1.0}), "dead-relu"))
    assert "not known" in refusal(ask("lower-learning-rate", trace("Muon"), "dead-relu"))


def test_a_rate_far_below_what_the_weights_bear_is_not_lowered() -> None:
    of = trace(options={"lr": 1e-6})
    assert "not to blame" in refusal(ask("lower-learning-rate", of, "loss-spike"))
    zero = trace(options={"lr": 0.0})
    assert "zero" in refusal(ask("lower-learning-rate", zero, "learning-rate-too-high"))


def test_a_rate_too_low_comes_up_and_one_of_zero_is_set() -> None:
    of = trace(options={"lr": 1e-6})
    suits = rate_factor(of)
    assert suits is not None
    assert factors(ask("raise-learning-rate", of, "learning-rate-too-low")) == pytest.approx(
        [suits, suits / 5]
    )
    (first, second) = edits(
        ask("raise-learning-rate", trace("Adam", options={"lr": 0.0}), "learning-rate-zero")
    )
    assert first["rate"] == pytest.approx(0.1 * UNIT_STEP)
    assert second["rate"] == pytest.approx(0.02 * UNIT_STEP)


def test_a_larger_rate_is_refused_where_it_cannot_be_the_cure() -> None:
    low = {"lr": 1e-6}
    lost = trace(options=low, decades=-6.0)
    assert "on its way back" in refusal(ask("raise-learning-rate", lost, "learning-rate-too-low"))
    sound = trace("Adam", options={"lr": 1e-3})
    assert "not to blame" in refusal(ask("raise-learning-rate", sound, "loss-plateau"))
    tiny = trace("Adam", parameters=(parameter("0.weight", log10_grad=-8.0),),
                 options={"lr": 1e-5, "eps": 1e-3})  # fmt: skip
    assert "eps" in refusal(ask("raise-learning-rate", tiny, "learning-rate-too-low"))


def test_a_warm_up_is_short_or_adams_own_and_refused_once_trained() -> None:
    adam = trace("Adam", options={"lr": 1e-3, "betas": (0.9, 0.99)})
    assert [a["steps"] for a in edits(ask("warm-up", adam, "post-norm-without-warm-up"))] == [
        100,
        200,
    ]
    begun = trace("Adam", facts={"steps_taken": True})
    assert "already" in refusal(ask("warm-up", begun, "post-norm-without-warm-up"))
    wild = trace("Adam", options={"lr": 10.0})
    assert "again after it" in refusal(ask("warm-up", wild, "learning-rate-too-high"))


# -- eps and decay


def test_eps_goes_below_the_gradients_or_above_the_format() -> None:
    small = trace("Adam", options={"eps": 1e-2})
    found = finding("unsuited-epsilon", "gradient", 1e-6)
    assert edits(ask("fit-epsilon", small, found)) == [{"eps": pytest.approx(1e-9)}]
    half = trace("Adam", options={"eps": 1e-8}, dtype="float16")
    found = finding("unsuited-epsilon", "eps", 1e-8)
    assert edits(ask("fit-epsilon", half, found)) == [{"eps": 1e-4}]


def test_no_eps_helps_gradients_beyond_the_format_or_an_optimizer_without_one() -> None:
    small = trace("Adam", options={"eps": 1e-8})
    beyond = finding("unsuited-epsilon", "gradient", 1e-20)
    assert "beyond" in refusal(ask("fit-epsilon", small, beyond))
    half = trace("Adam", options={"eps": 1e-4}, dtype="float16")
    tiny = finding("unsuited-epsilon", "gradient", 1e-6)
    assert "float16" in refusal(ask("fit-epsilon", half, tiny)), "eps would be zero, and 0 / 0 NaN"
    assert "no eps" in refusal(ask("fit-epsilon", trace(), beyond))


def test_decay_comes_down_to_a_usual_one_or_none() -> None:
    plain = trace(options={"lr": 0.05, "weight_decay": 2.0})
    assert factors(ask("reduce-weight-decay", plain, "weight-collapse")) == pytest.approx(
        [5e-5, 0.0]
    )
    decoupled = trace("AdamW", options={"lr": 1e-3, "weight_decay": 10.0})
    assert factors(ask("reduce-weight-decay", decoupled, "weight-collapse"))[0] == pytest.approx(
        1e-3
    )
    assert "no weight decay" in refusal(ask("reduce-weight-decay", trace(), "weight-collapse"))
    slow = trace("AdamW", options={"lr": 1e-3, "weight_decay": 1e-2})
    assert "something else" in refusal(ask("reduce-weight-decay", slow, "weight-collapse"))


# -- what is trained


def test_only_missing_parameters_that_the_loss_reaches_join() -> None:
    every = (parameter("0.weight"), parameter("2.weight"), parameter("aux.weight", reached=False))
    of = trace(parameters=every, facts={"missing": ("2.weight", "aux.weight")})
    (answer,) = ask("train-missing-parameters", of, "parameters-without-optimizer")
    assert isinstance(answer, Prescription)
    assert answer.edits[0].targets == ("2.weight",)
    assert answer.keeps_function
    none = trace(parameters=every, facts={"missing": ("aux.weight",)})
    assert "no trainable" in refusal(ask("train-missing-parameters", none, "stale-optimizer"))


def test_only_the_frozen_parameters_of_the_modules_named_learn() -> None:
    every = (
        parameter("0.weight", trainable=False),
        parameter("1.weight", trainable=False),
        parameter("2.weight"),
    )
    found = finding("frozen-parameters", modules=("0",))
    (answer,) = ask("unfreeze-parameters", trace(parameters=every), found)
    assert isinstance(answer, Prescription)
    assert answer.edits[0].targets == ("0.weight",)
    assert "frozen" in refusal(ask("unfreeze-parameters", trace(), found))


# -- clipping


CALM = (0.0,) * 20 + (3.0,)
CLIPS = ("clip-by-norm", "clip-per-unit", "clip-by-percentile", "clip-by-z-score",
         "clip-per-tensor", "clip-by-value")  # fmt: skip


def test_the_limit_is_twice_the_usual_norm_and_says_what_it_costs() -> None:
    of = trace("Adam", norms=CALM)
    assert usual_norm(of) == pytest.approx(1.0)
    (args,) = edits(ask("clip-by-norm", of, "loss-spike"))
    assert args == {"method": "norm", "limit": pytest.approx(2.0)}
    effect = clipped_at(of, 2.0)
    assert effect.share == pytest.approx(1 / 21)
    assert effect.factor == pytest.approx((20 + 2e-3) / 21)
    (answer,) = ask("clip-by-norm", of, "loss-spike")
    assert isinstance(answer, Prescription)
    assert "5%" in answer.reason


def test_for_descent_no_limit_allows_a_step_of_more_than_a_tenth_of_the_weights() -> None:
    of = trace(norms=(8.0,) * 10)
    weights = math.sqrt(3) * weight_norm()
    assert norm_limit(of) == pytest.approx(0.1 * weights / 0.1)


def test_norms_of_a_run_that_has_diverged_do_not_set_the_limit() -> None:
    of = trace("Adam", norms=(0.0, 0.0, 6.0, 9.0, 12.0, math.nan),
               losses=(1.0, 1.1, 50.0, 1e5, 1e9, math.inf))  # fmt: skip
    assert usual_norm(of) == pytest.approx(1.0)


def test_spikes_are_clipped_also_where_the_usual_gradient_is_small() -> None:
    assert edits(ask("clip-by-norm", trace(norms=CALM, decades=-9.0), "update-norm-spike"))


@pytest.mark.parametrize("remedy", CLIPS)
def test_nothing_is_clipped_that_has_vanished(remedy: str) -> None:
    for name in ("loss-spike", "exploding-gradient", "gradient-grown-through-time"):
        try:
            answers = ask(remedy, trace(norms=(0.0,) * 20, decades=-9.0), name)
        except AssertionError:
            continue  # not one of its findings
        assert "cannot give back" in refusal(answers)


def test_adam_is_not_clipped_where_every_gradient_is_too_large_alike() -> None:
    steady = trace("Adam", norms=(5.0,) * 20)
    assert "would change nothing" in refusal(ask("clip-by-norm", steady, "exploding-gradient"))
    assert edits(ask("clip-by-norm", trace("Adam", norms=CALM), "exploding-gradient"))


def test_each_finding_gets_at_most_four_ways_of_clipping() -> None:
    wide = (parameter("0.weight", log10_grad=3.0), parameter("2.weight", log10_grad=-1.0),
            parameter("4.weight", log10_grad=-1.0))  # fmt: skip
    for name in ("loss-spike", "outlier-batch", "update-norm-spike", "exploding-gradient",
                 "gradient-grown-through-time", "diverging-loss"):  # fmt: skip
        for of in (trace(norms=CALM), trace(norms=CALM, parameters=wide)):
            ways = []
            for remedy in CLIPS:
                try:
                    found = ask(remedy, of, name)
                except AssertionError:
                    continue
                ways += [a for a in found if isinstance(a, Prescription)]
            assert 1 <= len(ways) <= 4, name


def test_per_tensor_only_where_layers_differ_by_decades_and_agc_spares_the_head() -> None:
    alike = trace(norms=CALM)
    assert "one limit" in refusal(ask("clip-per-tensor", alike, "loss-spike"))
    others = (parameter("2.weight"), parameter("head.weight"))
    wide = trace(norms=CALM, parameters=(parameter("0.weight", log10_grad=3.0), *others))
    assert edits(ask("clip-per-tensor", wide, "loss-spike"))
    (args,) = edits(ask("clip-per-unit", wide, "exploding-gradient"))
    assert args["spared"] == ["head.weight"]
    assert args["ratio"] == 0.16


# -- the floor


def shrinking(*decades: float) -> Trace:
    return trace(
        parameters=tuple(
            parameter(f"{2 * at}.weight", log10_grad=size) for at, size in enumerate(decades)
        )
    )


def test_a_small_gradient_that_points_somewhere_is_lifted_to_a_hundredth_of_the_weight() -> None:
    (args,) = edits(ask("lift-small-gradients", shrinking(-6.0, -3.0, -1.0), "vanishing-gradient"))
    assert args == {"method": "lift", "floor": pytest.approx(0.01 * weight_norm() / 0.1)}


def test_a_gradient_that_carries_nothing_is_not_lifted() -> None:
    def why(of: Trace) -> str:
        return refusal(ask("lift-small-gradients", of, "vanishing-gradient"))

    zero = trace(parameters=(
        parameter("0.weight", log10_grad=-math.inf, exact_zero=True), parameter("2.weight")
    ))  # fmt: skip
    assert "exactly zero" in why(zero)
    assert "rounding noise" in why(shrinking(-40.0, -1.0))
    assert "lifts every small one" in why(
        trace("Adam", parameters=shrinking(-6.0, -1.0).parameters)
    )
    assert "training lost" in why(shrinking(-1.0, -1.0))


# -- advice and the loss scale


@pytest.mark.parametrize(
    ("remedy", "name", "line"),
    [
        ("clear-gradients", "gradients-not-cleared", "zero_grad()"),
        ("divide-accumulation", "undivided-accumulation", "loss / 4"),
        ("mend-clipping", "late-clipping", "max_norm)\noptimizer.step()"),
        ("mend-clipping", "clipping-of-scaled-gradients", "scaler.unscale_(optimizer)"),
        ("mend-clipping", "clip-too-tight", "clip_grad_norm_(model.parameters(), 2)"),
    ],
)
def test_the_users_own_loop_gets_advice_with_the_lines(remedy: str, name: str, line: str) -> None:
    (answer,) = ask(remedy, trace("Adam", norms=CALM), finding(name, observed=4.0))
    assert isinstance(answer, Advice)
    assert line in answer.after
    assert line not in answer.before


def test_a_loss_scale_is_a_power_of_two_for_half_precision_only() -> None:
    half = trace("Adam", parameters=(parameter("0.weight", log10_grad=-5.0),), dtype="float16")
    first, advice = ask("scale-loss", half, "gradient-underflow")
    (args,) = edits([first])
    assert math.log2(args["factor"]) == round(math.log2(args["factor"]))
    assert args["divide"] is False, "divided again, it would be too small for float16 once more"
    assert isinstance(advice, Advice)
    wide = trace("Adam", parameters=half.parameters)
    assert "float32" in refusal(ask("scale-loss", wide, "gradient-underflow"))
