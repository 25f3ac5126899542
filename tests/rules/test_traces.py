"""Rules judge numbers: traces built by hand, at their limits and far beyond sense."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from topologies import LIMITS as TOPOLOGIES
from traces import activation, chain, ledger, signal, stats, weights

from gradmend.engine.diagnose import diagnose
from gradmend.records.finding import CannotJudge, Finding, Severity
from gradmend.records.loss_call import LossCall, Values
from gradmend.records.trace import Input, Operation, Parameter, Run, Trace
from gradmend.registry import Rule, find, remedies, rules

RULES = {r.name: r for r in rules()}


def judged(name: str, trace: Trace) -> list[Finding]:
    """The findings at or above a warning that one rule makes."""
    found = find(name)
    assert isinstance(found, Rule)
    answers = [a for a in found(trace) if isinstance(a, Finding)]
    return [f for f in answers if f.severity is not Severity.NOTE]


def with_facts(trace: Trace, at: int, **changes: Any) -> Trace:
    ops = list(trace.operations)
    ops[at] = replace(ops[at], activation=activation(ops[at].name, **changes))
    return replace(trace, operations=tuple(ops))


def with_gain(own: float, predicted: float) -> Trace:
    trace = chain()
    ops = list(trace.operations)
    ops[2] = replace(ops[2], own_decades=own, predicted=predicted)
    return replace(trace, operations=tuple(ops))


def with_input(**changes: Any) -> Trace:
    trace = chain()
    return replace(trace, inputs=(replace(trace.inputs[0], **changes),))


def softmaxes(total: float) -> Trace:
    """Softmaxes where the activations would be."""
    trace = chain(3, total=total)
    ops = [
        replace(op, name="softmax", cause="attention-softmax", activation=None, decades=-1.0)
        if op.id % 2
        else op
        for op in trace.operations
    ]
    return replace(trace, operations=tuple(ops))


def called_again(span: float, calls: int) -> Trace:
    """One layer called again and again, its gradient changing by so many decades in all."""
    trace = chain(calls)
    ops = [
        replace(
            op,
            module="again" if op.weights else "",
            call=op.id // 2,
            log10_grad=-span * (op.id // 2) / (calls - 1),
        )
        for op in trace.operations[:-1]
    ]
    return replace(trace, operations=tuple(ops))


def told(function: str, *, before: float = 1.0, **target: Any) -> Trace:
    """A chain whose last activation is read by a loss, handed targets of these facts."""
    trace = chain()
    ops = trace.operations[:-1]
    loss = Operation(
        id=len(ops), name=function, cause="loss", module="", share=1.0, upstream=(len(ops) - 1,)
    )
    values = {"shape": (32, 1), "dtype": "float32", "spread_share": 1.0, **target}
    call = LossCall(
        function=function,
        prediction=Values(shape=(32, 1), mean=0.0, std=before),
        target=Values(**values),
    )
    return replace(trace, operations=(*ops, loss), losses=(call,))


E = 1e-6
LIMITS: dict[str, tuple[str, Callable[[float], Trace], float, int]] = {
    # what: (rule, trace at a distance from the limit, sign is the side that fires)
    "attenuation, total": (
        "attenuating-activation",
        lambda d: chain(20, "sigmoid", total=-4.0 - d, act_decades=-12.0), E, 1,
    ),
    "attenuation, own": (
        "attenuating-activation",
        lambda d: chain(20, "sigmoid", total=-9.0, act_decades=-4.0 - d), E, 1,
    ),
    "attenuation, slope": (
        "attenuating-activation",
        lambda d: chain(9, "sigmoid", total=-9.0, act_decades=-9.0,
                        facts={"steepest_slope": 0.5 - d}), E, 1,
    ),
    "offset": (
        "uncentred-activation", lambda d: chain(20, "sigmoid", signal_lost=4.0 + d), E, 1,
    ),
    "flat": (
        "saturated-activation", lambda d: with_facts(chain(), 3, flat_share=0.5 + d), E, 1,
    ),
    "dead": (
        "dead-relu", lambda d: with_facts(chain(function="relu"), 3, dead_units=70 + int(d)), 1, 1,
    ),
    "dead, samples": (
        "dead-relu",
        lambda d: with_facts(chain(function="relu"), 3, dead_units=100, samples=16 + int(d)), 1, 1,
    ),
    "input large": ("unscaled-input", lambda d: with_input(stats=stats(10.0 + d)), E, 1),
    "input small": ("unscaled-input", lambda d: with_input(stats=stats(0.01 - d)), E, 1),
    "one feature large": (
        "unscaled-input", lambda d: with_input(feature_rms_max=10.0 + d), E, 1,
    ),
    "vanishing": ("vanishing-gradient", lambda d: chain(total=-5.5 - d), E, 1),
    "exploding": ("exploding-gradient", lambda d: chain(total=4.0 + d), E, 1),
    "collapse": ("collapsed-signal", lambda d: chain(signal_lost=4.0 + d), E, 1),
    "gain small, total": (
        "init-gain-too-small",
        lambda d: chain(30, "relu", gain=0.5, total=-4.0 - d, weight_decades=-9), E, 1,
    ),
    "gain small, ratio": (
        "init-gain-too-small",
        lambda d: chain(60, "relu", gain=math.sqrt(2) * (0.8 - d), total=-6.0, weight_decades=-9),
        1e-4, 1,
    ),
    "gain large, growth": (
        "init-gain-too-large", lambda d: chain(20, "relu", gain=3.0, total=4.0 + d), E, 1,
    ),
    "gain large, ratio": (
        "init-gain-too-large",
        lambda d: chain(20, "relu", gain=math.sqrt(2) * (1.2 + d), total=9.0), 1e-4, 1,
    ),
    "depth, decades": ("depth-without-skip", lambda d: chain(20, total=-5.5 - d), E, 1),
    "softmax between layers": (
        "hidden-softmax", lambda d: softmaxes(-3.0 - d), E, 1,
    ),
    "lost from call to call": (
        "gradient-lost-through-time", lambda d: called_again(-4.0 - d, 8), E, 1,
    ),
    "grown from call to call": (
        "gradient-grown-through-time", lambda d: called_again(3.0 + d, 8), E, 1,
    ),
    "unlike theory": ("gain-unlike-theory", lambda d: with_gain(-3.0 - d, 0.0), E, 1),
    "depth, layers": ("depth-without-skip", lambda d: chain(9 + int(d), total=-9.0), 1, 1),
    "targets alike, samples": (
        "constant-target",
        lambda d: told("mse_loss", shape=(16 + int(d),), spread_share=0.0, mean=1.0, std=0.0,
                       commonest=1.0, distinct=1), 1, 1,
    ),
    "targets, size": ("unscaled-target", lambda d: told("mse_loss", mean=0.0, std=50 + d), E, 1),
    "targets, against outputs": (
        "unscaled-target", lambda d: told("mse_loss", before=3.0 - d, mean=0.0, std=60.0), E, 1,
    ),
    "targets, out of reach": (
        "output-range-unfit-for-target",
        lambda d: told("mse_loss", mean=0.0, std=1.0, low=-1.0, high=1.02 + d, smallest=-1.0,
                       largest=1.02 + d), E, 1,
    ),
    "targets, no probabilities": (
        "loss-unfit-for-target",
        lambda d: told("binary_cross_entropy", mean=0.5, std=0.5, smallest=0.0,
                       largest=1.05 + d), E, 1,
    ),
    **TOPOLOGIES,
}  # fmt: skip

FORMATS = {"half-precision-overflow", "exponential-overflow"}
"""Their limits are where a number format ends; what is bad is counted and not compared."""


@pytest.mark.parametrize("what", LIMITS)
def test_a_rule_fires_just_beyond_its_limit_and_is_silent_just_before_it(what: str) -> None:
    rule, trace_at, distance, sign = LIMITS[what]
    assert judged(rule, trace_at(sign * distance)), "just beyond"
    assert not judged(rule, trace_at(-sign * distance)), "just before"


def test_every_rule_with_limits_is_tried_at_every_one() -> None:
    tried = {rule for rule, *_ in LIMITS.values()}
    assert {r.name for r in RULES.values() if r.limit_rows() and r.function} <= tried | FORMATS


@pytest.mark.parametrize(
    ("rule", "mild", "grave"),
    [
        ("attenuating-activation", -5.4, -5.6),
        ("init-gain-too-small", -5.4, -5.6),
    ],
)
def test_a_greater_loss_is_an_error_and_a_smaller_one_a_warning(
    rule: str, mild: float, grave: float
) -> None:
    def severity(total: float) -> Severity:
        trace = chain(20, "sigmoid", gain=0.5, total=total, act_decades=-9, weight_decades=-3)
        return judged(rule, trace)[0].severity

    assert severity(mild) is Severity.WARNING
    assert severity(grave) is Severity.ERROR


def test_detached_parameters_are_told_from_frozen_and_idle_ones() -> None:
    def lost(**changes: Any) -> list[Any]:
        trace = chain()
        last = replace(trace.parameters[0], reached=False, **changes)
        rule = RULES["detached-parameters"]
        return list(rule(replace(trace, parameters=(last, *trace.parameters[1:]))))

    assert lost()[0].severity is Severity.ERROR
    assert lost(module_called=False)[0].severity is Severity.NOTE
    assert lost(trainable=False) == []
    assert list(RULES["detached-parameters"](chain())) == []


def test_too_few_samples_cannot_be_judged_and_the_answer_says_what_is_needed() -> None:
    trace = with_facts(chain(function="relu"), 3, dead_units=100, samples=4)
    answers = list(RULES["dead-relu"](trace))
    assert [type(a) for a in answers] == [CannotJudge]
    assert "16 samples, it had 4" in answers[0].needs  # type: ignore[union-attr]


# -- far beyond sense


def poisoned(value: Any, poison: float) -> Any:
    """A record with every float in it replaced."""
    if isinstance(value, float):
        return poison
    if is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: poisoned(getattr(value, f.name), poison) for f in fields(value)}
        return replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(poisoned(item, poison) for item in value)
    if isinstance(value, dict):
        return {key: poisoned(item, poison) for key, item in value.items()}
    return value


def sick_chain(function: str = "sigmoid") -> Trace:
    return chain(
        30, function, gain=0.5, total=-30.0, act_decades=-20.0, weight_decades=-10.0,
        signal_lost=20.0, facts={"flat_share": 0.95, "dead_units": 100}, input_rms=100.0,
    )  # fmt: skip


def strange_traces() -> Iterator[tuple[str, Trace]]:
    run = Run(model="Strange")
    yield "nothing at all", Trace(run=run)
    yield "no ledger", replace(sick_chain(), ledger=None)
    yield "no total", replace(sick_chain(), ledger=ledger(None))
    yield "blocked", replace(sick_chain(), ledger=ledger(None, blocked_by="nowhere"))
    yield "blocked at the root", replace(sick_chain(), ledger=ledger(None, blocked_by=""))
    yield "one operation", replace(chain(), operations=chain().operations[:1])
    yield (
        "one activation",
        replace(chain(), operations=(replace(chain().operations[1], id=0, upstream=()),)),
    )
    yield "no operations", replace(sick_chain(), operations=())
    yield (
        "no signals",
        replace(
            sick_chain(),
            operations=tuple(replace(op, signal=None) for op in sick_chain().operations),
        ),
    )
    yield (
        "nothing known",
        replace(
            sick_chain(),
            operations=tuple(
                replace(op, activation=activation("swoosh", steepest_slope=None))
                if op.activation
                else op
                for op in sick_chain().operations
            ),
        ),
    )
    yield "no units", with_facts(chain(function="relu"), 1, units=0, dead_units=0, samples=0)
    yield "weights all zero", chain(30, "tanh", gain=0.0, total=-40.0)
    yield (
        "one sample",
        replace(
            sick_chain(),
            operations=tuple(
                replace(op, signal=signal(samples=1)) for op in sick_chain().operations
            ),
        ),
    )
    yield (
        "empty input",
        replace(
            chain(),
            inputs=(
                Input(name="x", shape=(0,), dtype="float32", floating=True, stats=stats(1, 0)),
            ),
        ),
    )
    yield (
        "unread input",
        replace(chain(), inputs=(replace(chain(input_rms=50).inputs[0], reader=None),)),
    )
    yield "integers", replace(chain(), inputs=(replace(chain().inputs[0], floating=False),))
    odd = "Ω{}<b>\u202e\n\x1b[31m"
    yield "odd names", chain(30, "sigmoid", gain=0.5, total=-30, act_decades=-20, names=odd)
    yield "one name for all", chain(30, "sigmoid", gain=0.5, total=-30, act_decades=-20, names="x")
    yield "nameless", chain(30, "sigmoid", gain=0.5, total=-30, act_decades=-20, names="")
    for poison, function in itertools.product(
        (math.nan, math.inf, 0.0, 1e150, 5e-324), ("sigmoid", "relu", "tanh")
    ):
        yield f"{function} all {poison}", poisoned(sick_chain(function), poison)
    lost = Parameter(name="", shape=(), trainable=True, reached=False, log10_grad=None,
                     exact_zero=False, stats=stats(1, 0))  # fmt: skip
    yield "a nameless lost parameter", Trace(run=run, parameters=(lost, replace(lost, module="m")))


STRANGE = dict(strange_traces())


@pytest.mark.parametrize("what", STRANGE)
def test_no_trace_makes_a_rule_or_a_remedy_raise(what: str) -> None:
    found = diagnose(STRANGE[what])
    for finding in found.findings:
        assert finding.name in RULES
        assert finding.summary
        finding.to_dict()
    for remedy in remedies():
        for chosen in (found.findings, ()):
            treated = tuple(f for f in chosen if f.name in remedy.treats)
            list(remedy(treated, STRANGE[what]))


@pytest.mark.parametrize("what", [w for w in STRANGE if w.endswith("all nan")])
def test_what_is_not_a_number_convicts_nobody(what: str) -> None:
    found = diagnose(STRANGE[what])
    # dead units are counted, so they are a number all the same; a NaN gradient is a bad value
    named = {f.name for f in found.findings if f.severity is not Severity.NOTE}
    assert named <= {"dead-relu", "non-finite-value"}


def test_ten_thousand_layers_are_judged_in_a_moment() -> None:
    # GIVEN a plain sigmoid net of 10,000 layers, half of its parameters cut off
    trace = chain(10_000, "sigmoid", gain=0.58, total=-8500.0, act_decades=-6100.0,
                  weight_decades=-2400.0, signal_lost=100.0)  # fmt: skip
    cut = tuple(replace(p, reached=n % 2 == 0) for n, p in enumerate(trace.parameters))
    trace = replace(trace, parameters=cut)
    began = time.process_time()
    # WHEN it is diagnosed and every remedy is asked
    found = diagnose(trace)
    answers = [
        answer
        for remedy in remedies()
        for answer in remedy(tuple(f for f in found.findings if f.name in remedy.treats), trace)
    ]
    # THEN the usual answers come, in time linear in the depth (a pairwise search takes minutes)
    assert {"attenuating-activation", "detached-parameters"} <= {f.name for f in found.findings}
    assert answers
    assert time.process_time() - began < 60.0


def test_weights_helper_has_the_gain_it_is_asked_for() -> None:
    assert weights(gain=1.7).sigma_w == pytest.approx(1.7)
