"""Activations put in, modes and probabilities set, and all of it taken back."""

from collections.abc import Callable

import pytest
import torch
from edit_subjects import Custom, Record, batch, loss_of, plain, trained
from torch import nn

from gradmend.edits import Bench, apply_edits, export_plain
from gradmend.errors import CannotApply
from gradmend.layers import REPLACEMENTS, ScaledSigmoid, Tailored
from gradmend.records.prescription import Edit

DKS = {"input_scale": 0.3, "input_shift": 0.5, "output_scale": 4.0, "output_shift": -0.5}


def tailor(*targets: str, **changes: object) -> Edit:
    args = {"function": "tanh", **DKS, **changes}
    return Edit(kind="tailor_activation", targets=targets, args=args)  # type: ignore[arg-type]


def scale(*targets: str, readers: list[list[str]] | None = None) -> Edit:
    rows = readers if readers is not None else [[] for _ in targets]
    return Edit(kind="scale_sigmoids", targets=targets, args={"readers": rows})


def put(name: str, *targets: str, **args: float) -> Edit:
    return Edit(kind="replace_module", targets=targets, args={"module": name, **args})


EDITS: dict[str, Edit] = {
    "tailor": tailor("1", "3"),
    "scale": scale("1", "3"),
    **{name: put(name, "1", "3") for name in ("ELU", "LeakyReLU", "PReLU", "SELU", "SiLU")},
}


@pytest.mark.parametrize("what", EDITS)
def test_undo_is_exact_also_after_training_with_the_edit(what: str) -> None:
    # GIVEN a model in training, with momentum
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [EDITS[what]])
    # WHEN it runs, backward too, with the edit, and the edit is taken back
    loss = loss_of(bench.model)
    torch.autograd.grad(loss, [p for p in bench.model.parameters() if p.requires_grad])
    bench.undo()
    # THEN every bit and every object is what it was
    before.assert_same()


def test_a_slope_that_is_learned_joins_the_optimizer_and_leaves_it() -> None:
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [put("PReLU", "1", "3", init=0.1)])
    slopes = [bench.module(path).weight for path in ("1", "3")]
    assert [s.item() for s in slopes] == pytest.approx([0.1, 0.1])
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(s) for s in slopes} <= held
    assert any("joined the optimizer" in note for note in bench.notes)
    bench.undo()
    before.assert_same()


def test_each_place_gets_a_module_of_its_own_with_type_and_mode_of_the_model() -> None:
    model = plain().double().eval()
    bench = apply_edits(Bench(model=model), [tailor("1", "3")])
    first, second = bench.module("1"), bench.module("3")
    assert first is not second
    assert not first.training
    assert {b.dtype for b in first.buffers()} == {torch.float64}


def test_an_activation_under_several_names_is_replaced_under_all_where_asked() -> None:
    # GIVEN one object registered twice, as in Sequential(Linear, act, Linear, act)
    shared = nn.Sigmoid()
    model = nn.Sequential(nn.Linear(6, 6), shared, nn.Linear(6, 6), shared)
    edit = Edit(kind="replace_module", targets=("1",), args={"module": "PReLU", "everywhere": True})
    bench = apply_edits(Bench(model=model), [edit])
    # THEN both names hold one new object, and undoing gives both back
    assert isinstance(model[1], nn.PReLU)
    assert model[1] is model[3]
    bench.undo()
    assert model[1] is shared
    assert model[3] is shared


HOSTILE = [
    (tailor("1", function="relu7"), "cannot be tailored"),
    (tailor("1", input_scale=float("nan")), "finite number"),
    (tailor("1", output_scale="2"), "finite number"),
    (tailor("nowhere"), "no module"),
    (scale("0"), "not an nn.Sigmoid"),
    (Edit(kind="train_mode", targets=("9",)), "no module"),
    (Edit(kind="set_dropout", targets=("1",), args={"p": 0.5}), "not a dropout"),
    (Edit(kind="set_dropout", targets=("1",), args={"p": 1.0}), "no probability"),
    (Edit(kind="set_dropout", targets=("1",), args={"p": True}), "finite number"),
    (Edit(kind="set_dropout", targets=("1",)), "finite number"),
    (put("Dropout", "1"), "cannot be put in"),
]


@pytest.mark.parametrize(("edit", "said"), HOSTILE)
def test_hostile_arguments_are_refused_and_leave_nothing(edit: Edit, said: str) -> None:
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    with pytest.raises(CannotApply, match=said):
        apply_edits(Bench(model=model, optimizer=optimizer), [put("ReLU", "3"), edit])
    before.assert_same()


@pytest.mark.parametrize("build", [plain, lambda: Custom()])
def test_training_mode_is_set_for_the_named_modules_only(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    names = [name for name, _ in model.named_modules()]
    bench = apply_edits(Bench(model=model), [Edit(kind="train_mode", targets=tuple(names[:2]))])
    assert [m.training for _, m in model.named_modules()] == [True] * 2 + [False] * (len(names) - 2)
    bench.undo()
    assert not any(m.training for m in model.modules())


def test_the_probability_of_a_dropout_is_set_and_given_back() -> None:
    model = Custom()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = Record(model, optimizer)
    bench = apply_edits(
        Bench(model=model), [Edit(kind="set_dropout", targets=("drop",), args={"p": 0.05})]
    )
    assert model.drop.p == 0.05
    bench.undo()
    assert model.drop.p == 0.2
    before.assert_same()


# -- folding


def test_scaled_sigmoids_fold_into_the_layers_that_read_them() -> None:
    model = plain().double()
    edit = scale("1", "3", readers=[["2"], ["4"]])
    bench = apply_edits(Bench(model=model), [edit])
    x = batch()[0].double()
    exported = export_plain(bench.model, [edit])
    assert {type(m) for m in exported.modules()} == {nn.Sequential, nn.Linear, nn.Sigmoid}
    assert torch.allclose(exported(x), bench.model(x), atol=1e-12)
    assert isinstance(bench.module("1"), ScaledSigmoid)


def test_a_scaled_sigmoid_that_something_else_reads_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Conv2d(2, 1, 3, padding=1))
    edit = scale("1")
    bench = apply_edits(Bench(model=model), [edit])
    exported = export_plain(bench.model, [edit])
    x = torch.randn(2, 1, 7, 7)
    assert isinstance(exported.get_submodule("1"), ScaledSigmoid)
    assert torch.equal(exported(x), bench.model(x))


def test_a_tailored_activation_survives_writing_and_loading_a_fresh_model() -> None:
    # GIVEN an edited model of one seed and an edited fresh model of another
    one, two = plain(), plain()
    for model in (one, two):
        apply_edits(Bench(model=model), [tailor("1", "3")])
    two.load_state_dict(one.state_dict())
    x = batch()[0]
    assert torch.equal(one(x), two(x))
    assert isinstance(two.get_submodule("1"), Tailored)


def test_every_replacement_can_be_built_and_run() -> None:
    for name in REPLACEMENTS:
        args = {"dim": 1} if name in ("Softmax", "LogSoftmax") else {}
        bench = apply_edits(Bench(model=plain()), [put(name, "1", **args)])
        assert bool(torch.isfinite(loss_of(bench.model)))
