"""Rates of single parameters: what a step takes, and what is there after it."""

import copy

import pytest
import torch
from torch import nn

from gradmend.controls import ClipByNorm, LayerRates, WarmUp, hang

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop]
)
def test_a_training_is_that_of_groups_made_by_hand(kind: type[torch.optim.Optimizer]) -> None:
    # GIVEN the same by two groups
    theirs = net()
    ends = [*theirs[0].parameters(), *theirs[4].parameters()]
    groups = [{"params": list(theirs[2].parameters())}, {"params": ends, "lr": 0.03}]
    by_hand = kind(groups, lr=0.01)  # type: ignore[call-arg]
    train(theirs, by_hand)
    # WHEN one group has the control
    mine = net()
    optimizer = kind(mine.parameters(), lr=0.01)  # type: ignore[call-arg]
    take_off = hang(LayerRates([*mine[0].parameters(), *mine[4].parameters()], 3.0), optimizer)
    train(mine, optimizer)
    # THEN every bit is the same, and between steps there is the one group that was
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [
        id(p) for p in mine.parameters()
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01]
    # AND a fresh optimizer takes its state
    kind(net().parameters(), lr=0.01).load_state_dict(  # type: ignore[call-arg]
        copy.deepcopy(optimizer.state_dict())
    )
    # AND off is off
    take_off()
    before, rate = mine[0].weight.detach().clone(), 0.01
    if kind is torch.optim.SGD:
        optimizer.zero_grad()
        mine(X).square().mean().backward()
        optimizer.step()
        assert torch.equal(mine[0].weight, before - rate * mine[0].weight.grad)


def test_groups_keep_their_own_options_and_a_schedule_counts() -> None:
    model = net()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 1.0}, {"params": model[2].parameters()},
         {"params": model[4].parameters(), "lr": 0.5, "weight_decay": 0.1}], lr=0.1,
    )  # fmt: skip
    plan = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    hang(WarmUp(2), optimizer)
    hang(LayerRates([model[0].weight, model[4].weight], 10.0), optimizer)
    seen: list[list[tuple[int, float, float]]] = []
    optimizer.register_step_pre_hook(
        lambda o, *_: seen.append(
            [(len(g["params"]), g["lr"], g["weight_decay"]) for g in o.param_groups]
        )
    )
    for _ in range(2):
        train(model, optimizer, 1)
        plan.step()
    first = [(1, 0.5, 0), (2, 0.05, 0), (1, 0.25, 0.1), (1, 5.0, 0), (1, 2.5, 0.1)]
    assert seen == [first, first]  # half of the rate by the warm-up, then half by the schedule
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.025, 0.125]


def test_a_step_that_raises_and_taking_it_off_leave_the_groups_as_they_were() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    take_off = hang(LayerRates([model[0].weight], 3.0), optimizer)

    def fails(*_: object) -> None:
        raise RuntimeError("within the step")

    handle = optimizer.register_step_pre_hook(fails)
    with pytest.raises(RuntimeError):
        train(model, optimizer, 1)
    handle.remove()
    train(model, optimizer, 1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [6]
    handle = optimizer.register_step_pre_hook(fails)
    with pytest.raises(RuntimeError):
        train(model, optimizer, 1)
    take_off()
    assert [len(group["params"]) for group in optimizer.param_groups] == [6]


def test_parameters_of_nobody_change_nothing() -> None:
    model, stranger = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    twin = net()
    other = torch.optim.SGD(twin.parameters(), lr=0.1)
    for each in (optimizer, other):
        hang(ClipByNorm(0.1), each)
    hang(LayerRates(stranger.parameters(), 100.0), optimizer)
    train(model, optimizer)
    train(twin, other)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )
