"""The cases of rules over runs: small real trainings, watched in full."""

from functools import cache
from typing import Any

import pytest

import gradmend
import gradmend.zoo.healthy_trainings
import gradmend.zoo.unstable_trainings
from gradmend.engine.watching.live import ranked
from gradmend.records.finding import Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, Rule, find, rules
from gradmend.zoo.training import build_training

LIVE = [rule for rule in rules() if rule.live is not None]


@cache
def watched(case: str, seed: int) -> tuple[History, tuple[str, ...]]:
    """The run's history, and the names of all findings that began at any time."""
    found = CASES[case]
    training = build_training(found.model, seed=seed, **found.args)
    looks = found.model == "post_norm_transformer"  # its rule reads what a look saw of the stream
    watch = gradmend.watch(training.model, training.optimizer, budget="all", looks=looks)
    with watch:
        for number in range(training.steps):
            training.step(number)
    begun = [e.facts["name"] for e in watch.history().of_kind("finding-begins")]
    return watch.history(), tuple(begun)


def findings(case: str, seed: int = 0) -> list[Finding]:
    history, _ = watched(case, seed)
    return ranked(finding for rule in LIVE for finding in rule.over(history))


HEALTHY = [
    *(Case.of("perceptron", optimizer=o) for o in ("SGD", "momentum", "Adam", "AdamW", "RMSprop")),
    Case.of("convolutions"),
    Case.of("schedule"),
    Case.of("schedule", kind="linear"),
    Case.of("schedule", kind="warm-up"),
    Case.of("converged"),
    Case.of("line_fit"),
    Case.of("line_fit", reduction="sum"),
    Case.of("line_fit", second_order=True),
    Case.of("noisy_rewards"),
    Case.of("low_rank_adapter"),
    Case.of("rezero"),
    Case.of("rare_embedding"),
    Case.of("frozen_backbone"),
    Case.of("unused_head"),
    Case.of("variational"),
    Case.of("sigmoid_stack", depth=3),
    Case.of("relu_stack"),
    Case.of("post_norm_transformer", norm_first=True),
    Case.of("saturating"),
    Case.of("breaking"),
    Case.of("bad_batch", size=20.0),
    Case.of("decayed"),
    Case.of("clipped"),
    Case.of("half"),
    Case.of("coarse"),
    Case.of("scaled"),
    Case.of("attention"),
    Case.of("long_memory"),
    Case.of("adversaries"),
]

PLANTED: dict[str, tuple[str, ...]] = {
    "isometric(depth=60, rate=0.01)": ("learning-rate-unscaled-with-depth",),
    "sigmoid_stack(depth=12)": ("vanishing-gradient",),
    "post_norm_transformer()": ("post-norm-without-warm-up",),
    "relu_stack(gain=10.0)": ("init-gain-too-large", "exploding-gradient"),
    "step_size(rate=0.0)": ("learning-rate-zero",),
    "schedule(kind='too short')": ("learning-rate-zero",),
    "step_size(rate=1e-07)": ("learning-rate-too-low",),
    "step_size(rate=300.0)": ("learning-rate-too-high", "non-finite-value"),
    "valley(rate=1.05)": ("learning-rate-too-high",),
    "valley(rate=2.0, walls=True)": ("learning-rate-too-high",),
    "huge_step()": ("learning-rate-too-high",),
    "breaking(at=12)": ("non-finite-value", "logarithm-of-zero", "division-by-zero"),
    "growing_half()": ("half-precision-overflow",),
    "padded_sentences(empty_at=12)": ("fully-masked-row",),
    "speech(wanted=20)": ("infeasible-ctc",),
    "two_stages(fault='no_grad')": ("no-grad-forward",),
    "two_stages(fault='reentrant_checkpoint')": ("reentrant-checkpoint",),
    "two_stages(fault='detach')": ("detached-parameters",),
    "wide_attention(scaled=False)": ("unscaled-attention",),
    "bad_batch(size=3000.0)": ("loss-spike",),
    "decayed(decay=2.0)": ("weight-collapse",),
    "clipped(limit=0.001)": ("clip-too-tight",),
    "half(eps=1e-08)": ("unsuited-epsilon", "non-finite-value"),
    "half(loss_scale=0.0001)": ("gradient-underflow",),
    "tiny_loss(scale=1e-09)": ("unsuited-epsilon",),
    "coarse(rate=1e-05)": ("updates-lost-to-rounding",),
    "scaled(overflows=True)": ("loss-scale-collapse",),
    "attention(growth=1.15)": ("query-key-growth", "attention-logit-growth"),
    "attention(scale=80.0)": ("saturated-attention",),
    "long_memory(cell='tanh', gain=0.3)": ("gradient-lost-through-time",),
    "long_memory(cell='lstm', forget=0.0)": ("forget-gate-closed",),
    "long_memory(cell='relu', gain=3.0)": ("gradient-grown-through-time",),
    "unlearnable()": ("loss-plateau",),
}
"""What may come first where a trouble was planted."""

CASES: dict[str, Case] = {str(case): case for case in HEALTHY} | {
    str(case): case for rule in LIVE for case in (*rule.live_fires_on, *rule.live_silent_on)
}
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]


def named(which: str) -> list[Any]:
    return [
        pytest.param(rule, str(case), id=f"{rule.name}-{case}")
        for rule in LIVE
        for case in getattr(rule, which)
    ]


def says(rule: Rule, case: str, seed: int) -> list[Finding]:
    return list(rule.over(watched(case, seed)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("rule", "case"), named("live_fires_on"))
def test_a_rule_fires_on_its_trainings(rule: Rule, case: str, seed: int) -> None:
    assert rule.name in {finding.name for finding in says(rule, case, seed)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("rule", "case"), named("live_silent_on"))
def test_a_rule_keeps_silent_on_its_near_misses(rule: Rule, case: str, seed: int) -> None:
    said = says(rule, case, seed)
    if (rule.name, case) in ONLY_NOTED:
        assert [finding.severity for finding in said] == [Severity.NOTE]
    else:
        assert said == []


ONLY_NOTED = {
    ("detached-parameters", "two_stages(fault='unused_head')"),
    ("detached-parameters", "quantised(operation='round')"),
    ("unregistered-parameters", "optimizer_groups(fault='python_list')"),
    ("parameters-without-optimizer", "optimizer_groups(fault='head_only')"),
    ("loss-unfit-for-target", "fed_classifier(loss='class_indices')"),
    ("undivided-accumulation", "accumulated(divided=False, rate=0.005)"),
}
"""What may be meant, is told as a note and no more."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", [str(case) for case in HEALTHY])
def test_no_rule_says_a_word_at_any_time_of_a_healthy_run(case: str, seed: int) -> None:
    assert watched(case, seed)[1] == ()
    assert findings(case, seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", PLANTED)
def test_the_first_finding_is_the_planted_one(case: str, seed: int) -> None:
    assert findings(case, seed)[0].name in PLANTED[case]


@pytest.mark.parametrize("rule", LIVE, ids=lambda rule: rule.name)
def test_every_live_rule_has_trainings_on_both_sides(rule: Rule) -> None:
    assert rule.live_fires_on
    assert rule.live_silent_on


def test_findings_of_runs_stand_on_evidence_and_name_rules_that_exist() -> None:
    known = {rule.name: rule for rule in rules()}
    for case in ("step_size(rate=300.0)", "scaled(overflows=True)", "sigmoid_stack(depth=12)"):
        for finding in findings(case):
            assert finding.code == known[finding.name].code
            assert finding.evidence and finding.exculpation
            assert set(finding.explains) <= set(known)
            assert "\n" not in finding.summary


def test_every_name_that_a_rule_explains_is_a_rule() -> None:
    for name in ("loss-plateau", "stalled-layers", "diverging-loss", "loss-spike"):
        assert isinstance(find(name), Rule)
