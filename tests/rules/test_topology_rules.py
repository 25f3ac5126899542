"""Rules about how a network begins and how it is put together, by hand and in a check."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from histories import FALLING, FLAT, history, layers, parameter, run, table
from topologies import alike, answered, begun_at_zero, normed, post_norm, rectified, streamed
from traces import activation, chain, ledger, signal, weights

import gradmend
from gradmend.records.finding import Finding, Severity
from gradmend.records.history import Column, History, RunFacts
from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Rule, find
from gradmend.zoo.specimen import build


def rule_of(name: str) -> Rule:
    found = find(name)
    assert isinstance(found, Rule)
    return found


def said(name: str, trace: Trace) -> list[Finding]:
    return [a for a in rule_of(name)(trace) if isinstance(a, Finding)]


def asked(name: str, trace: Trace) -> list[Request]:
    return [a for a in rule_of(name)(trace) if isinstance(a, Request)]


def names(model: str, seed: int = 0, **args: Any) -> list[str]:
    """Warnings and errors of a check, in order."""
    specimen = build(model, seed=seed, **args)
    report = gradmend.check(specimen.model, specimen.batch, specimen.loss_fn)
    return [f.name for f in report.findings if f.severity is not Severity.NOTE]


# -- weights that begin at zero


def test_a_weight_of_zero_without_a_gradient_is_asked_about_before_it_is_accused() -> None:
    # GIVEN one zero layer whose gradient is zero at the first step
    trace = begun_at_zero()
    # THEN a few steps are asked for, and nothing is said
    assert [r.measurement for r in asked("zero-initialisation", trace)] == [Measurement.FEW_STEPS]
    assert said("zero-initialisation", trace) == []
    # WHEN nothing has moved after them THEN it is said, once, with its module
    (finding,) = said("zero-initialisation", answered(trace, trace))
    assert finding.modules == (trace.parameters[1].module,)
    assert "after 24 steps" in finding.summary
    # AND not when it has moved
    assert said("zero-initialisation", answered(trace, chain(3))) == []
    assert asked("zero-initialisation", answered(trace, chain(3))) == []


def test_a_weight_of_zero_that_moves_is_nobodys_trouble() -> None:
    trace = begun_at_zero(moves=True)
    assert list(rule_of("zero-initialisation")(trace)) == []


def test_a_network_of_zeros_needs_no_steps_to_be_found() -> None:
    (finding,) = said("zero-initialisation", begun_at_zero(zero=(0, 1, 2, 3)))
    assert finding.severity is Severity.ERROR


def test_zero_adapters_in_a_network_that_learns_are_a_warning() -> None:
    trace = begun_at_zero(zero=(1, 2))
    (finding,) = said("zero-initialisation", answered(trace, trace))
    assert finding.severity is Severity.WARNING


def zeros_in_a_run(state: Any = 1.0, weight: Any = -math.inf, rows: int = 6) -> History:
    columns = layers(3)
    states = np.full((rows, 3), 2.0)
    states[:, 1] = state
    sizes = np.full((rows, 3), -1.0)
    sizes[:, 1] = weight
    return history(
        table("gradient", columns, rows=rows, state=states),
        table("update", columns, rows=rows, log10_weight=sizes),
    )


def test_in_a_run_zeros_that_never_move_are_found_in_a_handful_of_rows() -> None:
    rule = rule_of("zero-initialisation")
    (finding,) = rule.over(zeros_in_a_run())
    assert finding.modules == ("layer1",)
    assert list(rule.over(zeros_in_a_run(rows=3))) == []
    # LoRA's second factor moves at the first step, a head at once
    assert list(rule.over(zeros_in_a_run(weight=[-math.inf, *[-3.0] * 5]))) == []
    assert list(rule.over(zeros_in_a_run(state=2.0))) == []
    assert list(rule.over(zeros_in_a_run(state=0.0))) == []  # None: an unused head
    assert list(rule.over(zeros_in_a_run(state=np.nan))) == []


def test_zeros_that_are_frozen_or_in_no_optimizer_are_left_alone() -> None:
    for facts in ({"trainable": False}, {"optimizer": None}):
        columns = [parameter("a", 0), parameter("b", 1, facts=facts)]
        seen = history(
            table("gradient", columns, rows=9, state=[2.0, 1.0]),
            table("update", columns, rows=9, log10_weight=[-1.0, -math.inf]),
        )
        assert list(rule_of("zero-initialisation").over(seen)) == []


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "args",
    [
        {"init": "zeros"},
        {"init": "zeros", "activation": "sigmoid"},
        {"init": "zeros", "activation": "tanh", "width": 8},
        {"init": "zero layer"},
    ],
)
def test_a_check_puts_zero_initialisation_first(args: dict[str, Any], seed: int) -> None:
    assert names("begun", seed, **args)[:1] == ["zero-initialisation"]


def test_a_check_finds_adapters_whose_factors_are_both_zero_and_no_others() -> None:
    assert names("adapter", zero="both") == ["zero-initialisation"]
    assert names("adapter") == []


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("begun", {"init": "zero head"}),
        ("begun", {"init": "zero head", "activation": "tanh"}),
        ("begun", {"init": "constant layer"}),
        ("residual_stack", {"init": "fixup", "depth": 4}),
        ("residual_stack", {"init": "rezero", "depth": 4}),
    ],
)
def test_what_begins_at_zero_by_design_is_left_alone(model: str, args: dict[str, Any]) -> None:
    assert names(model, **args) == []


# -- units that begin alike


def test_units_that_nothing_tells_apart_are_found_by_one_look() -> None:
    (finding,) = said("symmetric-initialisation", alike())
    assert finding.modules == ("2",)
    assert "8 units" in finding.summary


def test_units_that_the_next_layer_tells_apart_are_asked_about() -> None:
    for trace in (alike(readers=1.0), alike(bias=0.1)):
        assert said("symmetric-initialisation", trace) == []
        assert len(asked("symmetric-initialisation", trace)) == 1
        # a few steps decide
        assert said("symmetric-initialisation", answered(trace, alike(units=1e-6)))
        assert said("symmetric-initialisation", answered(trace, alike(units=0.3))) == []


def test_units_still_alike_in_the_middle_of_a_run_are_found() -> None:
    trace = alike(units=1e-6, readers=1.0)
    assert said("symmetric-initialisation", trace) == []
    late = replace(trace, run=replace(trace.run, step=40))
    (finding,) = said("symmetric-initialisation", late)
    assert "after 40 steps" in finding.summary


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_a_check_puts_symmetry_first(activation: str) -> None:
    found = names("begun", init="constant", activation=activation)
    assert found[:1] == ["symmetric-initialisation"]


# -- batch norms in a row


def test_batch_norms_explode_in_a_deep_plain_network_alone() -> None:
    (finding,) = said("batch-norm-explosion", normed())
    assert finding.modules[0] == "0.batch_norm"
    assert said("batch-norm-explosion", normed(20)) == []  # too few
    assert said("batch-norm-explosion", normed(100, 0.03)) == []  # nearly linear layers
    evaluated = normed()
    evaluated = replace(evaluated, run=replace(evaluated.run, training=False))
    assert said("batch-norm-explosion", evaluated) == []
    skipped = normed()
    skipped = replace(
        skipped, operations=tuple(replace(op, share=0.5) for op in skipped.operations)
    )
    assert said("batch-norm-explosion", skipped) == []
    learns = answered(normed(), normed(), losses=(2.0, *[0.4] * 23))
    assert said("batch-norm-explosion", learns) == []


# -- a stream that grows


def test_a_stream_that_doubles_is_found_with_its_blocks() -> None:
    (finding,) = said("residual-growth", streamed())
    assert finding.modules[:2] == ("blocks.0", "blocks.1")
    assert finding.severity is Severity.ERROR
    assert said("residual-growth", streamed(blocks=10))[0].severity is Severity.WARNING


def test_growth_that_is_healthy_or_somebody_elses_is_left_alone() -> None:
    assert said("residual-growth", streamed(blocks=6)) == []
    assert said("residual-growth", streamed(normed_after=True)) == []
    assert said("residual-growth", streamed(blocks=400, law="linear")) == []  # OLMo#797
    assert said("residual-growth", streamed(growth=0.02, blocks=50)) == []
    assert said("residual-growth", streamed(growth=0.8)) == []  # the branches' own weights


# -- norms on the stream


def test_post_norm_is_accused_when_the_gradient_is_gone_and_asked_about_before() -> None:
    name = "post-norm-without-warm-up"
    fresh = post_norm()
    assert said(name, fresh) == []
    assert [r.measurement for r in asked(name, fresh)] == [Measurement.FEW_STEPS]
    (finding,) = said(name, answered(fresh, post_norm(total=-9.0, step=24)))
    assert "after 24 steps" in finding.summary
    assert finding.modules[0] == "norm0"
    assert list(rule_of(name)(answered(fresh, post_norm(total=-0.4, step=24)))) == []
    assert said(name, post_norm(total=-6.0, step=50))
    assert list(rule_of(name)(post_norm(total=-0.5, step=50))) == []
    # few layers are not asked about; norms in the branches are none on the stream
    assert list(rule_of(name)(post_norm(8))) == []
    assert list(rule_of(name)(post_norm(6, total=-9.0))) == []
    assert list(rule_of(name)(post_norm(16, total=-9.0, share=0.3))) == []


def test_a_blocked_gradient_counts_as_lost() -> None:
    trace = post_norm(step=50)
    blocked = replace(trace, ledger=ledger(None, blocked_by="norm3"))
    assert said("post-norm-without-warm-up", blocked)
    assert said("post-norm-without-warm-up", replace(trace, ledger=None)) == []


# -- a rectifier behind the last layer


def test_a_rectified_output_is_told_from_a_rectified_layer() -> None:
    (finding,) = said("rectified-output", rectified())
    assert finding.modules == ("out", "4")
    assert "dead-relu" in finding.explains
    assert said("rectified-output", rectified(dead=0)) == []
    assert said("rectified-output", rectified(dead=9)) == []
    assert said("rectified-output", rectified(samples=8)) == []
    assert said("rectified-output", chain(2, "relu", facts={"dead_units": 100})) == []
    # a layer before it is dead already
    trace = rectified()
    ops = list(trace.operations)
    ops[1] = replace(ops[1], activation=activation("relu", dead_units=100))
    assert said("rectified-output", replace(trace, operations=tuple(ops))) == []


def test_targets_below_zero_convict_a_rectified_output_that_is_alive() -> None:
    (finding,) = said("rectified-output", rectified(dead=0, low=-1.0))
    assert "below zero" in finding.summary
    assert said("rectified-output", rectified(dead=0, low=0.0)) == []


def test_a_relu_of_a_hinge_loss_is_none_of_the_model() -> None:
    trace = rectified()
    last = trace.operations[-1]
    between = Operation(id=last.id, name="rsub", cause="scaling", module="", share=1.0,
                        upstream=(last.id - 1,))  # fmt: skip
    hinge = replace(last, id=last.id + 1, upstream=(last.id,))
    trace = replace(trace, operations=(*trace.operations[:-1], between, hinge))
    assert said("rectified-output", trace) == []


# -- forget gates


def recurrent(
    gate: float = 0.5, span: float = -30.0, losses: Any = FLAT, *, length: int = 100, rows: int = 3,
    rehearsal: bool = False,
) -> History:  # fmt: skip
    column = Column(name="rnn", module="rnn", kind="LSTM", facts={"length": length})
    seen = history(
        table("recurrence", [column], rows=rows, log10_span=span, horizon=1.4, forget_gate=gate,
              log10_gain=span / 100),
        run(losses),
    )  # fmt: skip
    return replace(seen, run=RunFacts(rehearsal=rehearsal))


def test_a_closed_forget_gate_is_named_with_the_bias_it_needs() -> None:
    rule = rule_of("forget-gate-closed")
    (finding,) = rule.over(recurrent())
    assert finding.modules == ("rnn",)
    assert "log(100 - 1) = 4.6" in finding.summary
    assert "gradient-lost-through-time" in finding.explains
    assert list(rule.over(recurrent(losses=FALLING))) == []
    assert list(rule.over(recurrent(gate=0.95))) == []
    assert list(rule.over(recurrent(gate=math.nan))) == []  # no LSTM
    assert list(rule.over(recurrent(span=-2.0))) == []
    assert list(rule.over(recurrent(length=5))) == []


def test_before_training_a_gate_is_accused_only_of_what_no_training_can_hear() -> None:
    rule = rule_of("forget-gate-closed")
    (finding,) = rule.over(recurrent(losses=FALLING, rehearsal=True, rows=1))
    assert finding.severity is Severity.WARNING
    assert list(rule.over(recurrent(span=-9.0, losses=FLAT, rehearsal=True))) == []
    (exact,) = rule.over(recurrent(span=-math.inf, rehearsal=True))
    assert "99 decades" in exact.summary


# -- how units came to be off


def off(bias: float = 0.0, spread: float = 0.01, units: int = 100) -> str:
    trace = chain(3, "relu")
    ops = list(trace.operations)
    ops[2] = replace(
        ops[2],
        weights=weights("2", bias_mean_square=bias**2),
        signal=signal(spread, mean=-bias, mean_square=bias**2 + spread),
    )
    for at in (1, 3, 5):
        dead = units if at == 3 else 0
        facts = activation("relu", units=units, dead_units=dead)
        ops[at] = replace(ops[at], activation=facts)
    (finding,) = said("dead-relu", replace(trace, operations=tuple(ops)))
    return finding.summary


def test_a_dead_layer_is_told_with_what_switched_it_off() -> None:
    assert "bias is about -30" in off(bias=30.0)
    assert "born dead" in off(units=2)
    assert off() == "100 of 100 relu units of 3 are off on all 32 samples"


def test_units_off_from_the_first_step_were_born_dead() -> None:
    column = Column(name="relu", module="act", kind="relu", order=0)
    seen = history(table("output", [column], dead_share=1.0, zero_share=1.0), run(FLAT))
    (finding,) = rule_of("dead-relu").over(seen)
    assert "born dead" in finding.summary
