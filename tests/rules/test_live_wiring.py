"""The wiring rules on histories built by hand: facts as they arrive, at the limits and beside them.

What real loops bring about is tested with the trainings of the zoo (test_live_cases.py).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmend.records.finding import Finding, Severity
from gradmend.records.history import QUANTITIES, Column, Event, History, RunFacts, Table
from gradmend.registry import Rule, find, rules
from gradmend.theory import wiring

ROWS = 60
WIRING = [
    "detached-parameters", "gradients-not-cleared", "unregistered-parameters",
    "non-differentiable-operation", "late-clipping", "clipping-of-scaled-gradients",
    "parameters-without-optimizer", "stale-optimizer", "frozen-parameters", "overwritten-weights",
    "doubled-softmax", "missing-logarithm", "doubled-sigmoid", "bounded-logits", "broadcast-loss",
    "clamped-loss", "one-unit-softmax", "negated-loss", "summed-loss",
    "evaluation-mode-in-training", "starved-batch-norm", "excessive-dropout", "constant-input",
    "truncated-backpropagation",
]  # fmt: skip


def table(name: str, columns: Sequence[Column], rows: int = ROWS, **values: Any) -> Table:
    """A table whose quantities are numbers, or arrays [rows] or [rows, columns]."""
    shape = (rows, len(columns))
    filled = {q: np.full(shape, np.nan) for q in QUANTITIES[name]}
    for quantity, value in values.items():
        array = np.asarray(value, dtype=float)
        filled[quantity][:] = array[:, None] if array.ndim == 1 else array
    return Table(name=name, columns=tuple(columns), steps=np.arange(rows), values=filled)


def optimizer(name: str = "SGD", **facts: Any) -> Column:
    return Column(name=name, kind=name, order=0, facts=facts)


def parameter(name: str, *, shape: tuple[int, ...] = (4, 4), **facts: Any) -> Column:
    module, _, kind = name.rpartition(".")
    known = {"optimizer": 0, "group": 0, "trainable": True, "registered": True, **facts}
    return Column(name=name, module=module, kind=kind, shape=shape, facts=known)


LAYERS = [parameter(f"layers.{n}.weight") for n in range(4)]


def history(*tables: Table, events: Sequence[Event] = (), models: int = 1) -> History:
    run = RunFacts(models=tuple(f"M{n}" for n in range(models)))
    return History(run=run, tables={t.name: t for t in tables}, events=tuple(events))


def steps(rows: int = ROWS, columns: Sequence[Column] = (), **values: Any) -> Table:
    given_ = {"loss": np.linspace(2.0, 1.0, rows), "log10_norm": 0.0, **values}
    return table("step", columns or [optimizer()], rows, **given_)


FLAT = np.tile([1.0, 1.1, 0.9], 20)


def gradients(columns: Sequence[Column] = (), state: Any = 2.0) -> Table:
    return table("gradient", columns or LAYERS, state=state)


def graph(*rows: tuple[str, Sequence[int] | None, Sequence[int]], **facts: Any) -> Event:
    """A loss-graph event from (operation, shape, reads)."""
    tail = [{"op": op, "shape": shape, "reads": list(reads)} for op, shape, reads in rows]
    return Event(
        step=0, kind="loss-graph", facts={"tail": tail, "flat": [], "unreached": []} | facts
    )


def chain(*operations: str, shape: Sequence[int] = (8, 4), **facts: Any) -> Event:
    """A graph in which each operation reads the next; the first makes a number."""
    rows = [
        (op, [] if at == 0 else list(shape), [at + 1] if at + 1 < len(operations) else [])
        for at, op in enumerate(operations)
    ]
    return graph(*rows, **facts)


def module(where: str, step: int = 0, **facts: Any) -> Event:
    return Event(step=step, kind="module-state", where=where, facts={"class": "", **facts})


def over(name: str, run: History) -> list[Finding]:
    rule = find(name)
    assert isinstance(rule, Rule)
    return list(rule.over(run))


def judged(name: str, run: History) -> list[Severity]:
    return [f.severity for f in over(name, run)]


ERROR, WARNING, NOTE = [Severity.ERROR], [Severity.WARNING], [Severity.NOTE]


# -- all of them


@pytest.mark.parametrize("name", WIRING)
def test_nothing_is_said_of_a_run_that_has_not_begun(name: str) -> None:
    assert over(name, history()) == []
    assert over(name, history(steps(rows=3, loss=1.0), table("gradient", LAYERS, rows=3))) == []


def sound() -> History:
    return history(
        steps(not_cleared=0.0, clip_late=0.0, clip_scaled=0.0, batch_size=8.0),
        gradients(),
        table("update", LAYERS, outside_share=0.0, log10_weight=-1.0),
        events=[
            chain("nll_loss", "log_softmax", "view", "addmm"),
            module("", training=True),
            module("layers.1", training=True, values_per_channel=8),
            module("layers.2", training=True, p=0.5),
            Event(step=0, kind="cells", where="cell", facts={"calls": 8, "detached": 0}),
            Event(
                step=0,
                kind="input",
                where="0",
                facts={"shape": (8, 4), "dtype": "float32", "std": 1.0, "constant_share": 0.0},
            ),
        ],
    )


@pytest.mark.parametrize("name", WIRING)
def test_a_sound_run_is_silent(name: str) -> None:
    assert over(name, sound()) == []


@pytest.mark.parametrize("name", WIRING)
def test_what_was_not_measured_convicts_nobody(name: str) -> None:
    # GIVEN tables of NaN, and events without facts
    kinds = ("loss-graph", "module-state", "input", "cells")
    run = history(
        *(table(t, [optimizer()] if t == "step" else LAYERS) for t in QUANTITIES),
        events=[Event(step=0, kind=kind) for kind in kinds],
    )
    # THEN nobody speaks
    assert over(name, run) == []


def wild() -> Iterator[float]:
    yield from (math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0, 3.0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_history_whatever_makes_a_rule_raise(data: st.DataObject) -> None:
    number = st.sampled_from(list(wild()))
    operation = st.sampled_from(
        ["nll_loss", "softmax", "log_softmax", "sigmoid", "expand", "sub", "mean", "clamp", "neg"]
    )
    rows = [
        (
            data.draw(operation),
            data.draw(st.none() | st.lists(st.integers(0, 3), max_size=3)),
            data.draw(st.lists(st.integers(0, 6), max_size=2)),  # cycles and gaps too
        )
        for _ in range(data.draw(st.integers(0, 5)))
    ]
    columns = [
        parameter(
            f"l.{n}",
            optimizer=data.draw(st.none() | st.integers(0, 1)),
            trainable=data.draw(st.booleans()),
            registered=data.draw(st.booleans()),
        )
        for n in range(3)
    ]
    tables = [
        table(t, [optimizer()] if t == "step" else columns, rows=50)
        for t in ("step", "gradient", "update")
    ]
    for each in tables:
        for values in each.values.values():
            values[:] = data.draw(number)
    events = [
        graph(*rows, flat=["round"]),
        module("l", training=data.draw(st.booleans()), p=data.draw(number)),
        module("n", training=True, values_per_channel=data.draw(st.integers(0, 3))),
    ]
    run = history(*tables, events=events, models=2)
    for name in WIRING:
        for finding in over(name, run):
            assert finding.name == name
            assert "\n" not in finding.summary


def test_every_finding_stands_on_evidence_and_explains_what_exists() -> None:
    known = {rule.name for rule in rules()}
    for name in WIRING:
        rule = find(name)
        assert isinstance(rule, Rule)
        assert rule.live is not None
        assert len(rule.live_fires_on) >= 1
        assert len(rule.live_silent_on) >= 2
    assert [name for name, _ in CONVICTED] == WIRING
    for name, run in CONVICTED:
        found = over(name, run)
        assert found, name
        for finding in found:
            assert finding.code == next(r.code for r in rules() if r.name == name)
            assert finding.evidence
            assert finding.exculpation
            assert set(finding.explains) <= known, name


# -- the loop


@pytest.mark.parametrize(
    ("name", "quantity", "severity"),
    [
        ("gradients-not-cleared", "not_cleared", ERROR),
        ("late-clipping", "clip_late", WARNING),
        ("clipping-of-scaled-gradients", "clip_scaled", ERROR),
    ],
)
def test_a_wrong_order_convicts_from_half_of_the_recent_steps_on(
    name: str, quantity: str, severity: list[Severity]
) -> None:
    half: dict[str, Any] = {quantity: np.tile([1.0, 0.0], 30)}
    fewer: dict[str, Any] = {quantity: np.tile([1.0, 0.0, 0.0], 20)}
    assert judged(name, history(steps(**half))) == severity
    assert judged(name, history(steps(**fewer))) == []
    # AND it clears when it is over
    mended: dict[str, Any] = {quantity: np.where(np.arange(ROWS) < 30, 1.0, 0.0)}
    assert judged(name, history(steps(**mended))) == []


def test_clipping_to_infinity_after_the_step_only_measures() -> None:
    assert judged("late-clipping", history(steps(clip_late=1.0, clip_limit=np.inf))) == []
    assert judged("late-clipping", history(steps(clip_late=1.0, clip_limit=1.0))) == WARNING


def test_clipping_of_scaled_gradients_says_what_is_left() -> None:
    run = history(steps(clip_scaled=1.0, clip_limit=2.0, loss_scale=1024.0))
    (finding,) = over("clipping-of-scaled-gradients", run)
    assert "0.002 behind the scale of 1024" in finding.summary


def test_each_optimizer_is_judged_by_itself() -> None:
    columns = [optimizer("Adam"), optimizer("SGD")]
    share = np.stack([np.zeros(ROWS), np.ones(ROWS)], axis=1)
    (finding,) = over("gradients-not-cleared", history(steps(columns=columns, not_cleared=share)))
    assert "SGD" in finding.summary


def test_overwritten_weights_need_a_loss_that_stays_and_weights_that_stay() -> None:
    def run(loss: Any = FLAT, share: Any = 1.0, weight: Any = -1.0) -> History:
        update = table("update", LAYERS, outside_share=share, log10_weight=weight)
        return history(steps(loss=loss), update)

    assert judged("overwritten-weights", run()) == ERROR
    assert judged("overwritten-weights", run(loss=np.linspace(2, 1, ROWS))) == []
    assert judged("overwritten-weights", run(loss=np.nan)) == []
    assert judged("overwritten-weights", run(share=0.89)) == []
    assert judged("overwritten-weights", run(weight=np.linspace(-1, 0, ROWS))) == []
    # AND a pass in ten that was not compared does not clear it
    rarely = np.where(np.arange(ROWS) % 12 == 0, 0.0, 1.0)
    assert judged("overwritten-weights", run(share=rarely)) == ERROR
    assert judged("overwritten-weights", run(share=np.tile([1.0, 0.0], 30))) == []


# -- parameters


def states(*each: float) -> np.ndarray:
    return np.tile(np.array(each, dtype=float), (ROWS, 1))


RAN = table("output", [Column(name=f"layers.{n}", module=f"layers.{n}") for n in range(4)])


def test_first_layers_without_a_gradient_are_cut_off() -> None:
    (finding,) = over("detached-parameters", history(gradients(state=states(0, 0, 2, 2)), RAN))
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("layers.1", "layers.0")  # the cut first
    assert "layers.2 behind it does" in finding.summary


def test_whether_the_module_ran_decides_between_error_and_note() -> None:
    run = gradients(state=states(0, 2, 2, 2))
    others = table("output", [Column(name="layers.1", module="layers.1")])
    assert judged("detached-parameters", history(run, RAN)) == ERROR
    assert judged("detached-parameters", history(run, others)) == NOTE
    assert judged("detached-parameters", history(run)) == WARNING  # no output was measured


@pytest.mark.parametrize("state", [(2, 2, 2, 0), (2, 0, 2, 2)])
def test_a_branch_behind_the_first_gradient_is_a_note(state: tuple[float, ...]) -> None:
    assert judged("detached-parameters", history(gradients(state=states(*state)), RAN)) == NOTE


@pytest.mark.parametrize(
    "facts", [{"trainable": False}, {"optimizer": None}, {"registered": False}]
)
def test_none_is_right_for_what_is_frozen_or_elsewhere(facts: dict[str, Any]) -> None:
    columns = [parameter("layers.0.weight", **facts), *LAYERS[1:]]
    run = history(gradients(columns, state=states(0, 2, 2, 2)), RAN)
    assert judged("detached-parameters", run) == []


def test_a_gradient_that_once_was_there_is_not_detached() -> None:
    state = states(0, 2, 2, 2)
    state[3, 0] = 2
    assert judged("detached-parameters", history(gradients(state=state), RAN)) == []


def test_zero_is_not_none() -> None:
    assert judged("detached-parameters", history(gradients(state=states(1, 1, 2, 2)), RAN)) == []


def test_the_other_players_turn_is_no_cut() -> None:
    # GIVEN two optimizers whose parameters are measured at their own steps only
    columns = [parameter(f"G.{n}", optimizer=0) for n in range(2)]
    columns += [parameter(f"D.{n}", optimizer=1) for n in range(2)]
    state = states(2, 2, 2, 2)
    state[::2, :2] = np.nan
    state[1::2, 2:] = np.nan
    both = steps(columns=[optimizer("A"), optimizer("B")], loss=np.stack([FLAT, FLAT], axis=1))
    run = history(both, gradients(columns, state=state), models=2)
    for name in ("detached-parameters", "stale-optimizer", "parameters-without-optimizer"):
        assert over(name, run) == []


def orphans(loss: Any = FLAT, **facts: Any) -> History:
    columns = [parameter("layers.0.weight", optimizer=None, **facts), *LAYERS[1:]]
    return history(steps(loss=loss), gradients(columns))


def test_parameters_in_no_group_are_a_note_while_the_loss_falls() -> None:
    assert judged("parameters-without-optimizer", orphans()) == WARNING
    assert judged("parameters-without-optimizer", orphans(np.linspace(2, 1, ROWS))) == NOTE
    assert judged("parameters-without-optimizer", orphans(np.nan)) == NOTE
    assert judged("parameters-without-optimizer", orphans(trainable=False)) == []


def test_what_nobody_has_trained_is_no_backbone() -> None:
    falling = np.linspace(2, 1, ROWS)
    assert judged("parameters-without-optimizer", orphans(falling, as_drawn=True)) == WARNING
    assert judged("parameters-without-optimizer", orphans(falling, as_drawn=False)) == NOTE
    assert judged("parameters-without-optimizer", orphans(falling, as_drawn=None)) == NOTE


def test_a_fixed_network_beside_the_trained_one_is_not_missing() -> None:
    columns = [parameter(f"VGG.{n}", optimizer=None) for n in range(2)]
    columns += [parameter(f"Net.{n}") for n in range(2)]
    run = history(steps(loss=FLAT), gradients(columns), models=2)
    assert over("parameters-without-optimizer", run) == []
    # BUT where nothing is learned it may be layers that no module registers
    assert judged("unregistered-parameters", run) == WARNING


def test_strangers_on_the_graph_are_unregistered() -> None:
    def run(loss: Any) -> History:
        return history(steps(loss=loss), gradients(), events=[chain("mse_loss", strangers=4)])

    assert judged("unregistered-parameters", run(FLAT)) == WARNING
    assert judged("unregistered-parameters", run(np.linspace(2, 1, ROWS))) == NOTE


def stale(gone: Sequence[float], registered: bool, loss: Any = FLAT) -> History:
    columns = [parameter(f"SGD.0.{n}", registered=registered) for n in range(len(gone))]
    columns += [parameter("head.weight", optimizer=None)]
    return history(steps(loss=loss), gradients(columns, state=states(*gone, 2)))


def test_an_optimizer_of_another_model_is_stale() -> None:
    falling = np.linspace(2, 1, ROWS)
    assert judged("stale-optimizer", stale((0, 0), registered=False)) == ERROR
    assert judged("stale-optimizer", stale((0, 0), registered=True)) == ERROR  # a model once
    assert judged("stale-optimizer", stale((0, 2), registered=False, loss=falling)) == WARNING
    assert judged("stale-optimizer", stale((0, 2), registered=True)) == []  # detached instead
    assert judged("stale-optimizer", stale((2, 2), registered=False)) == []
    assert over("parameters-without-optimizer", stale((0, 0), registered=False)) == []


def frozen(*trainable: bool, loss: Any = FLAT, last: tuple[int, ...] = (1, 4)) -> History:
    shapes = [(4, 4)] * (len(trainable) - 1) + [last]
    columns = [
        parameter(f"layers.{n}.weight", trainable=free, shape=shape)
        for n, (free, shape) in enumerate(zip(trainable, shapes, strict=True))
    ]
    return history(steps(loss=loss), gradients(columns))


def test_freezing_is_an_accident_only_where_nothing_is_learned() -> None:
    assert judged("frozen-parameters", frozen(False, False, True)) == WARNING
    assert judged("frozen-parameters", frozen(False, True)) == WARNING  # half of them
    assert judged("frozen-parameters", frozen(False, True, True)) == []
    falling = np.linspace(2, 1, ROWS)
    assert judged("frozen-parameters", frozen(False, False, True, loss=falling)) == []
    # AND trainable layers in front are adapters, a frozen twin is a target network
    assert judged("frozen-parameters", frozen(True, False, False)) == []
    assert judged("frozen-parameters", frozen(False, True, last=(4, 4))) == []


def test_a_step_function_convicts_only_with_exact_zeros_before_it() -> None:
    event = chain("mse_loss", "round", "addmm", flat=["round"])
    zeros = history(steps(), gradients(state=states(1, 1, 2, 2)), events=[event])
    (finding,) = over("non-differentiable-operation", zeros)
    assert finding.modules[0] == "layers.1"
    alive = history(steps(), gradients(), events=[event])
    assert over("non-differentiable-operation", alive) == []
    smooth = history(steps(), gradients(state=states(1, 1, 2, 2)), events=[chain("mse_loss")])
    assert over("non-differentiable-operation", smooth) == []


# -- the loss


def lossy(*events: Event, **values: Any) -> History:
    return history(steps(**values), gradients(), events=events)


@pytest.mark.parametrize(
    ("name", "operations", "severity"),
    [
        ("doubled-softmax", ("nll_loss", "log_softmax", "softmax"), WARNING),
        ("doubled-softmax", ("nll_loss", "log_softmax", "view", "to_copy", "softmax"), WARNING),
        ("doubled-softmax", ("nll_loss", "log_softmax", "div", "softmax"), []),
        ("doubled-softmax", ("nll_loss", "log_softmax", "log_softmax"), []),
        ("doubled-softmax", ("nll_loss", "log", "softmax"), []),
        ("missing-logarithm", ("nll_loss", "softmax"), WARNING),
        ("missing-logarithm", ("nll_loss2_d", "view", "softmax"), WARNING),
        ("missing-logarithm", ("nll_loss", "addmm"), ERROR),
        ("missing-logarithm", ("nll_loss", "sub"), []),
        ("missing-logarithm", ("nll_loss", "log_softmax"), []),
        ("doubled-sigmoid", ("binary_cross_entropy_with_logits", "squeeze", "sigmoid"), WARNING),
        ("doubled-sigmoid", ("binary_cross_entropy", "sigmoid", "sigmoid"), WARNING),
        ("doubled-sigmoid", ("binary_cross_entropy", "sigmoid"), []),
        ("doubled-sigmoid", ("mse_loss", "sigmoid", "sigmoid"), []),
        ("bounded-logits", ("nll_loss", "log_softmax", "relu"), WARNING),
        ("bounded-logits", ("binary_cross_entropy_with_logits", "tanh"), WARNING),
        ("bounded-logits", ("nll_loss", "log_softmax", "mul", "tanh"), []),
        ("bounded-logits", ("nll_loss", "log_softmax", "mean", "relu"), []),
        ("bounded-logits", ("mse_loss", "relu"), []),
        ("bounded-logits", ("binary_cross_entropy_with_logits", "sigmoid"), []),
    ],
)
def test_what_lies_right_before_a_loss(
    name: str, operations: tuple[str, ...], severity: list[Severity]
) -> None:
    assert judged(name, lossy(chain(*operations))) == severity


@pytest.mark.parametrize(
    ("name", "reads", "pieces", "severity"),
    [
        ("doubled-softmax", "log_softmax", ("softmax", "softmax"), WARNING),
        ("doubled-softmax", "log_softmax", ("softmax", "addmm"), []),
        ("doubled-softmax", "log_softmax", ("log", "log"), []),
        ("missing-logarithm", "view", ("softmax", "softmax"), WARNING),
        ("missing-logarithm", "view", ("log_softmax", "log_softmax"), []),
        ("bounded-logits", "log_softmax", ("relu", "relu"), WARNING),
    ],
)
@pytest.mark.parametrize("join", ["stack", "cat"])
def test_what_a_decoder_joins_is_what_its_steps_have_made(
    name: str, reads: str, pieces: tuple[str, ...], severity: list[Severity], join: str
) -> None:
    # GIVEN steps of a sequence that are put together, and rearranged, before the loss
    first, second = pieces
    rows = [
        ("nll_loss", [], [1]), (reads, [8, 4], [2]), ("view", [8, 4], [3]),
        (join, [2, 4, 4], [4, 5]), (first, [4, 4], [6]), (second, [4, 4], [6]),
        ("addmm", [4, 4], []),
    ]  # fmt: skip
    # THEN they are judged as if there was one step, where all of them are the same
    assert judged(name, lossy(graph(*rows))) == severity


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_floor_of_a_doubled_softmax_is_the_true_one(classes: int) -> None:
    (finding,) = over(
        "doubled-softmax", lossy(chain("nll_loss", "log_softmax", "softmax", shape=(8, classes)))
    )
    # the surest probabilities there are, through cross entropy again
    sure = np.eye(classes)[0]
    floor = -math.log(math.exp(sure[0]) / np.exp(sure).sum())
    assert f"below {floor:.2f}" in finding.summary


def test_a_table_of_all_against_all_is_a_broadcast() -> None:
    def run(*rows: Any) -> list[Severity]:
        return judged("broadcast-loss", lossy(graph(*rows)))

    spread = ("expand", [8, 8], [2])
    assert run(("mse_loss", [], [1]), spread, ("addmm", [8, 1], [])) == ERROR
    assert run(("mse_loss", [], [1]), spread, ("squeeze", [8], [])) == ERROR
    by_hand: Any = (
        ("mean", [], [1]),
        ("pow", [8, 8], [2]),
        ("sub", [8, 8], [3]),
        ("addmm", [8, 1], []),
    )
    assert run(*by_hand) == ERROR
    # a single sample is spread to nothing; another width is meant
    assert run(("mse_loss", [], [1]), ("expand", [1, 1], [2]), ("addmm", [1, 1], [])) == []
    assert run(("mse_loss", [], [1]), ("expand", [8, 5], [2]), ("addmm", [8, 1], [])) == []
    # both sides from the model, and a partial likelihood that sums each row first
    assert (
        run(("mean", [], [1]), ("sub", [8, 8], [2, 3]), ("a", [8, 1], []), ("b", [1, 8], [])) == []
    )
    cox: Any = (("mean", [], [1]), ("log", [8], [2]), ("sum", [8], [3]), ("mul", [8, 8], [4]))
    assert run(*cox, ("exp", [8, 1], [])) == []


def test_a_clamp_convicts_only_where_it_takes_the_gradient_away() -> None:
    dead, alive = -np.inf, 0.0
    clamped = chain("mean", "pow", "clamp", "sub", "addmm")
    assert judged("clamped-loss", lossy(clamped, log10_norm=dead, loss=1.0)) == ERROR
    assert judged("clamped-loss", lossy(clamped, log10_norm=alive, loss=1.0)) == []
    # a loss of zero has nothing to complain of
    assert judged("clamped-loss", lossy(clamped, log10_norm=dead, loss=0.0)) == []
    # a clamped error counts as soon as it takes some and the loss stays, others from half on
    sometimes = np.where(np.arange(ROWS) % 6 == 0, dead, alive)
    assert judged("clamped-loss", lossy(clamped, log10_norm=sometimes, loss=FLAT)) == WARNING
    assert judged("clamped-loss", lossy(clamped, log10_norm=sometimes)) == []
    capped = chain("mean", "clamp", "pow", "addmm")
    assert judged("clamped-loss", lossy(capped, log10_norm=sometimes, loss=FLAT)) == []
    # a proximal policy's clamp is one of two ways
    policy = graph(
        ("mean", [], [1]), ("minimum", [8], [2, 3]), ("mul", [8], [4]), ("mul", [8], [5]),
        ("clamp", [8], [5]), ("exp", [8], []),
    )  # fmt: skip
    assert judged("clamped-loss", lossy(policy, log10_norm=dead, loss=1.0)) == []
    # no clamp at all
    assert (
        judged("clamped-loss", lossy(chain("mse_loss", "addmm"), log10_norm=dead, loss=1.0)) == []
    )


def test_a_softmax_over_one_class_needs_a_gradient_of_zero() -> None:
    one = chain("nll_loss", "log_softmax", "addmm", shape=(8, 1))
    two = chain("nll_loss", "log_softmax", "addmm", shape=(8, 2))
    zero, some = gradients(state=1.0), gradients()
    assert judged("one-unit-softmax", history(steps(), zero, events=[one])) == ERROR
    assert judged("one-unit-softmax", history(steps(), some, events=[one])) == []
    assert judged("one-unit-softmax", history(steps(), zero, events=[two])) == []


@pytest.mark.parametrize(
    ("operations", "severity"),
    [
        (("neg", "nll_loss", "log_softmax"), ERROR),
        (("neg", "mse_loss", "addmm"), ERROR),
        (("mul", "neg", "mean", "pow", "sub"), ERROR),
        (("mean", "gather", "log_softmax"), ERROR),
        (("neg", "mean", "gather", "log_softmax"), []),  # right, so never negative for long
        (("neg", "mean", "mul", "gather", "log_softmax"), []),  # a policy gradient
        (("neg", "nll_loss", "softmax"), []),
        (("mean", "addmm"), []),  # a critic's
    ],
)
def test_a_negative_loss_that_cannot_be(
    operations: tuple[str, ...], severity: list[Severity]
) -> None:
    event, falling = chain(*operations), -np.linspace(1, 50, ROWS)
    assert judged("negated-loss", lossy(event, loss=falling)) == severity
    assert judged("negated-loss", lossy(event, loss=-falling)) == []


def test_who_maximises_negates() -> None:
    event, falling = chain("neg", "nll_loss", "log_softmax"), -np.linspace(1, 50, ROWS)
    one = steps(columns=[optimizer(maximize=True)], loss=falling)
    assert over("negated-loss", history(one, events=[event])) == []
    two = steps(columns=[optimizer(), optimizer("B")], loss=np.stack([falling, falling], axis=1))
    assert over("negated-loss", history(two, events=[event])) == []


def test_a_sum_convicts_only_where_it_diverges_and_the_rate_feels_it() -> None:
    grown, almost = np.geomspace(1, 30, ROWS), np.geomspace(1, 9, ROWS)
    summed, mean = chain("sum", "pow", "sub"), chain("div", "sum", "pow", "sub")
    assert judged("summed-loss", lossy(summed, loss=grown, batch_size=8.0)) == WARNING
    assert judged("summed-loss", lossy(summed, loss=almost, batch_size=8.0)) == []
    assert judged("summed-loss", lossy(mean, loss=grown, batch_size=8.0)) == []
    adam = steps(columns=[optimizer("Adam")], loss=grown)
    assert over("summed-loss", history(adam, events=[summed])) == []
    # AND where it has left the numbers altogether
    gone = np.where(np.arange(ROWS) < 9, 1.0, np.nan)
    run = history(steps(loss=gone), gradients(state=3.0), events=[summed])
    assert judged("summed-loss", run) == WARNING


def test_the_graph_of_each_optimizer_is_the_newest_and_old_ones_clear() -> None:
    bad, good = chain("nll_loss", "log_softmax", "softmax"), chain("nll_loss", "log_softmax")
    named = [Event(step=0, kind="loss-graph", where="SGD", facts=bad.facts)]
    assert judged("doubled-softmax", lossy(*named)) == WARNING
    named += [Event(step=5, kind="loss-graph", where="SGD", facts=good.facts)]
    assert judged("doubled-softmax", lossy(*named)) == []


# -- modes and data

NORM: dict[str, Any] = {"values_per_channel": 8}
DROP: dict[str, Any] = {"p": 0.5}


def modes(*events: Event) -> History:
    return history(steps(), gradients(), events=events)


@pytest.mark.parametrize(
    ("whole", "norm", "drop", "severity"),
    [
        (False, False, False, WARNING),
        (True, False, True, []),
        (True, False, False, []),  # chosen, one by one
        (None, False, False, WARNING),
        (None, False, None, NOTE),
        (None, None, False, NOTE),
        (False, None, False, NOTE),
        (False, False, None, WARNING),
        (False, True, False, []),
        (True, True, True, []),
    ],
)
def test_evaluation_mode_convicts_when_all_of_it_is(
    whole: bool | None, norm: bool | None, drop: bool | None, severity: list[Severity]
) -> None:
    events = [
        module(where, training=training, **facts)
        for where, training, facts in (
            ("", whole, {}),
            ("layers.1", norm, NORM),
            ("layers.2", drop, DROP),
        )
        if training is not None
    ]
    assert judged("evaluation-mode-in-training", modes(*events)) == severity


def test_a_validation_between_the_steps_is_no_mode_of_training() -> None:
    # GIVEN a validation that has just been, and no step since
    events = [module("layers.1", training=True, **NORM), module("layers.2", training=True, **DROP)]
    events += [module("layers.1", ROWS, training=False, **NORM)]
    events += [module("layers.2", ROWS, training=False, **DROP)]
    assert over("evaluation-mode-in-training", modes(*events)) == []


def test_a_teacher_may_be_in_evaluation_mode() -> None:
    columns = [
        parameter("teacher.0.weight", optimizer=None, trainable=False),
        parameter("s.weight"),
    ]
    events = [
        module("teacher.1", training=False, **NORM),
        module("teacher.2", training=False, **DROP),
    ]
    assert (
        over("evaluation-mode-in-training", history(steps(), gradients(columns), events=events))
        == []
    )


@pytest.mark.parametrize(("values", "severity"), [(1, ERROR), (2, ERROR), (3, []), (32, [])])
def test_batch_norm_starves_on_two_values(values: int, severity: list[Severity]) -> None:
    event = module("layers.1", training=True, values_per_channel=values)
    assert judged("starved-batch-norm", modes(event)) == severity
    off = module("layers.1", training=False, values_per_channel=values)
    assert judged("starved-batch-norm", modes(off)) == []


def test_a_small_last_batch_does_not_starve() -> None:
    small = module("layers.1", ROWS - 1, training=True, values_per_channel=1)
    assert over("starved-batch-norm", modes(small)) == []


@pytest.mark.parametrize(
    ("p", "severity"), [(0.89, []), (0.9, WARNING), (0.98, WARNING), (0.99, ERROR), (1.0, ERROR)]
)
def test_dropout_near_one(p: float, severity: list[Severity]) -> None:
    assert judged("excessive-dropout", modes(module("layers.2", training=True, p=p))) == severity
    assert judged("excessive-dropout", modes(module("layers.2", training=False, p=p))) == []


def fed(step: int = 0, where: str = "0", **facts: Any) -> Event:
    known = {"shape": (8, 4), "dtype": "float32", "mean": 0.0, "std": 1.0, "constant_share": 0.0}
    return Event(step=step, kind="input", where=where, facts=known | facts)


@pytest.mark.parametrize(
    ("facts", "severity"),
    [
        ({"std": 0.0, "constant_share": 1.0}, ERROR),
        ({"constant_share": 0.999}, ERROR),
        ({"constant_share": 0.998}, []),
        ({"std": 0.0, "constant_share": 1.0, "shape": (1, 4)}, []),
        ({"std": 0.0, "constant_share": 1.0, "shape": (8,)}, []),  # one number for all: a time
        ({"std": 0.0, "constant_share": 1.0, "dtype": "int64"}, []),
        ({}, []),
    ],
)
def test_inputs_that_do_not_differ(facts: dict[str, Any], severity: list[Severity]) -> None:
    assert judged("constant-input", modes(fed(**facts))) == severity


def test_one_input_that_differs_is_enough_and_one_constant_batch_is_not() -> None:
    constant: dict[str, Any] = {"std": 0.0, "constant_share": 1.0}
    assert over("constant-input", modes(fed(**constant), fed(where="1"))) == []
    assert over("constant-input", modes(fed(), fed(ROWS - 2, **constant))) == []
    assert (
        judged("constant-input", modes(*(fed(n, **constant, mean=n) for n in (57, 58, 59))))
        == ERROR
    )


@pytest.mark.parametrize(
    ("calls", "detached", "severity"),
    [
        (8, 8, WARNING),
        (8, 7, WARNING),
        (8, 6, []),
        (8, 1, []),
        (2, 1, []),
        (2, 2, WARNING),
        (1, 1, []),
    ],
)
def test_a_state_cut_at_every_call(calls: int, detached: int, severity: list[Severity]) -> None:
    event = Event(step=0, kind="cells", where="cell", facts={"calls": calls, "detached": detached})
    assert judged("truncated-backpropagation", modes(event)) == severity


CONVICTED: list[tuple[str, History]] = [
    ("detached-parameters", history(gradients(state=states(0, 0, 2, 2)), RAN)),
    ("gradients-not-cleared", history(steps(not_cleared=1.0))),
    ("unregistered-parameters", lossy(chain("mse_loss", strangers=4), loss=FLAT)),
    (
        "non-differentiable-operation",
        history(
            steps(), gradients(state=states(1, 1, 2, 2)), events=[chain("round", flat=["round"])]
        ),
    ),
    ("late-clipping", history(steps(clip_late=1.0))),
    ("clipping-of-scaled-gradients", history(steps(clip_scaled=1.0))),
    ("parameters-without-optimizer", orphans()),
    ("stale-optimizer", stale((0, 0), registered=False)),
    ("frozen-parameters", frozen(False, False, True)),
    (
        "overwritten-weights",
        history(steps(loss=FLAT), table("update", LAYERS, outside_share=1.0, log10_weight=-1.0)),
    ),
    ("doubled-softmax", lossy(chain("nll_loss", "log_softmax", "softmax"))),
    ("missing-logarithm", lossy(chain("nll_loss", "softmax"))),
    ("doubled-sigmoid", lossy(chain("binary_cross_entropy_with_logits", "sigmoid"))),
    ("bounded-logits", lossy(chain("nll_loss", "log_softmax", "relu"))),
    (
        "broadcast-loss",
        lossy(graph(("mse_loss", [], [1]), ("expand", [8, 8], [2]), ("addmm", [8, 1], []))),
    ),
    ("clamped-loss", lossy(chain("mean", "clamp", "sub"), log10_norm=-np.inf)),
    (
        "one-unit-softmax",
        history(steps(), gradients(state=1.0), events=[chain("softmax", "softmax", shape=(8, 1))]),
    ),
    ("negated-loss", lossy(chain("neg", "mse_loss"), loss=-np.linspace(1, 50, ROWS))),
    ("summed-loss", lossy(chain("sum", "pow"), loss=np.geomspace(1, 99, ROWS), batch_size=8.0)),
    (
        "evaluation-mode-in-training",
        modes(module("", training=False), module("layers.1", training=False, **NORM)),
    ),
    ("starved-batch-norm", modes(module("layers.1", training=True, values_per_channel=2))),
    ("excessive-dropout", modes(module("layers.2", training=True, p=1.0))),
    ("constant-input", modes(fed(std=0.0, constant_share=1.0))),
    (
        "truncated-backpropagation",
        modes(Event(step=0, kind="cells", where="cell", facts={"calls": 8, "detached": 7})),
    ),
]


# -- the queries


@given(
    before=st.lists(st.floats(-9, 9), min_size=1, max_size=9),
    after=st.lists(st.floats(-9, 9), min_size=1, max_size=9),
)
def test_chance_of_less_counts_pairs(before: list[float], after: list[float]) -> None:
    found = wiring.chance_of_less(np.array(before), np.array(after))
    pairs = [(b > a) + 0.5 * (b == a) for b in before for a in after]
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_chance_of_less_takes_infinities_and_nothing() -> None:
    assert wiring.chance_of_less(np.array([np.inf]), np.array([0.0])) == 1.0
    assert math.isnan(wiring.chance_of_less(np.array([]), np.array([1.0])))


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_only_jitters_seldom_falls(seed: int) -> None:
    draw = np.random.default_rng(seed)
    runs = [history(steps(loss=1 + 0.1 * draw.standard_normal(ROWS))) for _ in range(40)]
    assert sum(bool(wiring.loss_falls(run, 0)) for run in runs) <= 12
    # AND one that falls by half its noise is seen
    slope = np.linspace(0.1, 0, ROWS)
    falls = [
        wiring.loss_falls(history(steps(loss=slope + 0.05 * draw.standard_normal(ROWS))), 0)
        for _ in range(40)
    ]
    assert sum(map(bool, falls)) >= 36


def test_a_graph_that_reads_itself_ends() -> None:
    tail = wiring.LossTail.of(graph(("view", [2], [1]), ("view", [2], [0])))
    assert list(tail.pairs()) == []
    assert tail.by_hand == ()
    assert tail.down_to(0, frozenset({"view"})) in (0, 1)


def few(rows: int, **values: Any) -> History:
    """The last rows alone are known: a busy machine."""
    known: dict[str, Any] = {}
    for quantity, value in values.items():
        column = np.full(ROWS, np.nan)
        column[-rows:] = value
        known[quantity] = column
    return history(steps(**known))


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        ("gradients-not-cleared", "not_cleared"),
        ("late-clipping", "clip_late"),
        ("clipping-of-scaled-gradients", "clip_scaled"),
    ],
)
def test_few_rows_settle_an_exact_fact_if_they_agree(name: str, quantity: str) -> None:
    def over_few(*values: float) -> list[Severity]:
        return judged(name, few(len(values), **{quantity: values}))

    assert len(over_few(1, 1, 1, 1)) == 1
    assert over_few(1, 1, 1) == [], "too few"
    assert over_few(0, 1, 1, 1) == [], "the first step is often special"
    assert over_few(1, 0, 1, 0, 1, 0, 1) == [], "they differ: a statistic, which takes more"
    assert len(over_few(*[1] * 7, 0)) == 1
    assert over_few(0, 0, 0, 0) == []


def states_of(*rows: float) -> wiring.States:
    """Of one parameter whose state is known in these rows of sixty."""
    column = np.full((ROWS, 1), np.nan)
    column[np.linspace(ROWS - 20, ROWS - 1, len(rows)).astype(int), 0] = rows
    return wiring.states(history(table("gradient", LAYERS[:1], state=column)))


def test_few_rows_tell_the_state_of_a_gradient_if_all_agree() -> None:
    assert states_of(0, 0, 0, 0).none[0] and states_of(1, 1, 1, 1).zero[0]
    assert states_of(2, 2, 2, 2).some[0]
    for rows in ([0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 0, 0, 1], [2, 0, 2, 2], [1, 1, 1, 1, 2]):
        found = states_of(*rows)
        assert not (found.none[0] or found.zero[0] or found.some[0]), rows
    assert states_of(*[2] * 4, *[0] * 4).some[0], "half of eight"


def test_an_older_row_tells_that_few_recent_ones_are_chance() -> None:
    """A branch that is taken now and then, of an optimizer that steps rarely."""
    column = np.full((ROWS, 1), np.nan)
    column[-4:] = 0
    assert wiring.states(history(table("gradient", LAYERS[:1], state=column))).none[0]
    column[5] = 2
    assert not wiring.states(history(table("gradient", LAYERS[:1], state=column))).none[0]


def mode_since(step: int, rows: int, seen: Sequence[int]) -> list[str]:
    """Places whose mode has stood at the end of so many steps, measured at some of them."""
    outputs = Table(
        name="output",
        columns=(Column(name="norm", module="norm"),),
        steps=np.array(seen, dtype=np.int64),
        values={"log10_rms": np.zeros((len(seen), 1))},
    )
    event = Event(step=step, kind="module-state", where="norm", facts={"training": False})
    return list(wiring.standing(history(steps(rows), outputs, events=[event]), "module-state"))


def test_a_mode_stands_after_few_steps_if_it_was_seen_again() -> None:
    assert mode_since(0, 5, [0, 2]) == ["norm"]
    assert mode_since(0, 5, [0]) == [], "seen once: the first step may be special"
    assert mode_since(0, 8, [0]) == ["norm"], "as many steps as a statistic takes"
    assert mode_since(0, 3, [0, 2]) == [], "too few steps"
    assert mode_since(40, 42, [0, 20, 40]) == [], "an evaluation has no steps behind it"
    assert mode_since(40, 45, [0, 20, 40, 44]) == ["norm"]
