"""Edits of what is descended on, and of what takes part."""

from typing import Any

import pytest
import torch
from edit_subjects import Record, loss_of, trained
from torch import Tensor, nn
from torch.nn import functional as F

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit

CLIMB = Edit(kind="maximise")


def test_climbing_on_a_negated_loss_is_descending_on_the_loss() -> None:
    # GIVEN twins, one with the wrong sign
    states = []
    for sign in (1.0, -1.0):
        model, _ = trained("sequential")
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        bench = Bench(model=model, optimizer=optimizer)
        if sign < 0:
            apply_edits(bench, [CLIMB])
        # WHEN they are trained
        for _ in range(5):
            optimizer.zero_grad()
            (sign * loss_of(model)).backward()
            optimizer.step()
        states.append(model.state_dict())
    # THEN bit for bit they are the same
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_the_sign_is_given_back() -> None:
    model, optimizer = trained("sequential")
    record = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [CLIMB])
    assert all(group["maximize"] for group in optimizer.param_groups)
    with pytest.raises(CannotApply, match="already"):
        apply_edits(Bench(model=model, optimizer=optimizer), [CLIMB])
    bench.undo()
    record.assert_same()


def test_without_an_optimizer_there_is_no_sign() -> None:
    model, _ = trained("sequential")
    with pytest.raises(CannotApply, match="optimizer"):
        apply_edits(Bench(model=model), [CLIMB])


class Holder(nn.Module):
    """Layers where torch does not look."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.layers = held
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        held = self.layers
        for layer in held.values() if isinstance(held, dict | nn.ModuleDict) else held:
            x = torch.tanh(layer(x))
        result: Tensor = self.head(x)
        return result


def pair() -> list[nn.Module]:
    return [nn.Linear(4, 4), nn.Linear(4, 4)]


KNOW = Edit(kind="register_modules", targets=("layers",))


@pytest.mark.parametrize(
    "make", [pair, lambda: tuple(pair()), lambda: dict(zip("ab", pair(), strict=True))]
)
def test_listed_layers_are_known_trained_and_given_back(make: Any) -> None:
    # GIVEN a model whose optimizer knows the head alone
    torch.manual_seed(0)
    held = make()
    model = Holder(held)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    layers = list(held.values()) if isinstance(held, dict) else list(held)
    bits = [p.detach().clone() for layer in layers for p in layer.parameters()]
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    before = model(x)
    # WHEN the layers are registered
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [KNOW])
    # THEN the model computes the same, and they are in state_dict and optimizer
    assert torch.equal(model(x), before)
    assert len(list(model.parameters())) == 6
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    trained_bits = [p for layer in layers for p in layer.parameters()]
    assert not any(torch.equal(p, b) for p, b in zip(trained_bits, bits, strict=True))
    # AND undone the list is the very list, with the bits it had
    bench.undo()
    assert vars(model)["layers"] is held
    assert len(list(model.parameters())) == 2
    assert len(optimizer.param_groups) == 1
    assert all(torch.equal(p, b) for p, b in zip(trained_bits, bits, strict=True))
    assert all(p.grad is None for p in trained_bits)
    assert torch.equal(layers[0](x), nn.functional.linear(x, bits[0], bits[1]))


@pytest.mark.parametrize(
    "held", [[], [pair()], [nn.Linear(4, 4), None], {"a.b": nn.Linear(4, 4)}, None, 3]
)
def test_what_is_no_plain_list_of_modules_is_refused(held: Any) -> None:
    model = Holder(held)
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model), [KNOW])
    assert vars(model)["layers"] is held
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model), [Edit(kind="register_modules", targets=("x.y",))])


def test_parameters_that_the_optimizer_holds_are_not_added_twice() -> None:
    model = Holder(pair())
    every = [p for layer in model.layers for p in layer.parameters()] + list(model.parameters())
    optimizer = torch.optim.SGD(every, lr=0.1)
    apply_edits(Bench(model=model, optimizer=optimizer), [KNOW])
    assert len(optimizer.param_groups) == 1
