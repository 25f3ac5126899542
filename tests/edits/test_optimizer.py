"""Edits on a live optimizer: new parameters join, the state of the others survives."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from edit_subjects import Record, edits_for, loss_of, plain, trained
from torch import nn

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.layers import ReZero
from gradmend.records.prescription import Edit

WRAP = edits_for("sequential")["wrap_residual"]
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), capturable=False),
}


def alphas(model: nn.Module) -> list[nn.Parameter]:
    return [module.alpha for module in model.modules() if isinstance(module, ReZero)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_parameters_are_trained_and_old_momentum_survives(name: str) -> None:
    # GIVEN a model with momentum
    model = plain()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    loss_of(model).backward()
    optimizer.step()
    kept = {id(p): {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    # WHEN residuals bring parameters of their own
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [WRAP])
    # THEN the old state is there, the new ones are in a group with the same options, and learn
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            assert torch.equal(value, kept[id(parameter)][key])
    assert len(optimizer.param_groups) == 2
    first, new = optimizer.param_groups
    assert list(map(id, new["params"])) == list(map(id, alphas(model)))
    assert {k: v for k, v in first.items() if k != "params"} == {
        k: v for k, v in new.items() if k != "params"
    }
    assert bench.notes
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()
    assert all(float(alpha.detach()) != 0.0 for alpha in alphas(model))
    # AND undoing forgets them and what the optimizer learned about them
    bench.undo()
    assert len(optimizer.param_groups) == 1
    assert set(map(id, optimizer.state)) == set(kept)
    loss_of(model).backward()
    optimizer.step()


def test_undo_tells_groups_apart_by_identity() -> None:
    # GIVEN a group with as many parameters as the edit adds: comparing the dicts would compare
    # tensors, which have no truth value
    model = plain()
    own = list(model.parameters())
    optimizer = torch.optim.SGD([{"params": own[:2]}, {"params": own[2:4]}], lr=0.1)
    before = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [WRAP])
    assert len(optimizer.param_groups[-1]["params"]) == 2
    bench.undo()
    before.assert_same()


def test_an_optimizer_built_from_named_parameters_gets_names_for_the_new_ones() -> None:
    model = plain()
    optimizer = torch.optim.Adam(model.named_parameters(), lr=0.01)
    before = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [WRAP])
    assert optimizer.param_groups[-1]["param_names"] == ["0.alpha", "2.alpha"]
    bench.undo()
    before.assert_same()


def test_lbfgs_is_refused_because_it_would_never_train_the_new_ones() -> None:
    model = plain()
    optimizer = torch.optim.LBFGS(model.parameters())
    before = Record(model, optimizer)
    with pytest.raises(CannotApply, match="LBFGS"):
        apply_edits(Bench(model=model, optimizer=optimizer), [WRAP])
    before.assert_same()


def test_the_learning_rate_of_every_group_is_scaled_and_given_back() -> None:
    model, optimizer = trained("sequential")
    rates = [group["lr"] for group in optimizer.param_groups]
    edit = edits_for("sequential")["scale_learning_rate"]
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    assert [group["lr"] for group in optimizer.param_groups] == [rate * 0.25 for rate in rates]
    bench.undo()
    assert [group["lr"] for group in optimizer.param_groups] == rates


def test_some_parameters_get_a_rate_of_their_own_and_lose_it_again() -> None:
    # GIVEN plain descent, whose steps are the rate times the gradient
    model = plain()
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = Record(model, optimizer)
    edit = Edit(kind="scale_layer_rates", targets=(names[0], names[-1]), args={"factor": 4.0})

    def steps() -> list[float]:
        found = []
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        old = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.step()
        for parameter, was in zip(model.parameters(), old, strict=True):
            found.append(float((was - parameter.detach()).mean()))
            with torch.no_grad():
                parameter.copy_(was)
            parameter.grad = None
        return found

    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    others = [0.1] * (len(names) - 2)
    assert steps() == pytest.approx([0.4, *others, 0.4], rel=1e-4)
    bench.undo()
    assert steps() == pytest.approx([0.1] * len(names), rel=1e-4)
    before.assert_same()
    # AND where there is no optimizer, or no such parameter, that is said
    with pytest.raises(CannotApply, match="optimizer"):
        apply_edits(Bench(model=model), [edit])
    with pytest.raises(CannotApply, match="no parameter"):
        apply_edits(Bench(model=model, optimizer=optimizer), [replace(edit, targets=("0.w",))])
    before.assert_same()


def test_without_an_optimizer_the_new_parameters_are_simply_there() -> None:
    model = plain()
    bench = apply_edits(Bench(model=model), [WRAP])
    assert len(alphas(model)) == 2
    assert bench.notes == []


@pytest.mark.parametrize("kind", ["scale_learning_rate", "wrap_residual"])
def test_an_attached_scheduler_is_spoken_of(kind: str) -> None:
    # GIVEN an optimizer with a scheduler, which computes the rate from its own base
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    # WHEN an edit changes what the scheduler does not know of
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edits_for("sequential")[kind]])
    # THEN the notes say so
    assert any("scheduler" in note for note in bench.notes)


# -- options


@pytest.mark.parametrize(
    ("edit", "key", "expected"),
    [
        (Edit(kind="set_epsilon", args={"eps": 1e-4}), "eps", [1e-4, 1e-4]),
        (Edit(kind="scale_weight_decay", args={"factor": 0.0}), "weight_decay", [0.0, 0.0]),
        (Edit(kind="scale_weight_decay", args={"factor": 0.1}), "weight_decay", [0.01, 0.05]),
        (Edit(kind="set_learning_rate", args={"rate": 0.5}), "lr", [0.5, 0.02]),
    ],
)
def test_options_of_every_group_are_set_and_given_back(
    edit: Edit, key: str, expected: list[float]
) -> None:
    model = plain()
    own = list(model.parameters())
    optimizer = torch.optim.Adam(
        [{"params": own[:2], "lr": 0.0}, {"params": own[2:], "lr": 0.02, "weight_decay": 0.5}],
        weight_decay=0.1,
    )
    before = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    assert [group[key] for group in optimizer.param_groups] == pytest.approx(expected)
    bench.undo()
    before.assert_same()


def test_an_option_that_the_optimizer_lacks_is_refused() -> None:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(CannotApply, match="eps"):
        apply_edits(
            Bench(model=model, optimizer=optimizer), [Edit(kind="set_epsilon", args={"eps": 1e-4})]
        )
    adafactor = torch.optim.Adafactor(model.parameters())
    with pytest.raises(CannotApply, match="several eps"):
        apply_edits(
            Bench(model=model, optimizer=adafactor), [Edit(kind="set_epsilon", args={"eps": 1e-4})]
        )


# -- what it trains


def groups_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


def test_a_missing_head_joins_weights_with_weights_and_biases_with_biases() -> None:
    model = plain()
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": biases[:2], "weight_decay": 0.0}, {"params": weights[:2]}], lr=0.1
    )
    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    loss_of(model).backward()
    optimizer.step()
    before, was = Record(model, optimizer), model[4].weight.detach().clone()
    edit = Edit(kind="add_parameters", targets=("4.weight", "4.bias"))
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    # THEN decay is told apart as before, and the scheduler goes on with its two groups
    assert groups_of(model, optimizer) == [
        {"0.bias", "2.bias", "4.bias"},
        {"0.weight", "2.weight", "4.weight"},
    ]
    optimizer.zero_grad()
    loss_of(model).backward()
    grads = [p.grad for p in model.parameters()]
    assert all(grad is not None for grad in grads)
    kept = [(p, p.detach().clone()) for p in model.parameters()]
    optimizer.step()
    plan.step()
    assert not torch.equal(model[4].weight, was)
    # AND undoing forgets them
    bench.undo()
    assert [set(g) for g in groups_of(model, optimizer)] == [
        {"0.bias", "2.bias"},
        {"0.weight", "2.weight"},
    ]
    assert set(optimizer.state) == {*biases[:2], *weights[:2]}
    assert [id(g["params"]) for g in optimizer.param_groups] == [
        id(g["params"]) for g in before.optimizer.param_groups
    ]
    assert len(kept) == 6


def test_of_two_parts_the_nearest_module_decides() -> None:
    model = nn.ModuleDict({"body": plain(), "head": plain()})
    optimizer = torch.optim.SGD(
        [
            {"params": list(model["body"].parameters()), "lr": 1e-4},
            {"params": list(model["head"].parameters())[:4], "lr": 1e-2},
        ]
    )
    edit = Edit(kind="add_parameters", targets=("head.4.weight", "head.4.bias"))
    before = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    assert {"head.4.weight", "head.4.bias"} <= groups_of(model, optimizer)[1]
    bench.undo()
    before.assert_same()


def test_what_is_held_already_does_not_join_twice() -> None:
    model = plain()
    optimizer = torch.optim.Adam(model.named_parameters(), lr=0.01)
    before = Record(model, optimizer)
    names = tuple(name for name, _ in model.named_parameters())
    bench = apply_edits(
        Bench(model=model, optimizer=optimizer), [Edit(kind="add_parameters", targets=names)]
    )
    assert len(optimizer.param_groups[0]["params"]) == 6
    bench.undo()
    before.assert_same()


def test_frozen_parameters_learn_and_are_frozen_again() -> None:
    model = plain()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(
        [(n, p) for n, p in model.named_parameters() if p.requires_grad], lr=0.01
    )
    before, was = Record(model, optimizer), model[0].weight.detach().clone()
    edit = Edit(kind="unfreeze_parameters", targets=("0.weight", "0.bias"))
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    assert optimizer.param_groups[0]["param_names"][-2:] == ["0.weight", "0.bias"]
    kept = [(p, p.detach().clone()) for p in model.parameters()]
    loss_of(model).backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, was)
    with torch.no_grad():
        for parameter, value in kept:
            parameter.copy_(value)
    bench.undo()
    optimizer.state.clear()
    optimizer.zero_grad()
    assert model[0].weight.grad is None
    before.assert_same()


@pytest.mark.parametrize("kind", ["add_parameters", "unfreeze_parameters"])
def test_lbfgs_strangers_and_no_optimizer_are_refused(kind: str) -> None:
    model = plain()
    model[0].requires_grad_(False)
    edit = Edit(kind=kind, targets=("0.weight",))
    with pytest.raises(CannotApply, match="optimizer"):
        apply_edits(Bench(model=model), [edit])
    rest = [p for p in model.parameters() if p.requires_grad]
    with pytest.raises(CannotApply, match="LBFGS"):
        apply_edits(Bench(model=model, optimizer=torch.optim.LBFGS(rest)), [edit])
    assert not model[0].weight.requires_grad
    with pytest.raises(CannotApply, match="no module"):
        apply_edits(
            Bench(model=model, optimizer=torch.optim.SGD(rest, lr=0.1)),
            [Edit(kind=kind, targets=("7.weight",))],
        )
