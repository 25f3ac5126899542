"""Edits that hang something onto the optimizer: exact undo, hostile arguments, fresh models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from edit_subjects import Record, batch, loss_of, plain, trained
from torch import nn

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit

ARGS: dict[str, dict[str, Any]] = {
    "norm": {"limit": 0.01},
    "value": {"lower": -0.01, "upper": 0.02},
    "per_unit": {"ratio": 0.01, "eps": 1e-3, "spared": ["out.weight", "out.bias"]},
    "percentile": {"percentile": 10.0},
    "z_score": {"alpha": 0.97, "z": 2.5, "begin": 2},
    "per_tensor": {"relative": 1.05, "beta": 0.98, "limit": 1.0, "begin": 2},
    "lift": {"floor": 5.0},
}
EDITS = {
    **{
        name: Edit(kind="clip_gradients", args={"method": name, **args})
        for name, args in ARGS.items()
    },
    "warm_up": Edit(kind="warm_up", args={"steps": 7}),
    "scale_loss": Edit(kind="scale_loss", args={"factor": 64.0}),
}


def step(bench: Bench, size: float = 1.0) -> None:
    assert bench.optimizer is not None
    bench.optimizer.zero_grad()
    bench.loss(loss_of(bench.model) * size).backward()
    bench.optimizer.step()


def saved(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """What puts weights, gradients and state back after a training, as a snapshot does."""
    values = [(p, p.detach().clone(), p.grad) for p in model.parameters()]
    held = {p: dict(optimizer.state[p]) for p in optimizer.state}
    clones = {p: {k: v.clone() for k, v in s.items()} for p, s in held.items()}

    def back() -> None:
        with torch.no_grad():
            for parameter, value, grad in values:
                parameter.copy_(value)
                parameter.grad = grad
        for parameter, state in held.items():
            for key, value in state.items():
                value.copy_(clones[parameter][key])
        for parameter in [p for p in optimizer.state if p not in held]:
            optimizer.state.pop(parameter)

    return back


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("steps", [0, 3])
def test_undo_restores_every_bit_also_after_some_steps(name: str, steps: int) -> None:
    model, optimizer = trained("custom")
    optimizer.zero_grad(set_to_none=True)
    before, back = Record(model, optimizer), saved(model, optimizer)
    hooks = (dict(optimizer._optimizer_step_pre_hooks), dict(optimizer._optimizer_step_post_hooks))
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [EDITS[name]])
    for _ in range(steps):
        step(bench)
    bench.undo()
    back()
    before.assert_same()
    after = (dict(optimizer._optimizer_step_pre_hooks), dict(optimizer._optimizer_step_post_hooks))
    assert after == hooks
    assert not bench.loss_changes


@pytest.mark.parametrize("name", EDITS)
def test_a_step_with_it_is_another_and_a_step_without_it_the_old_one(name: str) -> None:
    # GIVEN two equal models, one of which is edited
    (edited, one), (twin, other) = trained("custom"), trained("custom")
    bench = apply_edits(Bench(model=edited, optimizer=one), [EDITS[name]])
    plain_bench = Bench(model=twin, optimizer=other)
    for each in (edited, twin):  # the same dropout
        each.eval()
    for size in (1.0, 1.1, 0.9, 4.0):  # the last one stands out
        step(bench, size)
        step(plain_bench, size)
    same = all(
        torch.equal(a, b) for a, b in zip(edited.parameters(), twin.parameters(), strict=True)
    )
    # THEN only a loss scale, which is a power of two, changes nothing
    assert same is (name == "scale_loss")


def test_it_fits_a_model_of_another_seed_and_another_optimizer() -> None:
    for kind in (torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad):
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
        optimizer = kind(model.parameters(), lr=0.01)
        for name, edit in EDITS.items():
            if name == "per_unit":
                edit = Edit(kind=edit.kind, args={**edit.args, "spared": ["2.weight"]})
            bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
            step(bench)
            bench.undo()
        assert set(optimizer.param_groups[0]) == set(kind(model.parameters()).param_groups[0])


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("clip_gradients", {}),
    ("clip_gradients", {"method": "nonsense"}),
    ("clip_gradients", {"method": ["norm"]}),
    ("clip_gradients", {"method": "norm"}),
    ("clip_gradients", {"method": "norm", "limit": 0.0}),
    ("clip_gradients", {"method": "norm", "limit": -1.0}),
    ("clip_gradients", {"method": "norm", "limit": float("nan")}),
    ("clip_gradients", {"method": "norm", "limit": float("inf")}),
    ("clip_gradients", {"method": "norm", "limit": "1"}),
    ("clip_gradients", {"method": "norm", "limit": True}),
    ("clip_gradients", {"method": "norm", "limit": [1.0]}),
    ("clip_gradients", {"method": "value", "lower": 0.1, "upper": 1.0}),
    ("clip_gradients", {"method": "value", "lower": 0.0, "upper": 0.0}),
    ("clip_gradients", {"method": "value", "lower": -1.0}),
    ("clip_gradients", {"method": "percentile", "percentile": 101.0}),
    ("clip_gradients", {"method": "percentile", "percentile": 0.0}),
    ("clip_gradients", {"method": "z_score", "alpha": 1.0}),
    ("clip_gradients", {"method": "z_score", "begin": 2.5}),
    ("clip_gradients", {"method": "per_tensor", "beta": -0.5}),
    ("clip_gradients", {"method": "per_unit", "spared": "0.weight"}),
    ("clip_gradients", {"method": "per_unit", "spared": ["9.weight"]}),
    ("clip_gradients", {"method": "lift", "floor": 0.0}),
    ("warm_up", {}),
    ("warm_up", {"steps": 0}),
    ("warm_up", {"steps": 2.5}),
    ("warm_up", {"steps": 1e30}),
    ("scale_loss", {"factor": 0.0}),
    ("scale_loss", {"factor": 2.0, "divide": 1}),
    ("set_learning_rate", {}),
    ("set_learning_rate", {"rate": -1.0}),
    ("set_epsilon", {"eps": 0.0}),
    ("scale_weight_decay", {"factor": -1.0}),
    ("scale_learning_rate", {"factor": 0.0}),
]


@pytest.mark.parametrize(("kind", "args"), HOSTILE, ids=lambda v: str(v)[:60])
def test_hostile_arguments_are_refused_and_nothing_is_changed(
    kind: str, args: dict[str, Any]
) -> None:
    model = plain()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = Record(model, optimizer)
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model, optimizer=optimizer), [Edit(kind=kind, args=args)])
    before.assert_same()
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_without_an_optimizer_or_with_lbfgs_it_is_refused(edit: Edit) -> None:
    if "spared" in edit.args:
        edit = Edit(kind=edit.kind, args={**edit.args, "spared": []})
    model = plain()
    with pytest.raises(CannotApply, match="optimizer"):
        apply_edits(Bench(model=model), [edit])
    with pytest.raises(CannotApply, match="LBFGS"):
        apply_edits(Bench(model=model, optimizer=torch.optim.LBFGS(model.parameters())), [edit])


def test_clipping_twice_is_refused_and_the_first_taken_back() -> None:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = Record(model, optimizer)
    with pytest.raises(CannotApply, match="already"):
        apply_edits(Bench(model=model, optimizer=optimizer), [EDITS["norm"], EDITS["norm"]])
    before.assert_same()
    assert not optimizer._optimizer_step_pre_hooks


def test_a_clipped_training_goes_on_where_a_checkpoint_left_it() -> None:
    # GIVEN a run of six steps, and one that is saved and loaded in the middle
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = plain()
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    edits = [EDITS["z_score"], EDITS["warm_up"], EDITS["percentile"]]
    model, optimizer = fresh()
    bench = apply_edits(Bench(model=model, optimizer=optimizer), edits)
    for _ in range(6):
        step(bench)
    first, its = fresh()
    half = apply_edits(Bench(model=first, optimizer=its), edits)
    for _ in range(3):
        step(half)
    second, loaded = fresh()
    rest = apply_edits(Bench(model=second, optimizer=loaded), edits)
    second.load_state_dict(first.state_dict())
    loaded.load_state_dict(its.state_dict())
    for _ in range(3):
        step(rest)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), second.parameters(), strict=True)
    )


def test_the_loss_scale_does_not_change_what_is_reported() -> None:
    model = plain()
    bench = apply_edits(
        Bench(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)),
        [EDITS["scale_loss"]],
    )
    x, _ = batch()
    with torch.no_grad():
        looked_at = model(x).square().mean()
        assert bench.loss(looked_at) is looked_at
