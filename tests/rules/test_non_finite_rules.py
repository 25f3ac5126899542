"""Each cause of NaN: its cases, that it comes first, and what it says."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from histories import history, run
from torch import Tensor, nn

import gradmend
import gradmend.zoo
from gradmend.engine.diagnose import Diagnosis, diagnose
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.badvalue import BadValue, Operand
from gradmend.records.codec import to_plain
from gradmend.records.finding import Severity
from gradmend.records.history import Event
from gradmend.records.report import Report
from gradmend.registry import Case, Rule, find
from gradmend.theory.badvalues import cause_of
from gradmend.zoo.specimen import build
from gradmend.zoo.training import build_training

NAMES = (
    "square-root-at-zero", "hidden-branch-nan", "logarithm-of-zero", "division-by-zero",
    "exponential-overflow", "half-precision-overflow", "empty-reduction", "infeasible-ctc",
    "fully-masked-row", "no-grad-forward", "reentrant-checkpoint",
)  # fmt: skip


def rule_of(name: str) -> Rule:
    found = find(name)
    assert isinstance(found, Rule)
    return found


@cache
def diagnosed(case: str) -> Diagnosis:
    found = CASES[case]
    specimen = build(found.model, **found.args)
    return diagnose(look(specimen.model, specimen.batch, Feeder(loss_fn=specimen.loss_fn)))


CASES: dict[str, Case] = {
    str(case): case
    for name in NAMES
    for case in (*rule_of(name).fires_on, *rule_of(name).silent_on)
}
FIRES = [(name, str(case)) for name in NAMES for case in rule_of(name).fires_on]
SILENT = [(name, str(case)) for name in NAMES for case in rule_of(name).silent_on]


@pytest.mark.parametrize(("name", "case"), FIRES)
def test_the_cause_comes_first_and_explains_the_symptom(name: str, case: str) -> None:
    findings = diagnosed(case).findings
    assert findings[0].name == name
    assert findings[0].severity is Severity.ERROR
    assert all(f.explained_by for f in findings if f.name == "non-finite-value")


@pytest.mark.parametrize(("name", "case"), SILENT)
def test_a_cause_keeps_silent_on_its_neighbours(name: str, case: str) -> None:
    serious = [f.name for f in diagnosed(case).findings if f.severity is not Severity.NOTE]
    assert name not in serious


def test_operation_module_and_line_are_named() -> None:
    finding = diagnosed(str(Case.of("arithmetic", operation="hidden_root"))).findings[0]
    assert finding.modules == ("middle",)
    assert finding.source is not None and finding.source.startswith("non_finite_values.py:")
    assert "sqrt" in finding.summary and "where" in finding.summary


def test_an_infinity_that_a_mask_puts_there_is_none() -> None:
    assert diagnosed(str(Case.of("arithmetic", operation="causal_mask"))).findings == ()


def test_the_model_is_left_alone_when_its_arithmetic_breaks() -> None:
    specimen = build("arithmetic", operation="hidden_root")
    before = {name: value.clone() for name, value in specimen.model.state_dict().items()}
    state = torch.get_rng_state()
    gradmend.check(specimen.model, specimen.batch, specimen.loss_fn)
    assert torch.equal(state, torch.get_rng_state())
    after = specimen.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in specimen.model.parameters())


# -- classification of hand-made values


def bad(operation: str, *operands: Operand, **more: object) -> BadValue:
    given: dict[str, object] = {"direction": "forward", "value": "nan", "dtype": "float32"}
    return BadValue(operation=operation, operands=operands, **given | more)  # type: ignore[arg-type]


ZEROS = Operand(entries=4, zeros=4, dtype="float32")
ONES = Operand(entries=4, largest=1.0, least=1.0, dtype="float32")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (bad("log", ZEROS, value="-inf"), "logarithm-of-zero"),
        (bad("log", Operand(entries=4, negative=1)), "logarithm-of-zero"),
        (bad("log", Operand(entries=1, zeros=1, lineage=("mul", "exp"))), "exponential-overflow"),
        (bad("div", ONES, ZEROS, value="inf"), "division-by-zero"),
        (
            bad("div", ONES, Operand(entries=4, zeros=4, lineage=("pow", "exp"))),
            "exponential-overflow",
        ),
        (
            bad(
                "div",
                Operand(entries=1, zeros=1, lineage=("sum", "mul"), dtype="float32"),
                Operand(entries=1, zeros=1, lineage=("sum",), dtype="float32"),
            ),
            "empty-reduction",
        ),
        (
            bad(
                "div",
                Operand(entries=4, zeros=4, lineage=("relu",), dtype="float32"),
                Operand(entries=1, zeros=1, lineage=("sum",), dtype="float32"),
            ),
            "division-by-zero",
        ),
        (bad("mean", Operand(dtype="float32")), "empty-reduction"),
        (bad("cross_entropy", ONES, ignored=1.0), "empty-reduction"),
        (bad("cross_entropy", ONES, ignored=0.5), ""),
        (bad("std", Operand(entries=1, dtype="float32")), "division-by-zero"),
        (bad("exp", Operand(entries=4, largest=89.0), value="inf"), "exponential-overflow"),
        (
            bad("linear", ONES, value="inf", dtype="float16", wide_largest=66246.0),
            "half-precision-overflow",
        ),
        (bad("linear", ONES, value="inf", wide_largest=1e39), ""),
        (bad("ctc_loss", value="inf", target_lengths=(3, 5, 0)), "infeasible-ctc"),
        (
            bad("softmax", Operand(entries=9, minus_infinite=3, masked_rows=1)),
            "fully-masked-row",
        ),
        (bad("sqrt", ZEROS, direction="backward", value="inf"), "square-root-at-zero"),
        (
            bad("sqrt", ZEROS, direction="backward", received_zero=True, behind="where"),
            "hidden-branch-nan",
        ),
        (bad("fc.weight", direction="weights"), ""),
        (bad("linear", direction="input"), ""),
    ],
)
def test_each_value_has_one_cause(value: BadValue, cause: str) -> None:
    assert cause_of(value) == cause
    again = BadValue.of(to_plain(value))
    assert again is not None and cause_of(again) == cause


@pytest.mark.parametrize("name", NAMES[:9])
def test_odd_histories_raise_nothing(name: str) -> None:
    rule = rule_of(name)
    odd = [
        Event(step=1, kind="non-finite"),
        Event(step=2, kind="non-finite", facts={"bad": {"direction": "forward"}}),
        Event(step=3, kind="non-finite", facts={"bad": {"direction": 1, "operands": 3}}),
    ]
    assert list(rule.over(history())) == []
    for events in (odd[:1], odd[1:2], odd[2:], odd):
        list(rule.over(history(run([math.nan]), events=events)))


def test_a_value_that_was_recovered_from_is_a_warning() -> None:
    facts = {"bad": to_plain(bad("mean", Operand(dtype="float32"), inside=False))}
    steps = run([1.0] * 60, backwards=1.0)
    found = list(
        rule_of("empty-reduction").over(
            history(steps, events=[Event(step=5, kind="non-finite", facts=facts)])
        )
    )
    assert [f.severity for f in found] == [Severity.WARNING]
    assert "step 5" in found[0].summary


# -- as people write it


class Tail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.log_std = nn.Parameter(torch.full((8,), -200.0))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) / self.log_std.exp()
        return y


def test_an_exponential_that_underflows_is_named_with_its_parameter() -> None:
    report = gradmend.check(Tail(), (torch.randn(5, 6), torch.randn(5, 8)), F.mse_loss)
    assert report.findings[0].name == "exponential-overflow"


def watched(fault: str, seed: int = 0) -> Report:
    training = build_training("breaking_arithmetic", fault=fault, seed=seed)
    with gradmend.watch(training.model, training.optimizer) as watch:
        for number in range(training.steps):
            training.step(number)
    return watch.report()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("root", "square-root-at-zero"),
        ("root_loss", "square-root-at-zero"),
        ("hidden_root", "hidden-branch-nan"),
        ("hidden_loss", "hidden-branch-nan"),
        ("log_loss", "logarithm-of-zero"),
        ("spread_loss", "division-by-zero"),
        ("empty_loss", "empty-reduction"),
        ("exponential", "exponential-overflow"),
    ],
)
def test_a_run_names_the_cause_first(fault: str, name: str, seed: int) -> None:
    assert watched(fault, seed).findings[0].name == name
