"""The rules' own cases, a healthy zoo, and the confusion table."""

from functools import cache
from typing import Any

import pytest

from gradmend.engine.diagnose import Diagnosis, diagnose
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.finding import Severity
from gradmend.registry import Case, Rule, rules
from gradmend.zoo.specimen import build


@cache
def diagnosed(case: str, seed: int = 0) -> Diagnosis:
    found = CASES[case]
    specimen = build(found.model, seed=seed, **found.args)
    return diagnose(look(specimen.model, specimen.batch, Feeder(loss_fn=specimen.loss_fn)))


LOOKS = [rule for rule in rules() if rule.function is not None]
"""Rules over runs have their own cases: test_live_cases.py."""

HEALTHY = [
    Case.of("mlp"),
    Case.of("mlp", depth=1),
    Case.of("mlp", depth=3, activation="sigmoid"),
    Case.of("mlp", depth=3, activation="tanh"),
    Case.of("mlp", depth=4, activation="gelu"),
    Case.of("mlp", depth=4, activation="silu"),
    Case.of("mlp", depth=4, activation="softplus"),
    Case.of("mlp", depth=4, activation="relu_inplace"),
    Case.of("mlp", depth=12, norm="batch"),
    Case.of("mlp", depth=12, activation="sigmoid", norm="batch"),
    Case.of("mlp", depth=12, norm="layer"),
    Case.of("mlp", depth=30, activation="tanh", init="orthogonal", gain=1.05),
    Case.of("mlp", depth=24, activation="relu", init="normal", gain=1.414),
    Case.of("functional_mlp"),
    Case.of("functional_mlp", in_place=True),
    Case.of("cnn"),
    Case.of("cnn", depth=6),
    Case.of("cnn", depth=3, norm=False),
    Case.of("residual_mlp"),
    Case.of("residual_mlp", depth=30),
    Case.of("residual_mlp", norm=False),
    Case.of("transformer"),
    Case.of("transformer", norm_first=False),
    Case.of("recurrent"),
    Case.of("recurrent", cell="gru"),
    Case.of("recurrent", cell="rnn"),
    Case.of("dense"),
    Case.of("shared"),
]
CASES: dict[str, Case] = {
    str(case): case for rule in rules() for case in (*rule.fires_on, *rule.silent_on)
} | {str(case): case for case in HEALTHY}


def named(which: str) -> list[Any]:
    return [
        pytest.param(rule, str(case), id=f"{rule.name}-{case}")
        for rule in rules()
        for case in getattr(rule, which)
    ]


def serious(case: str, seed: int = 0) -> list[str]:
    return [f.name for f in diagnosed(case, seed).findings if f.severity is not Severity.NOTE]


@pytest.mark.parametrize(("rule", "case"), named("fires_on"))
def test_a_rule_fires_on_its_cases(rule: Rule, case: str) -> None:
    assert rule.name in serious(case)


@pytest.mark.parametrize(("rule", "case"), named("silent_on"))
def test_a_rule_keeps_silent_on_its_near_misses(rule: Rule, case: str) -> None:
    assert rule.name not in serious(case)


@pytest.mark.parametrize("case", [str(case) for case in HEALTHY])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_rule_says_a_word_about_a_healthy_network(case: str, seed: int) -> None:
    assert serious(case, seed) == []


def test_every_rule_has_cases_on_both_sides() -> None:
    for rule in LOOKS:
        assert rule.fires_on, rule.name
        assert len(rule.silent_on) >= 2, rule.name


# -- the confusion table: what is ranked first where a rule's own trouble was planted

PLANTED: dict[str, str] = {
    "attenuating-activation": "attenuating-activation",
    "uncentred-activation": "attenuating-activation",
    # ^ 100 sigmoid layers: three causes at once, and the slope costs most decades
    "saturated-activation": "init-gain-too-large",
    # ^ the saturation comes of the weights: the cause outranks it
    "dead-relu": "dead-relu",
    "unscaled-input": "unscaled-input",
    "detached-parameters": "detached-parameters",
    "vanishing-gradient": "attenuating-activation",  # a symptom never comes first
    "exploding-gradient": "init-gain-too-large",
    "collapsed-signal": "attenuating-activation",
    "init-gain-too-small": "attenuating-activation",  # sigmoid again: three causes at once
    "init-gain-too-large": "init-gain-too-large",
    "depth-without-skip": "attenuating-activation",  # depth is explained by what is lost per layer
    "gain-unlike-theory": "symmetric-initialisation",  # equal weights: theory has independent ones
    "non-finite-value": "logarithm-of-zero",  # its cause
    "square-root-at-zero": "square-root-at-zero",
    "hidden-branch-nan": "hidden-branch-nan",
    "logarithm-of-zero": "logarithm-of-zero",
    "division-by-zero": "division-by-zero",
    "exponential-overflow": "exponential-overflow",
    "half-precision-overflow": "half-precision-overflow",
    "empty-reduction": "empty-reduction",
    "infeasible-ctc": "infeasible-ctc",
    "fully-masked-row": "fully-masked-row",
    "no-grad-forward": "no-grad-forward",
    "reentrant-checkpoint": "reentrant-checkpoint",
    "zero-initialisation": "zero-initialisation",
    "symmetric-initialisation": "symmetric-initialisation",
    "batch-norm-explosion": "batch-norm-explosion",
    "residual-growth": "residual-growth",
    "post-norm-without-warm-up": "post-norm-without-warm-up",
    "rectified-output": "rectified-output",
    "hidden-softmax": "hidden-softmax",
    "unscaled-target": "unscaled-target",
    "non-finite-batch": "non-finite-batch",
    "constant-target": "constant-target",
    "loss-unfit-for-target": "loss-unfit-for-target",
    "output-range-unfit-for-target": "output-range-unfit-for-target",
    "gradient-lost-through-time": "gradient-lost-through-time",
    "gradient-grown-through-time": "gradient-grown-through-time",
}
"""For each rule, the finding that is first on its first case."""

SECOND_PLANTS: dict[str, str] = {
    "mlp(depth=30, activation='softplus')": "uncentred-activation",
    "mlp(depth=3, activation='tanh', scale=100.0)": "unscaled-input",
    "mlp(depth=30, activation='tanh')": "init-gain-too-small",
    "mlp(depth=24, activation='relu')": "init-gain-too-small",
    "mlp(depth=24, activation='gelu')": "init-gain-too-small",
    "cnn(depth=16, activation='relu', norm=False)": "init-gain-too-small",
    "mlp(depth=10, activation='tanh', init='orthogonal', bad_layer=4, bad_gain=1e-06)":
        "init-gain-too-small",
    "mlp(depth=20, activation='relu', init='normal', gain=3.0)": "init-gain-too-large",
    "mlp(depth=12, activation='gelu', init='normal', gain=6.0)": "init-gain-too-large",
    "mlp(depth=8, activation='relu', init='normal', gain=1.4, bad_layer=3, bad_gain=100000.0)":
        "init-gain-too-large",
    "functional_mlp(depth=4, detach_at=3, activation='relu')": "detached-parameters",
    "mlp(depth=4, activation='relu', bad_layer=1, bad_bias=-30.0)": "dead-relu",
    "mlp(depth=4, activation='sigmoid', bad_layer=1, bad_bias=12.0)": "saturated-activation",
    "loud_logits(std=5.0)": "init-gain-too-large",
}  # fmt: skip


def test_the_confusion_table_names_every_rule() -> None:
    assert set(PLANTED) == {rule.name for rule in LOOKS}
    assert set(SECOND_PLANTS) <= set(CASES)


@pytest.mark.parametrize("rule", LOOKS, ids=lambda rule: rule.name)
def test_the_first_finding_is_the_planted_one_or_a_cause_of_it(rule: Rule) -> None:
    # GIVEN the rule's first case WHEN it is diagnosed
    case = str(rule.fires_on[0])
    findings = diagnosed(case).findings
    first = findings[0]
    # THEN the first finding is the one in the table
    assert first.name == PLANTED[rule.name]
    assert not first.symptom
    assert first.explained_by is None
    # AND where it is not the planted one it explains it, or both were planted
    if first.name != rule.name:
        planted_too = any(
            case in map(str, other.fires_on) for other in rules() if other.name == first.name
        )
        assert planted_too or rule.name in first.explains


@pytest.mark.parametrize("case", SECOND_PLANTS)
def test_the_first_finding_of_the_other_cases(case: str) -> None:
    assert diagnosed(case).findings[0].name == SECOND_PLANTS[case]


@pytest.mark.parametrize("rule", LOOKS, ids=lambda rule: rule.name)
def test_symptoms_rank_below_causes_and_explained_findings_below_the_others(rule: Rule) -> None:
    for case in rule.fires_on:
        findings = diagnosed(str(case)).findings
        keys = [
            (f.severity is Severity.NOTE, f.symptom, f.explained_by is not None, -f.severity.rank)
            for f in findings
        ]
        assert keys == sorted(keys)
        names = {f.name for f in findings}
        assert all(f.explained_by in names for f in findings if f.explained_by)


def test_every_finding_stands_on_evidence_and_names_its_rule() -> None:
    by_name = {rule.name: rule for rule in rules()}
    for case in CASES:
        for finding in diagnosed(case).findings:
            assert finding.code == by_name[finding.name].code
            assert finding.exculpation
            assert 0.0 <= finding.confidence <= 1.0
            assert set(finding.explains) <= set(by_name)
            assert "\n" not in finding.summary
            for item in finding.evidence:
                assert isinstance(item.observed, float)
