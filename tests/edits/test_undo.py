"""Every edit can be taken back, bit for bit, whatever it was made on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_subjects import (
    MODELS,
    PLACES,
    Record,
    batch,
    draw,
    edits_for,
    loss_of,
    plain,
    trained,
)  # fmt: skip
from torch import nn

from gradmend.edits import KINDS, Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.layers import CentredSigmoid, ReZero, Standardised
from gradmend.records.prescription import Edit


def bench_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Bench:
    return Bench(model=model, optimizer=optimizer, run_batch=loss_of)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", edits_for("sequential"))
def test_undo_restores_every_bit_and_every_object(name: str, kind: str) -> None:
    # GIVEN a model in training, with momentum and gradients
    model, optimizer = trained(name)
    before = Record(model, optimizer)
    # WHEN an edit is made, trained on, and taken back
    bench = apply_edits(bench_of(model, optimizer), [edits_for(name)[kind]])
    assert changed(before, bench), "an edit that changes nothing tests nothing"
    bench.undo()
    # THEN everything is what it was
    assert bench.model is model
    before.assert_same()
    assert bench.undo_steps == []


def changed(before: Record, bench: Bench) -> bool:
    try:
        Record(bench.model, before.optimizer)
        before.assert_same()
    except (AssertionError, KeyError):
        return True
    return False


@pytest.mark.parametrize("name", MODELS)
def test_undo_restores_all_edits_together(name: str) -> None:
    model, optimizer = trained(name)
    before = Record(model, optimizer)
    edits = edits_for(name)
    together = [edits[k] for k in ("standardise_input", "initialise", "rescale_by_data",
                                   "wrap_residual", "scale_learning_rate")]  # fmt: skip
    bench = apply_edits(bench_of(model, optimizer), together)
    bench.undo()
    before.assert_same()


def test_undo_of_an_edit_at_the_root_gives_the_root_back() -> None:
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    root = Edit(kind="standardise_input", targets=("",), args={"mean": [1.0], "std": [2.0]})
    bench = apply_edits(bench_of(model, optimizer), [root])
    assert isinstance(bench.model, Standardised)
    bench.undo()
    assert bench.model is model
    before.assert_same()


def test_undo_keeps_the_train_and_eval_flags_inside_a_wrapped_module() -> None:
    # GIVEN a model in training mode with one part in eval mode on purpose
    model, optimizer = trained("custom")
    assert model.training
    assert not model.get_submodule("drop").training
    root = Edit(kind="standardise_input", targets=("",), args={"mean": [0.0], "std": [1.0]})
    # WHEN it is wrapped THEN the part stays in eval mode, during and after
    bench = apply_edits(bench_of(model, optimizer), [root])
    assert bench.model.training
    assert not model.get_submodule("drop").training
    bench.undo()
    assert not model.get_submodule("drop").training


def test_inserted_modules_take_the_mode_of_what_they_replace() -> None:
    model = plain().eval()
    edits = edits_for("sequential")
    for kind in ("replace_module", "wrap_residual", "standardise_input", "centre_sigmoids"):
        bench = apply_edits(Bench(model=model), [edits[kind]])
        assert not any(module.training for module in bench.model.modules()), kind
        bench.undo()


def test_names_stay_those_of_the_model_before_standardised_was_put_in() -> None:
    # GIVEN data scaling on the first layer, as the race combines it with everything else
    edits = edits_for("sequential")
    for kind in ("initialise", "rescale_by_data", "wrap_residual", "centre_sigmoids"):
        for target in ("0", ""):
            model, optimizer = trained("sequential")
            before = Record(model, optimizer)
            scale = Edit(
                kind="standardise_input", targets=(target,), args={"mean": [1.0], "std": [2.0]}
            )
            # WHEN the other edit follows THEN it finds its layers, and the input stays scaled
            bench = apply_edits(bench_of(model, optimizer), [scale, edits[kind]])
            wrapped = bench.model if target == "" else bench.model.get_submodule("0")
            assert isinstance(wrapped, Standardised), (kind, target)
            loss_of(bench.model).backward()
            for parameter in model.parameters():
                parameter.grad = None
            bench.undo()
            assert bench.model is model
            assert type(model.get_submodule("0")) is nn.Linear
            for key, bits in before.bits.items():
                assert torch.equal(bits, model.state_dict()[key])


def test_a_residual_around_a_standardised_layer_lies_inside_it() -> None:
    # GIVEN a first layer that keeps the width and reads inputs out of scale
    scale = Edit(kind="standardise_input", targets=("0",), args={"mean": [5.0], "std": [9.0]})
    bench = apply_edits(Bench(model=plain()), [scale, edits_for("sequential")["wrap_residual"]])
    # WHEN both edits are made THEN the skip carries the standardised input, not the raw one
    first = bench.model.get_submodule("0")
    assert isinstance(first, Standardised)
    assert isinstance(first.inner, ReZero)
    x = torch.randn(4, 6)
    assert torch.equal(first(x), (x - 5.0) / 9.0)


FIRST = [
    draw(["4"]),
    Edit(kind="replace_module", targets=("3",), args={"module": "ReLU"}),
    Edit(kind="scale_learning_rate", args={"factor": 0.5}),
]
FAILING: dict[str, tuple[Edit, str]] = {
    "unknown kind": (Edit(kind="delete_everything"), "Known kinds"),
    "unknown module": (
        Edit(kind="replace_module", targets=("1", "nowhere"), args={"module": "Tanh"}), "nowhere"
    ),
    "rows of unlike length": (
        draw(["0"], gains=[1.0, 1.0], centres=[0.0] * 2, bias_stds=[0.0] * 2, biases=[None] * 2),
        "failed",
    ),
    "unknown weight in the middle": (draw(["0", "nowhere", "2"]), "nowhere"),
    "a module without weights": (draw(["0", "1"]), "no parameter"),
    "a bias of another shape": (draw(["0", "4"], biases=["0.bias", "2.bias"]), "fit|failed"),
    "unknown activation": (
        Edit(kind="replace_module", targets=("1",), args={"module": "Dropout"}), "cannot be put in"
    ),
    "no activation named": (Edit(kind="replace_module", targets=("1",)), "cannot be put in"),
    "unknown scheme": (draw(["0"], scheme="zeros"), "no initialisation"),
    "NaN gain": (draw(["0", "2"], gains=[1.0, math.nan]), "finite number"),
    "infinite gain": (draw(["0", "2"], gains=[1.0, math.inf]), "finite number"),
    "gain as a word": (draw(["0", "2"], gains=[1.0, "1.0"]), "finite number"),
    "gain as a bool": (draw(["0", "2"], gains=[1.0, True]), "finite number"),
    "gain missing": (draw(["0", "2"], gains=[1.0]), "failed"),
    "no gains": (draw(["0", "2"], gains=None), "lacks its list"),
    "gains as a number": (draw(["0", "2"], gains=1.0), "lacks its list"),
    "seed out of range": (draw(["0"], seed=1e300), "failed"),
    "seed as a word": (draw(["0"], seed="now"), "finite number"),
    "no parts": (Edit(kind="wrap_residual", targets=("0",)), "lacks its list"),
    "parts flat": (Edit(kind="wrap_residual", targets=("0",), args={"parts": ["1"]}), "lists"),
    "parts too few": (
        Edit(kind="wrap_residual", targets=("0", "2"), args={"parts": [["1"]]}), "failed"
    ),
    "unknown part": (
        Edit(kind="wrap_residual", targets=("0", "2"), args={"parts": [["1"], ["9"]]}), "'9'"
    ),
    "the root inside itself": (
        Edit(kind="wrap_residual", targets=("0",), args={"parts": [[""]]}), "no module"
    ),
    "mean missing": (Edit(kind="standardise_input", targets=("0",), args={"std": [1.0]}), "'mean'"),
    "mean empty": (
        Edit(kind="standardise_input", targets=("0",), args={"mean": [], "std": [1.0]}), "empty"
    ),
    "std NaN": (
        Edit(kind="standardise_input", targets=("0",), args={"mean": [0.0], "std": [math.nan]}),
        "finite number",
    ),
    "std nested": (
        Edit(kind="standardise_input", targets=("0",), args={"mean": [0.0], "std": [[1.0]]}),
        "finite number",
    ),
    "factor negative": (Edit(kind="scale_learning_rate", args={"factor": -1.0}), "factor"),
    "layers' factor zero": (
        Edit(kind="scale_layer_rates", args={"factor": 0}), "factor"
    ),
    "factor zero": (Edit(kind="scale_learning_rate", args={"factor": 0}), "factor"),
    "factor a bool": (Edit(kind="scale_learning_rate", args={"factor": True}), "finite number"),
    "no sigmoid": (Edit(kind="centre_sigmoids", targets=("1", "0")), "not an nn.Sigmoid"),
    "rescaling a layer without a weight": (
        Edit(kind="rescale_by_data", targets=("0", "1")), "no parameter|no bias"
    ),
    "rescaling with NaN": (
        Edit(kind="rescale_by_data", targets=("0",), args={"std": math.nan}), "finite number"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FAILING)
def test_an_edit_that_fails_undoes_everything_first(what: str) -> None:
    # GIVEN an edit that was made, and a second one that fails half-way
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    state = torch.get_rng_state()
    edit, said = FAILING[what]
    bench = bench_of(model, optimizer)
    # WHEN both are asked for THEN one clear refusal, and neither is left
    with pytest.raises(CannotApply, match=said) as caught:
        apply_edits(bench, [*FIRST, edit])
    assert "\n" not in str(caught.value)
    before.assert_same()
    assert torch.equal(torch.get_rng_state(), state), "edits draw from generators of their own"


def test_edits_that_need_something_refuse_without_it() -> None:
    edits = edits_for("sequential")
    with pytest.raises(CannotApply, match="Pass batches="):
        apply_edits(Bench(model=plain()), [edits["rescale_by_data"]])
    with pytest.raises(CannotApply, match="Pass optimizer="):
        apply_edits(Bench(model=plain()), [edits["scale_learning_rate"]])


def test_a_forward_pass_that_raises_or_is_interrupted_leaves_nothing_behind() -> None:
    for error, expected in (
        (ZeroDivisionError("user's own"), CannotApply),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (torch.OutOfMemoryError("full"), torch.OutOfMemoryError),
    ):
        model, optimizer = trained("batchnorm")
        before = Record(model, optimizer)

        def run(edited: nn.Module, error: BaseException = error) -> Any:
            edited(batch()[0])
            raise error

        bench = Bench(model=model, optimizer=optimizer, run_batch=run)
        with pytest.raises(expected):
            apply_edits(bench, [edits_for("batchnorm")["rescale_by_data"]])
        before.assert_same()


def test_layers_that_read_infinity_are_refused_and_not_scaled_to_nan() -> None:
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    bench = Bench(
        model=model, optimizer=optimizer, run_batch=lambda m: m(torch.full((4, 6), math.inf))
    )
    with pytest.raises(CannotApply, match="NaN or infinity"):
        apply_edits(bench, [edits_for("sequential")["rescale_by_data"]])
    before.assert_same()


def test_a_module_used_under_two_names_is_replaced_under_the_named_one_only() -> None:
    shared = nn.Sigmoid()
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    bench = apply_edits(
        Bench(model=model), [Edit(kind="replace_module", targets=("1",), args={"module": "Tanh"})]
    )
    assert isinstance(model[1], nn.Tanh)
    assert model[3] is shared
    bench.undo()
    assert model[1] is shared


def test_only_registered_modules_can_be_edited() -> None:
    # GIVEN a module that is reachable as an attribute, but registered nowhere
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sigmoid()

        @property
        def alias(self) -> nn.Module:
            return self.layer

    model = Aliased()
    edit = Edit(kind="replace_module", targets=("alias",), args={"module": "Tanh"})
    with pytest.raises(CannotApply, match="no module 'alias'"):
        apply_edits(Bench(model=model), [edit])
    assert list(model._modules) == ["layer"]


def test_every_kind_of_edit_is_tested_here() -> None:
    # Here on every model; kinds that need a model of their own in the file of their room.
    assert set(edits_for("sequential")) <= set(KINDS)
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    missing = {
        kind for kind in set(KINDS) - set(edits_for("sequential")) if f'"{kind}"' not in tests
    }
    assert not missing
    assert set(PLACES) == set(MODELS)


def test_centred_sigmoids_replace_sigmoids_only_by_exact_type() -> None:
    class Loud(nn.Sigmoid):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Loud(), nn.Linear(2, 2))
    with pytest.raises(CannotApply, match="Loud"):
        apply_edits(Bench(model=model), [Edit(kind="centre_sigmoids", targets=("1",))])
    assert not any(isinstance(m, CentredSigmoid) for m in model.modules())
