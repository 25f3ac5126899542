"""From findings to candidates: which are tried first, and what goes together."""

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

import gradmend
from gradmend.engine.prescribe import (
    Candidates,
    Option,
    in_order,
    is_trained,
    prescribe,
    together,
)
from gradmend.records.finding import Finding, Severity
from gradmend.records.layout import OptimizerFacts
from gradmend.records.loss_call import LossCall, Values
from gradmend.records.prescription import Change, Edit, Prescription
from gradmend.records.trace import Run, Trace
from gradmend.zoo.specimen import build


def option(
    name: str,
    change: Change = Change.INITIALISATION,
    cause: int = 0,
    turn: int = 0,
    companion: bool = False,
    treats: tuple[str, ...] = ("sick",),
    kind: str = "",
    **more: Any,
) -> Option:
    made = Prescription(
        edits=(Edit(kind=kind or name, targets=(name,)),),
        remedies=(name,),
        treats=treats,
        changes=(change,),
        **more,
    )
    return Option(made, cause, turn, companion)


def names(options: list[Option]) -> list[str]:
    return [o.prescription.remedies[0] for o in options]


def test_every_kind_of_change_has_its_turn_before_one_is_tried_a_fourth_time() -> None:
    # GIVEN four initialisations, a residual, a norm, and an answer to another cause
    found = in_order(
        [
            *(option(f"init{k}") for k in range(4)),
            option("residual", Change.RESIDUAL),
            option("norm", Change.NORMALISATION),
            option("other", Change.WIRING, cause=1),
            option("again", turn=1),
        ]
    )
    # THEN three of the small ones, then the larger, then the other cause, then the rest
    assert names(found)[:6] == ["init0", "init1", "init2", "norm", "residual", "other"]
    assert names(found)[6] == "again"
    assert names(found)[7:] == ["init3"]


def test_means_of_one_kind_take_turns_and_what_is_set_once_comes_first() -> None:
    found = in_order(
        [
            *(option(f"clip{k}", Change.OPTIMIZER, kind="clip_gradients") for k in range(3)),
            option("rate", Change.OPTIMIZER, kind="scale_learning_rate"),
        ]
    )
    assert names(found) == ["rate", "clip0", "clip1", "clip2"]


def test_what_a_trained_model_knows_is_given_up_last() -> None:
    options = [option("anew"), option("rate", Change.OPTIMIZER, keeps_function=True)]
    assert names(in_order(options)) == ["anew", "rate"]
    assert names(in_order(options, trained=True)) == ["rate", "anew"]


@given(st.lists(st.tuples(st.sampled_from(Change), st.integers(0, 2), st.integers(0, 2)),
                max_size=12))  # fmt: skip
def test_nothing_is_lost_or_tried_twice(rows: list[tuple[Change, int, int]]) -> None:
    options = [option(f"o{k}", change, cause, turn) for k, (change, cause, turn) in enumerate(rows)]
    assert sorted(names(in_order(options))) == sorted(names(options))


def test_a_trained_model_is_known_by_its_optimizer_or_its_loss() -> None:
    outputs = Values(shape=(8, 10), std=1.0)
    call = LossCall(function="cross_entropy", prediction=outputs)
    run = Run(model="Net", loss=0.3)
    assert is_trained(Trace(run=run, losses=(call,)))
    assert not is_trained(Trace(run=Run(model="Net", loss=2.2), losses=(call,)))
    assert not is_trained(Trace(run=run))
    stepped = OptimizerFacts(name="Adam", steps_taken=True)
    assert is_trained(Trace(run=Run(model="Net"), optimizer=stepped))


def test_the_best_is_combined_with_companions_and_answers_to_other_causes() -> None:
    best = option("best")
    options = (
        best,
        option("rival"),
        option("rate", Change.OPTIMIZER, companion=True),
        option("scale", Change.DATA_SCALE, cause=1, treats=("input",)),
        option("symptom", Change.RESIDUAL, cause=2, treats=("plateau",)),
    )
    found = Candidates(options=options, notable=("sick", "input")).combined(best.prescription)
    # THEN rivals for the same cause and answers to mere symptoms are not among them
    assert {p.remedies for p in found} == {
        ("best", "rate"), ("best", "scale"), ("best", "rate", "scale"),
    }  # fmt: skip


def test_edits_of_a_combination_come_in_the_order_that_keeps_names_true() -> None:
    # GIVEN a rate, a residual and weights, in any order
    rate = option("rate", Change.OPTIMIZER).prescription
    residual = option("residual", Change.RESIDUAL).prescription
    weights = option("weights").prescription
    # THEN weights are drawn first, and the optimizer comes last
    for given_ in ((rate, residual, weights), (residual, weights, rate), (weights, rate, residual)):
        edits = together(*given_).edits
        assert [edit.targets[0] for edit in edits] == ["weights", "residual", "rate"]


def sick(bad_layer: int) -> Candidates:
    """Candidates for a plain network of which one layer is sick."""
    specimen = build(
        "mlp", depth=8, activation="tanh", init="orthogonal", bad_layer=bad_layer, bad_gain=60.0
    )
    report = gradmend.check(specimen.model, specimen.batch, specimen.loss_fn)
    return prescribe(report.at_least("warning"), report.trace)


def test_answers_to_one_guilty_layer_come_first_and_touch_nothing_else() -> None:
    found = sick(bad_layer=4)
    assert found.local >= 1
    for option_ in found.options[: found.local]:
        for edit in option_.prescription.edits:
            assert len(edit.targets) == 1
    # AND there are others, for the case that it does not suffice
    assert len(found.options) > found.local


def test_a_loss_is_mended_only_where_that_is_the_first_cause() -> None:
    # GIVEN a sign that seems turned because the loss does not fit its targets
    model = torch.nn.Linear(4, 1)
    batch = torch.randn(16, 4), torch.randn(16, 1).sign() * 3
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    trace = gradmend.check(model, batch, loss, optimizer=torch.optim.SGD(model.parameters(), 0.1),
                           steps=20).trace  # fmt: skip
    turned = Finding(
        code="LOS208", name="negated-loss", severity=Severity.ERROR, modules=(), summary="turned"
    )
    unfit = replace(turned, code="LOS210", name="loss-unfit-for-target")
    follows = replace(turned, explained_by="loss-unfit-for-target")
    # THEN its remedy is asked where it is the cause, and refused where it follows from another
    assert any(p.mends_loss for p in prescribe((turned,), trace).prescriptions)
    found = prescribe((unfit, follows), trace)
    assert not any(p.mends_loss for p in found.prescriptions)
    assert any("comes first" in refusal.reason for refusal in found.refusals)


def test_a_rate_is_not_scaled_twice() -> None:
    # GIVEN a start that brings its rate with it, and a companion that scales the rate as well
    start = option("start", Change.INITIALISATION, kind="initialise")
    both = replace(
        start,
        prescription=together(
            start.prescription,
            option("start", Change.OPTIMIZER, kind="scale_learning_rate").prescription,
        ),
    )
    rate = replace(option("rate", Change.OPTIMIZER, kind="scale_learning_rate"), companion=True)
    # THEN it goes with the start alone, and not with the two
    assert Candidates((start, rate)).combined(start.prescription)
    assert not Candidates((both, rate)).combined(both.prescription)
