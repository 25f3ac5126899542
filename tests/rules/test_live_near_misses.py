"""Live rules on histories built by hand: what stands just beside each cause."""

import numpy as np
import pytest
from histories import FALLING, FLAT, history, layers, optimizer, over_time, parameter, run, table

from gradmend.records.finding import Finding
from gradmend.records.history import Column, Event, History
from gradmend.registry import Rule, find
from gradmend.theory import windows

ROWS = 120


def judged(name: str, of: History) -> list[Finding]:
    rule = find(name)
    assert isinstance(rule, Rule)
    return list(rule.over(of))


def tail(*rows: tuple[str, list[int], list[int], dict[str, object]], **facts: object) -> Event:
    """A loss-graph event from (operation, shape, reads, more)."""
    told = [{"op": op, "shape": shape, "reads": reads, **more} for op, shape, reads, more in rows]
    return Event(step=0, kind="loss-graph", facts={"tail": told, "flat": [], **facts})


# -- where a loss begins


def test_a_loss_that_leapt_at_once_has_not_learned_by_coming_back() -> None:
    leapt = np.concatenate([[2.3, 3.1, 19.0, 54.0, 54.0, 5.2, 3.3, 3.2], np.full(60, 2.4)])
    (course,) = windows.loss_course(history(run(leapt)))
    assert course.first == pytest.approx(2.3)
    assert not course.learned
    # BUT one lucky first batch is no beginning
    lucky = np.concatenate([[0.9], np.full(7, 2.3), np.linspace(2.3, 1.5, 60)])
    (course,) = windows.loss_course(history(run(lucky)))
    assert course.first == pytest.approx(2.3)
    assert course.learned


def grown(decades: float, losses: np.ndarray) -> History:
    size = np.where(np.arange(ROWS) < 2, -1.0, -1.0 + decades)
    return history(
        run(losses, log10_norm=0.0),
        table("update", layers(3), ROWS, log10_weight=over_time(size), log10_ratio=-6.0),
    )


def test_weights_that_grew_tenfold_at_once_tell_of_a_step_between_two_rows() -> None:
    assert judged("learning-rate-too-high", grown(1.1, FLAT))
    assert not judged("learning-rate-too-high", grown(0.9, FLAT))
    assert not judged("learning-rate-too-high", grown(1.1, FALLING))


# -- rates


def slow(ratio: float, norm: float, losses: np.ndarray = FLAT) -> History:
    return history(
        run(losses, learning_rate=1e-5, log10_norm=norm, log10_update_norm=norm - 5.0),
        table("update", layers(3), ROWS, log10_weight=-1.0, log10_ratio=ratio),
    )


def test_steps_that_cannot_reach_anything_are_too_small() -> None:
    assert judged("learning-rate-too-low", slow(-5.5, -0.4))
    assert not judged("learning-rate-too-low", slow(-3.5, -0.4))
    assert not judged("learning-rate-too-low", slow(-5.5, -0.4, FALLING))
    # AND a gradient that has vanished is not the rate's fault
    assert not judged("learning-rate-too-low", slow(-5.5, -5.0))
    # NOR is one whose steps could have taken the loss down
    assert not judged("learning-rate-too-low", slow(-5.5, 1.5))


@pytest.mark.parametrize(
    ("at", "then", "fires"),
    [(20, 1e-7, True), (80, 1e-7, False), (20, 1e-5, False), (20, 0.0, False)],
)
def test_a_schedule_is_over_too_early_where_most_of_the_run_lies_behind_it(
    at: int, then: float, *, fires: bool
) -> None:
    rates = np.where(np.arange(ROWS) < at, 1e-2, then)
    of = history(
        run(FALLING, learning_rate=over_time(rates)),
        table("update", layers(2), ROWS, log10_ratio=-7.0, log10_weight=-1.0),
    )
    assert bool(judged("learning-rate-too-low", of)) is fires


def test_weights_that_shrank_before_the_tenth_row_are_measured_from_the_first() -> None:
    assert judged("weight-collapse", shrinking(0.02, decay=0.0))
    assert not judged("weight-collapse", shrinking(0.005, decay=0.0))


def shrinking(slope: float, *, decay: float) -> History:
    """Weights that shrink by ``slope`` decades a step, of which ``decay`` is weight decay."""
    size = np.full(ROWS, np.nan)
    size[::11] = -1.1 - slope * np.arange(0, ROWS, 11)
    of = table("update", layers(2), ROWS, log10_weight=over_time(size), decay_share=decay)
    return history(run(FLAT), of)


@pytest.mark.parametrize(
    ("slope", "decay", "fires"), [(0.005, 0.9, True), (0.005, 0.3, False), (0.002, 0.9, False)]
)
def test_decay_that_outweighs_the_gradient_is_told_before_a_tenth_is_left(
    slope: float, decay: float, *, fires: bool
) -> None:
    assert bool(judged("weight-collapse", shrinking(slope, decay=decay))) is fires


# -- parameters


def held(*owners: int | None, losses: np.ndarray, **more: bool) -> History:
    columns = [
        parameter(f"layer{at}", at, facts={"optimizer": owner, **more})
        for at, owner in enumerate(owners)
    ]
    return history(run(losses), table("gradient", columns, ROWS, state=2.0))


def test_a_head_alone_may_be_meant_and_a_decoder_left_out_is_not() -> None:
    head = judged("parameters-without-optimizer", held(None, None, 0, losses=FALLING))
    assert [f.severity.value for f in head] == ["note"]
    slowly = np.linspace(1.4, 1.1, 120)
    assert [
        f.severity.value
        for f in judged("parameters-without-optimizer", held(None, 0, losses=slowly))
    ] == ["note"]
    decoder = judged("parameters-without-optimizer", held(0, 0, None, losses=slowly))
    assert [f.severity.value for f in decoder] == ["warning"]
    prompt = judged("parameters-without-optimizer", held(0, None, None, losses=FALLING))
    assert [f.severity.value for f in prompt] == ["note"]
    assert decoder[0].modules == ("layer2",)


def test_frozen_layers_count_where_the_optimizer_never_got_them() -> None:
    def frozen(losses: np.ndarray) -> History:
        columns = [
            parameter("a", 0, facts={"optimizer": None, "trainable": False}),
            parameter("b", 1, facts={"optimizer": None, "trainable": False}),
            parameter("head", 2, shape=(2, 8)),
        ]
        return history(run(losses), table("gradient", columns, ROWS, state=2.0))

    (finding,) = judged("frozen-parameters", frozen(FLAT))
    assert finding.modules == ("a", "b")
    assert not judged("frozen-parameters", frozen(FALLING))


def test_layers_in_a_list_are_named_and_need_no_flat_loss() -> None:
    event = tail(("mse_loss", [], [], {}), strangers=2, hidden=["layers.0", "layers.1"])
    of = history(run(FALLING), events=[event])
    (finding,) = judged("unregistered-parameters", of)
    assert finding.severity.value == "warning"
    assert finding.modules == ("layers.0", "layers.1")
    # BUT strangers from elsewhere may be a fixed network
    elsewhere = history(run(FALLING), events=[tail(("mse_loss", [], [], {}), strangers=2)])
    assert [f.severity.value for f in judged("unregistered-parameters", elsewhere)] == ["note"]


def test_weights_drawn_anew_are_told_from_weights_put_back_on_a_sphere() -> None:
    def outside(size: float, rows: int = 8) -> History:
        update = table(
            "update", layers(2), rows, outside_share=[1.0, 0.0], log10_outside=[size, -np.inf]
        )
        return history(run(FALLING[:rows]), update)

    (finding,) = judged("overwritten-weights", outside(0.15))
    assert finding.modules == ("layer0",)
    assert not judged("overwritten-weights", outside(-3.0))
    assert not judged("overwritten-weights", outside(0.15, rows=2))


# -- next to the loss

OUTPUTS = [
    Column(name="fc", module="fc", kind="Linear", order=0),
    Column(name="act", module="act", kind="Softmax", order=1),
]


def test_the_softmax_module_and_the_layer_before_it_are_named() -> None:
    event = tail(
        ("nll_loss", [], [1], {}),
        ("log_softmax", [8, 4], [2], {"dim": 1}),
        ("softmax", [8, 4], [3], {"dim": 1}),
        ("addmm", [8, 4], [], {"parameters": True, "module": "fc"}),
    )
    of = history(run(FLAT), table("output", OUTPUTS, ROWS), events=[event])
    (finding,) = judged("doubled-softmax", of)
    assert finding.modules == ("act", "fc")
    # AND where a function was called, the layer whose output it reads
    (finding,) = judged("doubled-softmax", history(run(FLAT), events=[event]))
    assert finding.modules == ("fc",)


@pytest.mark.parametrize(
    ("dim", "shape", "reader", "fires"),
    [
        (0, [8, 4], "nll_loss", True),
        (1, [8, 4], "nll_loss", False),
        (0, [8, 8], "nll_loss", False),  # contrastive: both ways are used
        (0, [8, 1], "nll_loss", False),  # a ranking of samples
        (0, [8, 4], "mul", False),  # attention over instances
        (None, [8, 4], "nll_loss", False),
    ],
)
def test_a_softmax_over_samples_is_one_only_where_classes_are_read(
    dim: int | None, shape: list[int], reader: str, *, fires: bool
) -> None:
    more: dict[str, object] = {} if dim is None else {"dim": dim}
    event = tail((reader, [], [1], {}), ("log_softmax", shape, [2], more), ("addmm", shape, [], {}))
    assert bool(judged("softmax-over-samples", history(run(FLAT), events=[event]))) is fires


@pytest.mark.parametrize(
    ("level", "limits", "fires"),
    [
        (0.9, [-1.0, 1.0], True),
        (0.3, [-1.0, 1.0], False),  # most errors lie within
        (0.9, [-4.0, 4.0], False),
        (0.9, [None, 1.0], False),  # one side only: a margin
    ],
)
def test_a_clamped_error_hurts_where_the_loss_stays_near_its_most(
    level: float, limits: list[float | None], *, fires: bool
) -> None:
    event = tail(
        ("mean", [], [1], {}),
        ("pow", [8, 1], [2], {}),
        ("clamp", [8, 1], [3], {"limits": limits}),
        ("sub", [8, 1], [4], {}),
        ("addmm", [8, 1], [], {}),
    )
    of = history(run(np.linspace(1.0, level, ROWS), log10_norm=0.0), events=[event])
    assert bool(judged("clamped-loss", of)) is fires


def called(reduction: str, function: str = "cross_entropy") -> Event:
    facts = {"function": function, "reduction": reduction}
    return Event(step=0, kind="loss-call", where=function, facts=facts)


def test_a_loss_function_told_to_sum_is_a_sum() -> None:
    event = tail(("nll_loss", [], [1], {}), ("log_softmax", [8, 4], [], {}))
    growing = np.linspace(10.0, 4000.0, ROWS)
    assert judged("summed-loss", history(run(growing), events=[event, called("sum")]))
    assert not judged("summed-loss", history(run(growing), events=[event, called("mean")]))
    assert not judged("summed-loss", history(run(FALLING), events=[event, called("sum")]))
    adam = history(run(growing, kind="Adam"), events=[event, called("sum")])
    assert not judged("summed-loss", adam)


# -- clipping, and games


def test_values_that_are_clipped_have_a_factor_too() -> None:
    def clipped(left: float) -> History:
        return history(
            table("step", [optimizer()], ROWS, loss=1.4, clip_limit=1e-6),
            table("gradient", layers(2), ROWS, log10_rms=-1.8 + left, log10_raw=-1.8),
            table("update", layers(2), ROWS, log10_ratio=-6.0),
        )

    assert judged("clip-too-tight", clipped(-4.0))
    assert not judged("clip-too-tight", clipped(-0.5))


def game(losing: float, lost: float) -> History:
    won = np.linspace(1.2, 0.001, ROWS) ** 2
    losses = np.stack([won, np.linspace(0.6, losing, ROWS)], axis=1)
    norms = np.stack([np.zeros(ROWS), np.where(np.arange(ROWS) < 60, 0.0, -lost)], axis=1)
    players = [optimizer("Adam"), optimizer("SGD")]
    return history(table("step", players, ROWS, loss=losses, log10_norm=norms))


def test_a_gradient_that_fades_while_its_loss_gets_worse_is_a_lost_game() -> None:
    assert judged("saturated-adversarial-loss", game(0.9, 1.2))
    assert not judged("saturated-adversarial-loss", game(0.1, 1.2))  # it converges
    assert not judged("saturated-adversarial-loss", game(0.9, 0.4))
    assert judged("saturated-adversarial-loss", game(0.1, 2.2))


def terms(sign: str, losses: np.ndarray, *more: Event) -> History:
    event = tail(
        ("add", [], [1, 4], {}),
        ("mean", [], [2], {}),
        (sign, [8], [3], {}),
        ("pow", [8], [], {}),
        ("mul", [], [5], {}),
        ("mean", [], [6], {}),
        ("pow", [8], [], {}),
    )
    return history(run(losses), events=[event, *more])


def test_a_term_with_the_wrong_sign_is_told_by_its_flight() -> None:
    flight = -np.geomspace(5.0, 5e4, ROWS)
    short = -np.geomspace(5.0, 20.0, 20)
    assert judged("negated-loss", terms("neg", flight))
    assert judged("negated-loss", terms("neg", short, Event(step=20, kind="non-finite")))
    assert not judged("negated-loss", terms("neg", short))
    assert not judged("negated-loss", terms("neg", np.linspace(-5.0, -20.0, ROWS)))  # bounded
    assert not judged("negated-loss", terms("neg", np.linspace(2.0, -20.0, ROWS)))  # a density
    assert not judged("negated-loss", terms("mul", flight))
