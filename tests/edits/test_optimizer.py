"""Edits on a live optimizer: new parameters join, the state of the others survives."""

from collections.abc import Callable

import pytest
import torch
from edit_subjects import Record, edits_for, loss_of, plain, trained
from torch import nn

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.layers import ReZero

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
