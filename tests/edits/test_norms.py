"""Norms inserted, exchanged, moved, and taken out again bit for bit."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from edit_subjects import Record, loss_of, plain, trained
from torch import nn

from gradmend.edits import Bench, apply_edits, export_plain
from gradmend.errors import CannotApply
from gradmend.layers import Followed, WeightStandardised
from gradmend.records.prescription import Edit


def norms(kind: str, *targets: str, features: int = 6, dims: int = 0, groups: int = 2) -> Edit:
    n = len(targets)
    return Edit(
        kind="insert_norm",
        targets=targets,
        args={"norm": kind, "features": [features] * n, "dims": [dims] * n, "groups": [groups] * n},
    )


def standardise(*targets: str, gain: float = 1.0) -> Edit:
    return Edit(kind="standardise_weights", targets=targets, args={"gains": [gain] * len(targets)})


EDITS: dict[str, tuple[str, Edit]] = {
    **{
        kind: ("sequential", norms(kind, "0", "2"))
        for kind in ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm")
    },
    "behind an activation": ("custom", norms("LayerNorm", "act0", "block.act")),
    "weights": ("sequential", standardise("0", "2", gain=1.4)),
    "tied weights": ("tied", standardise("a")),
    "group for batch": (
        "batchnorm",
        Edit(kind="replace_norm", targets=("2",), args={"groups": [3]}),
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_undo_is_exact_also_after_training_with_the_edit(what: str) -> None:
    # GIVEN a model in training, with momentum and gradients
    name, edit = EDITS[what]
    model, optimizer = trained(name)
    before = Record(model, optimizer)
    groups = len(optimizer.param_groups)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    # WHEN the new parameters are trained and the edit is taken back
    new = [p for group in optimizer.param_groups[groups:] for p in group["params"]]
    loss = loss_of(bench.model)
    grads = torch.autograd.grad(loss, new, allow_unused=True) if new else ()
    assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in grads)
    bench.undo()
    # THEN every bit and every object is what it was
    before.assert_same()


def test_new_parameters_are_trained_in_a_group_of_their_own() -> None:
    model, optimizer = trained("sequential")
    apply_edits(Bench(model=model, optimizer=optimizer), [norms("BatchNorm", "0", "2")])
    assert len(optimizer.param_groups[-1]["params"]) == 4
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    norm = model.get_submodule("0")
    assert isinstance(norm, Followed)
    assert norm.then.weight.grad is not None
    assert not torch.equal(norm.then.weight, torch.ones(6))


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_has_type_and_mode_of_the_layer_in_front(training: bool) -> None:
    model = plain().double().train(training)
    apply_edits(Bench(model=model), [norms("BatchNorm", "0")])
    norm: Any = model.get_submodule("0")
    assert norm.then.weight.dtype == torch.float64
    assert norm.training == norm.then.training == training
    # and later switches reach it
    model.train(not training)
    assert norm.then.training != training


def test_names_stay_those_of_the_plain_model_for_later_edits() -> None:
    bench = apply_edits(
        Bench(model=plain()),
        [
            norms("LayerNorm", "0", "2"),
            standardise("2"),
            Edit.initialise([("2.weight", "2.bias")], [1.0]),
            Edit(kind="replace_module", targets=("1",), args={"module": "Tanh"}),
        ],
    )
    assert bool(torch.isfinite(loss_of(bench.model)))
    assert bench.parameter("2.weight").shape == (6, 6)


@pytest.mark.parametrize(("conv", "shape"), [
    (nn.Conv1d(4, 8, 3), (16, 4, 9)),
    (nn.Conv2d(4, 8, 3), (16, 4, 9, 9)),
    (nn.Conv3d(4, 8, 3), (16, 4, 5, 5, 5)),
])  # fmt: skip
def test_convolutions_of_any_dimension_are_normed(conv: nn.Module, shape: tuple[int, ...]) -> None:
    for kind in ("BatchNorm", "GroupNorm"):
        model = nn.Sequential(conv, nn.ReLU())
        edit = norms(kind, "0", features=8, dims=len(shape) - 2, groups=2)
        bench = apply_edits(Bench(model=model), [edit])
        y = model[0](torch.randn(shape) * 7 + 3).detach()
        assert float(y.square().mean()) == pytest.approx(1.0, rel=0.05)
        bench.undo()
        assert model[0] is conv


def test_a_group_norm_takes_over_the_parameters_of_the_batch_norm() -> None:
    model, optimizer = trained("batchnorm")
    old: Any = model.get_submodule("2")
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [EDITS["group for batch"][1]])
    new: Any = model.get_submodule("2")
    assert isinstance(new, nn.GroupNorm)
    assert new.weight is old.weight
    assert new.bias is old.bias
    assert len(optimizer.param_groups) == 2, "nothing new to train"
    # AND one sample is enough now
    assert bool(torch.isfinite(model(torch.randn(1, 6))).all())
    bench.undo()
    assert model.get_submodule("2") is old


def test_standardised_weights_fold_away_exactly() -> None:
    model = plain().double()
    edit = standardise("0", "2", gain=2.0)
    bench = apply_edits(Bench(model=model), [edit])
    exported = export_plain(bench.model, [edit])
    assert {type(m) for m in exported.modules()} == {nn.Sequential, nn.Linear, nn.Sigmoid}
    x = torch.randn(5, 6, dtype=torch.float64)
    assert torch.allclose(exported(x), bench.model(x), atol=1e-12)
    assert isinstance(bench.module("0"), WeightStandardised)


HOSTILE = [
    (norms("LocalNorm", "0"), "there is no LocalNorm"),
    (norms("BatchNorm", "0", features=0), "whole number"),
    (norms("BatchNorm", "0", dims=7), "there is no BatchNorm"),
    (norms("LayerNorm", "0", dims=2), "there is no LayerNorm"),
    (norms("GroupNorm", "0", groups=4), "failed|divisible"),
    (norms("GroupNorm", "0", groups=1.5), "whole number"),  # type: ignore[arg-type]
    (norms("BatchNorm", "0", features=float("inf")), "finite number"),  # type: ignore[arg-type]
    (norms("BatchNorm", "9"), "no module"),
    (Edit(kind="insert_norm", targets=("0",), args={"norm": "BatchNorm"}), "lacks its list"),
    (Edit(kind="insert_norm", targets=("0", "2"), args=norms("BatchNorm", "0").args), "failed"),
    (standardise("1"), "not a plain linear"),
    (standardise("0", gain=float("nan")), "finite number"),
    (Edit(kind="replace_norm", targets=("0",), args={"groups": [1]}), "not a batch norm"),
    (Edit(kind="move_norm_first", targets=("0",), args={"stacks": []}), "not a transformer layer"),
    (Edit(kind="move_norm_first", args={"stacks": ["0"]}), "no stack"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "said"), HOSTILE)
def test_hostile_arguments_are_refused_and_leave_nothing(edit: Edit, said: str) -> None:
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    with pytest.raises(CannotApply, match=said):
        apply_edits(Bench(model=model, optimizer=optimizer), [norms("RMSNorm", "2"), edit])
    before.assert_same()


# -- post-norm to pre-norm


def layer(norm_first: bool = False) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first
    )


def stack() -> nn.Module:
    return nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False)


def held() -> nn.Module:
    return nn.Sequential(layer(), layer())


@pytest.mark.parametrize(
    ("build", "edit"),
    [
        (stack, Edit(kind="move_norm_first", targets=("layers.0", "layers.1"),
                     args={"stacks": [""]})),
        (held, Edit(kind="move_norm_first", targets=("0", "1"), args={"stacks": ["1"]})),
    ],
)  # fmt: skip
def test_post_norm_becomes_the_pre_norm_model_that_torch_builds(
    build: Callable[[], nn.Module], edit: Edit
) -> None:
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(3, 4, 8)
    before, keys = Record(model, optimizer), list(model.state_dict())
    was = model(x)
    # WHEN the norms are moved
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    # THEN it computes what a pre-norm stack with a final norm does
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = nn.TransformerEncoder(layer(True), 2, norm=nn.LayerNorm(8))
    parameters = dict(twin.named_parameters())
    for name, value in model.named_parameters():
        plain_name = name.removeprefix("layers.").replace(".inner", "")
        target = f"layers.{plain_name}"
        if target in parameters:
            with torch.no_grad():
                parameters[target].copy_(value)
    assert torch.allclose(bench.model(x), twin(x), atol=1e-6)
    assert len(optimizer.param_groups) == 2
    # AND undoing is exact
    bench.undo()
    before.assert_same()
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), was)


def test_a_stack_in_evaluation_mode_still_runs_with_its_norms_moved() -> None:
    model = stack()
    edit = Edit(kind="move_norm_first", targets=("layers.0", "layers.1"), args={"stacks": [""]})
    bench = apply_edits(Bench(model=model), [edit])
    bench.model.eval()
    x = torch.randn(3, 4, 8)
    with torch.no_grad():
        fast = bench.model(x)
    assert torch.allclose(fast, bench.model(x), atol=1e-5)
