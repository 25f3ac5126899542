"""How weights begin, where activations work, and what happens from call to call: near misses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from histories import FALLING, FLAT, history, layers, run, table
from traces import activation, chain, signal

from gradmend.engine.diagnose import rank
from gradmend.engine.watching.summary import report_of
from gradmend.records.codec import to_plain
from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, Event, History
from gradmend.records.loss_call import LossCall, Values
from gradmend.records.request import Answer, Measurement, Request
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Rule, find


def judged(name: str, seen: Trace | History) -> list[Finding]:
    found = find(name)
    assert isinstance(found, Rule)
    answers = found.over(seen) if isinstance(seen, History) else found(seen)
    return [a for a in answers if isinstance(a, Finding) and a.severity is not Severity.NOTE]


def changed(trace: Trace, at: int, **changes: Any) -> Trace:
    ops = list(trace.operations)
    ops[at] = replace(ops[at], **changes)
    return replace(trace, operations=tuple(ops))


def with_gain(trace: Trace, at: int, gain: float) -> Trace:
    facts = trace.operations[at].weights
    assert facts is not None
    return changed(trace, at, weights=replace(facts, mean_square=gain**2 / facts.fan_in))


def later(trace: Trace) -> Trace:
    return replace(trace, run=replace(trace.run, step=50))


def classifier(loss: float, logits: float) -> Trace:
    """The last layer's outputs are logits of eight classes."""
    trace = chain(4, "relu", gain=1.4, total=0.5)
    trace = changed(trace, 8, signal=signal(1.0, mean_square=logits**2, mean=0.0))
    end = Operation(id=9, name="cross_entropy", cause="other", module="", upstream=(8,))
    return replace(trace, operations=(*trace.operations, end), run=replace(trace.run, loss=loss))


def test_a_single_tiny_layer_is_named_before_the_slightly_small_ones() -> None:
    found = judged("init-gain-too-small", with_gain(chain(8, gain=0.7, total=-7.0), 6, 1e-5))
    assert found[0].modules[0] == "6"
    assert len(found[0].modules) == 8


def test_layers_that_are_all_alike_are_named_in_forward_order() -> None:
    found = judged("init-gain-too-small", chain(8, gain=0.3, total=-7.0))
    assert found[0].modules[0] == "0"


def test_weights_that_became_small_were_not_initialised_so() -> None:
    trace = chain(8, gain=0.3, total=-7.0)
    assert judged("init-gain-too-small", trace)
    assert not judged("init-gain-too-small", later(trace))


def test_weights_that_became_large_were_not_initialised_so() -> None:
    trace = chain(8, "relu", gain=5.0, total=7.0)
    assert judged("init-gain-too-large", trace)
    assert not judged("init-gain-too-large", later(trace))


def test_logits_that_are_sure_before_training_convict_the_layer_that_makes_them() -> None:
    found = judged("init-gain-too-large", with_gain(classifier(30.0, 20.0), 8, 40.0))
    assert found[0].modules[0] == "8"


@pytest.mark.parametrize(
    ("loss", "logits", "gain"),
    [
        pytest.param(2.1, 20.0, 40.0, id="sure and right"),
        pytest.param(30.0, 0.7, 40.0, id="a summed loss"),
        pytest.param(30.0, 20.0, 1.4, id="loud inputs, not loud weights"),
    ],
)
def test_other_reasons_for_a_large_first_loss_do_not(
    loss: float, logits: float, gain: float
) -> None:
    assert not judged("init-gain-too-large", with_gain(classifier(loss, logits), 8, gain))


def test_a_rectifiers_zero_half_is_no_saturation_of_large_weights() -> None:
    trace = chain(4, "relu", gain=1.9, total=0.5, facts={"flat_share": 0.6})
    assert not judged("init-gain-too-large", trace)
    assert judged("init-gain-too-large", chain(4, "tanh", gain=9.0, facts={"flat_share": 0.6}))


def test_one_saturated_sigmoid_is_not_the_sigmoids_nature() -> None:
    # GIVEN four sigmoids, of which one loses six decades by where it works
    trace = chain(4, "sigmoid", total=-8.0, act_decades=-3.2)
    one = changed(
        trace, 5, decades=-6.0, activation=activation("sigmoid", flat_share=1.0, slope_rms=1e-6)
    )
    # THEN that layer is told, and the kind of activation is not
    assert judged("saturated-activation", one)[0].modules == ("5",)
    assert not judged("attenuating-activation", one)
    # AND WHEN there are many, the kind is to blame
    assert judged("attenuating-activation", chain(10, "sigmoid", total=-8.0, act_decades=-8.0))


def test_a_signal_lost_at_one_place_is_not_the_activations_mean() -> None:
    even = chain(10, "sigmoid", signal_lost=6.0)
    assert judged("uncentred-activation", even)
    sizes = [1.0 if op.id < 9 else 1e-12 for op in even.operations]
    ops = [replace(o, signal=signal(s)) for o, s in zip(even.operations, sizes, strict=True)]
    assert not judged("uncentred-activation", replace(even, operations=tuple(ops)))


def gate(reader: str) -> Trace:
    """A flat sigmoid whose output one operation reads."""
    trace = chain(1, "sigmoid", facts={"flat_share": 1.0})
    return changed(trace, 2, name=reader, weights=None, cause="products")


def test_a_gate_may_stand_open() -> None:
    assert not judged("saturated-activation", gate("mul"))
    assert judged("saturated-activation", gate("add"))


def test_a_recurrent_layer_is_judged_by_all_of_its_activations() -> None:
    trace = chain(4, "sigmoid")
    ops = [replace(op, cause="recurrence", module="rnn") for op in trace.operations]
    flat = activation("sigmoid", flat_share=1.0)

    def with_flat(*which: int) -> Trace:
        found = [replace(o, activation=flat) if o.id in which else o for o in ops]
        return replace(trace, operations=tuple(found))

    assert not judged("saturated-activation", with_flat(3))
    assert judged("saturated-activation", with_flat(1, 3, 5, 7))


def flats(first: float, now: float, losses: np.ndarray) -> History:
    columns = [Column(name=n, module=n, kind="Tanh", order=at) for at, n in enumerate("abc")]
    values = np.full((60, 3), 0.1)
    values[:, 1] = np.linspace(first, now, 60)
    return history(run(losses), table("output", columns, 60, flat_share=values))


def test_what_was_born_flat_was_not_trained_to_be() -> None:
    assert judged("saturated-activation", flats(0.9, 0.7, FALLING))[0].modules == ("b",)
    assert not judged("saturated-activation", flats(0.2, 0.8, FALLING))
    assert judged("saturated-activation", flats(0.2, 0.9, FLAT))


def softmaxes(reads_weights: bool, total: float = -6.0) -> Trace:
    trace = chain(3, "tanh", total=total)
    ops = [
        replace(op, name="softmax", cause="attention-softmax", activation=None, decades=-1.7)
        if op.id % 2
        else replace(op, weights=op.weights if reads_weights or not op.id else None)
        for op in trace.operations
    ]
    return replace(trace, operations=tuple(ops))


def test_a_softmax_between_layers_is_told_from_one_that_weighs() -> None:
    assert judged("hidden-softmax", softmaxes(True))[0].modules[0] == "1"
    assert not judged("hidden-softmax", softmaxes(False))
    assert not judged("hidden-softmax", softmaxes(True, total=-1.0))


def loop(per_call: float, calls: int = 12, chained: bool = True) -> Trace:
    """One layer called again and again, its gradient changing by so many decades each time."""
    trace = chain(calls, "tanh")
    ops = []
    for op in trace.operations[:-1]:
        call = op.id // 2
        ops.append(
            replace(
                op,
                module="h2h" if op.id % 2 == 0 else "",
                call=call,
                log10_grad=-per_call * (calls - 1 - call) * -1.0,
                upstream=op.upstream if chained or op.id % 2 else (),
            )
        )
    return replace(trace, operations=tuple(ops))


@pytest.mark.parametrize(
    ("per_call", "name"),
    [
        (-0.7, "gradient-lost-through-time"),
        (0.5, "gradient-grown-through-time"),
        (-0.2, ""),
        (0.1, ""),
    ],
)
def test_a_layer_that_a_loop_calls_is_followed_from_call_to_call(
    per_call: float, name: str
) -> None:
    names = [
        each
        for each in ("gradient-lost-through-time", "gradient-grown-through-time")
        if judged(each, loop(per_call))
    ]
    assert names == ([name] if name else [])


def test_twins_that_do_not_feed_each_other_are_no_loop() -> None:
    assert not judged("gradient-grown-through-time", loop(0.5, chained=False))
    assert not judged("gradient-grown-through-time", loop(0.9, calls=5))


def loud(first: float, weight: float, logits: float = 1.5, classes: int | None = 10) -> History:
    """A run of three layers, of which the last may begin with large weights."""
    losses = np.linspace(first, max(first / 2, 0.1), 120)
    tail = [{"op": "nll_loss", "shape": [], "reads": [1]}]
    if classes:
        tail.append({"op": "log_softmax", "shape": [32, classes], "reads": []})
    columns = [Column(name=n, module=n, kind="Linear", order=at) for at, n in enumerate("abc")]
    return history(
        run(losses),
        table("update", layers(3), 60, log10_weight=[-0.5, -0.5, weight]),
        table("output", columns, 3, log10_rms=logits),
        events=[Event(step=0, kind="loss-graph", where="SGD", facts={"tail": tail})],
    )


def test_a_run_that_begins_far_above_a_guess_convicts_the_large_weights() -> None:
    assert judged("init-gain-too-large", loud(40.0, 1.0))[0].modules == ("layer2",)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(loud(40.0, -0.5), id="usual weights: the inputs are loud"),
        pytest.param(loud(2.4, 1.0), id="a first loss like a guess"),
        pytest.param(loud(40.0, 1.0, classes=None), id="no classifier: no guess to compare with"),
        pytest.param(loud(40.0, 1.0, logits=0.0), id="a summed loss: its logits are quiet"),
        pytest.param(loud(8.0, 1.0, classes=10_000), id="ten thousand classes"),
    ],
)
def test_other_large_first_losses_convict_no_weights(seen: History) -> None:
    assert not judged("init-gain-too-large", seen)


def recurrence(span: float, horizon: float, rows: int, rehearsal: bool) -> History:
    column = Column(name="rnn", module="rnn", kind="RNN", order=0)
    seen = history(run(FLAT), table("recurrence", [column], rows, log10_span=span, horizon=horizon))
    return replace(seen, run=replace(seen.run, rehearsal=rehearsal))


@pytest.mark.parametrize(
    ("span", "horizon", "rows", "rehearsal", "guilty"),
    [
        pytest.param(-9.0, 2.0, 2, False, True, id="two rows will do where nothing is learned"),
        pytest.param(-9.0, 2.0, 1, False, False, id="one will not"),
        pytest.param(-9.0, 2.0, 20, True, False, id="before training: as torch begins"),
        pytest.param(-9.0, 0.6, 20, True, True, id="before training: switched off"),
        pytest.param(-2.0, 0.6, 20, True, False, id="a short sequence"),
    ],
)
def test_a_recurrence_is_convicted_before_training_only_where_it_is_switched_off(
    span: float, horizon: float, rows: int, rehearsal: bool, guilty: bool
) -> None:
    seen = recurrence(span, horizon, rows, rehearsal)
    assert bool(judged("gradient-lost-through-time", seen)) is guilty


def answered(before: float, after: float, losses: tuple[float, ...]) -> Trace:
    """A stack of small weights, with the look after a few steps."""
    trace = chain(12, gain=0.4, total=before)
    then = Answer(
        measurement=Measurement.FEW_STEPS,
        trace=later(chain(12, gain=0.4, total=after)),
        losses=losses,
    )
    return replace(trace, answers=(then,))


FELL, STAYED = tuple(np.linspace(2.0, 1.0, 24)), (2.0,) * 24


@pytest.mark.parametrize(
    ("before", "after", "losses", "guilty"),
    [
        pytest.param(-4.5, -2.0, FELL, False, id="mended by a few steps"),
        pytest.param(-4.5, -2.0, STAYED, True, id="back, but nothing is learned"),
        pytest.param(-4.5, -4.4, FELL, True, id="only the last layers learn"),
        pytest.param(-7.0, -2.0, FELL, True, id="too much to hope for"),
    ],
)
def test_a_mild_loss_is_forgiven_where_a_few_steps_mend_it(
    before: float, after: float, losses: tuple[float, ...], guilty: bool
) -> None:
    assert bool(judged("init-gain-too-small", answered(before, after, losses))) is guilty


def test_a_mild_loss_asks_for_a_few_steps() -> None:
    rule = find("init-gain-too-small")
    assert isinstance(rule, Rule)
    asked = [a for a in rule(chain(12, gain=0.4, total=-4.5)) if isinstance(a, Request)]
    assert [a.measurement for a in asked] == [Measurement.FEW_STEPS]


def finding(name: str, code: str = "INI102", **changes: Any) -> Finding:
    return Finding(
        code=code, name=name, severity=Severity.ERROR, modules=("0",), summary="", **changes
    )


def test_a_cause_that_is_only_noted_does_not_stand_before_a_symptom() -> None:
    noted = replace(finding("a"), severity=Severity.NOTE)
    assert [f.name for f in rank([noted, finding("b", symptom=True)])] == ["b", "a"]


def looked(*looks: tuple[int, list[Finding]], losses: np.ndarray = FLAT) -> list[str]:
    events = [
        Event(step=step, kind="look", facts={"findings": [to_plain(f) for f in found]})
        for step, found in looks
    ]
    report = report_of(history(run(losses), events=events))
    return [f.name for f in report.findings if f.severity is not Severity.NOTE]


def test_how_the_weights_began_is_told_by_the_first_look_alone() -> None:
    began, other = finding("init-gain-too-large"), finding("saturated-activation", "ACT103")
    assert "init-gain-too-large" in looked((0, [began]), (40, []))
    assert "saturated-activation" not in looked((0, [other]), (40, []))
    assert "init-gain-too-large" not in looked((0, [began]), losses=FALLING)


def test_a_look_at_numbers_that_are_none_lets_the_one_before_speak() -> None:
    other, nan = finding("saturated-activation", "ACT103"), finding("non-finite-value", "NUM101")
    assert "saturated-activation" in looked((0, [other]), (40, [nan]))


def test_a_loss_that_fell_from_a_height_and_is_worse_than_a_guess_has_not_learned() -> None:
    guess = Evidence(quantity="first loss", observed=30.0, limit=0.1, unit="nats")
    began = finding("init-gain-too-large", evidence=(guess,))
    assert "init-gain-too-large" in looked((0, [began]), losses=FALLING)


def heard_loss(reduction: str = "mean", function: str = "cross_entropy") -> Event:
    call = LossCall(
        function=function,
        reduction=reduction,
        prediction=Values(shape=(64, 10), mean=0.0, std=1e4),
        target=Values(shape=(64,), mean=4.5, std=2.9),
    )
    return Event(step=0, kind="loss-call", where=function, facts=call.to_facts())


@pytest.mark.parametrize(
    ("events", "height", "told"),
    [
        ([heard_loss()], 1e4, True),  # 2,000 nats at last, where equal odds cost 2.3
        ([heard_loss()], 1.0, False),
        ([heard_loss()], 5.0, False),  # several heads of one function
        ([heard_loss("sum")], 1e4, False),
        ([heard_loss(), heard_loss(function="mse_loss")], 1e4, False),  # a sum of two
        ([], 1e4, False),
    ],
)
def test_a_run_that_ends_far_above_a_guess_disproves_nothing(
    events: list[Event], height: float, told: bool
) -> None:
    grown = Event(
        step=0, kind="look",
        facts={"findings": [to_plain(finding("residual-growth", "RES102"))]},
    )  # fmt: skip
    report = report_of(history(run(height * FALLING), events=[grown, *events]))
    assert report.healthy is not told


def drawn(gains: list[float], entropy: float = 0.02, deviation: float = 50.0) -> History:
    """A run that learns: projections of attention, two other layers of 64 units, how they began."""
    names = ("block.attn.qkv", "block.attn.out", "block.mlp", "head")
    columns = [
        Column(name=f"{name}.weight", module=name, kind="weight", order=at, shape=(64, 64))
        for at, name in enumerate(names)
    ]
    heads = [Column(name="block.attn", module="block.attn", kind="Attention", order=0)]
    return history(
        run(FALLING),
        table("update", columns, log10_weight=np.log10(np.array(gains) / 8.0)),
        table("attention", heads, entropy=entropy, logit_std=deviation, largest_share=0.95),
    )


@pytest.mark.parametrize(
    ("gains", "entropy", "deviation", "fires"),
    [
        ([8.0, 8.0, 8.0, 8.0], 0.02, 50.0, True),  # all drawn at 1, as 0.02 was meant
        ([8.0, 8.0, 8.0, 8.0], 0.95, 0.5, False),  # norms of queries and keys take it back
        ([8.0, 8.0, 8.0, 8.0], 0.02, 5.0, False),  # few keys
        ([8.0, 1.0, 1.0, 1.0], 0.02, 50.0, False),  # attention alone: saturated-attention says so
        ([1.0, 8.0, 1.0, 1.0], 0.02, 50.0, False),
        ([1.4, 1.4, 1.4, 1.4], 0.02, 50.0, False),  # a missing scale, or keys that are large
        ([np.nan] * 4, 0.02, 50.0, False),
    ],
)
def test_attention_that_begins_one_hot_where_all_layers_are_large_is_the_draw(
    gains: list[float], entropy: float, deviation: float, fires: bool
) -> None:
    found = judged("init-gain-too-large", drawn(gains, entropy, deviation))
    assert bool(found) is fires
    if fires:  # and it accounts for what attention shows
        both = rank([*judged("saturated-attention", drawn(gains, entropy, deviation)), *found])
        assert both[0].name == "init-gain-too-large" and len(both[0].modules) == 4
        assert both[1].explained_by == "init-gain-too-large"


def test_one_finite_loss_before_nothing_but_nan_is_no_last_one() -> None:
    losses = np.where(np.arange(60) < 1, 2.9e10, np.nan)
    watched = report_of(history(run(losses, backwards=1))).watched
    assert watched is not None
    assert watched.loss_first == 2.9e10
    assert watched.loss_last is not None
    assert np.isnan(watched.loss_last)
    assert watched.learns is False


def test_a_squared_error_that_drowns_the_loss_beside_it_is_told_however_well_it_falls() -> None:
    def regression(rms: float) -> Event:
        call = LossCall(
            function="mse_loss",
            prediction=Values(shape=(32,), mean=0.0, std=1.0),
            target=Values(shape=(32,), mean=0.0, std=rms),
        )
        return Event(step=0, kind="loss-call", where="mse_loss", facts=call.to_facts())

    def told(*events: Event, last: float) -> bool:
        losses = np.geomspace(1e6, last, 120)
        rule = find("unscaled-target")
        assert isinstance(rule, Rule)
        return bool(list(rule.over(history(run(losses), events=events))))

    # GIVEN targets of a thousand that are explained by nine tenths and more
    assert told(regression(1e3), heard_loss(), last=1e4)
    assert not told(regression(1e3), last=1e4)  # alone, it learns
    assert not told(regression(1e3), heard_loss(), last=1e3)  # of the size of the other one


@pytest.mark.parametrize(
    ("spread", "severity"),
    [
        (1e-12, Severity.ERROR),  # one output for all samples, to the end
        ([1e-12] * 100 + [0.3] * 20, Severity.WARNING),  # until late: the loss has fallen a little
        ([1e-12] + [0.3] * 119, Severity.NOTE),  # a head that begins at zero
        (0.3, Severity.NOTE),
        (np.nan, Severity.NOTE),
    ],
)
def test_what_a_loss_falls_while_all_samples_get_one_output_is_not_learned(
    spread: float | list[float], severity: Severity
) -> None:
    # GIVEN a loss that falls at once, as the last bias finds the mean, and a little at the end
    losses = np.concatenate([np.full(25, 5.0), np.full(75, 1.9), np.full(20, 1.36)])
    head = Column(name="head", module="head", kind="Linear", order=1)
    shares = np.broadcast_to(np.asarray(spread, dtype=float), (120,))[:, None]
    lost = Event(
        step=0, kind="look",
        facts={"findings": [to_plain(finding("attenuating-activation", "ACT101"))]},
    )  # fmt: skip
    if severity is Severity.ERROR:
        losses = losses[:100]
        shares = shares[:100]
    outputs = table("output", [head], len(losses), spread_share=shares)
    report = report_of(history(run(losses), outputs, events=[lost]))
    assert [f.severity for f in report.findings if f.code == "ACT101"] == [severity]
