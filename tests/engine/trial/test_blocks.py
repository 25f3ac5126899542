"""Parameters lent to one tensor, and what an optimizer remembers of them."""

import pytest
import torch
from torch import nn

from gradmend.engine.trial.blocks import Block, Packed, lendable
from gradmend.engine.trial.pool import Pool


def some(count: int = 4) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(2, 3, generator=generator)) for _ in range(count)]


def test_members_look_into_the_whole_until_it_is_given_back() -> None:
    # GIVEN parameters of one shape
    members = some()
    values, places = [p.detach().clone() for p in members], [p.data_ptr() for p in members]
    # WHEN they are lent and the whole is changed
    block = Block.lend(members)
    assert torch.equal(block.whole, torch.stack(values))
    with torch.no_grad():
        block.whole.add_(1.0)
    # THEN they have changed, and keep that at their own address; giving back twice does no harm
    assert all(torch.equal(p, v + 1.0) for p, v in zip(members, values, strict=True))
    block.give_back()
    block.give_back()
    assert all(torch.equal(p, v + 1.0) for p, v in zip(members, values, strict=True))
    assert [p.data_ptr() for p in members] == places
    assert all(map(lendable, members))


def test_gradients_are_gathered_and_scattered() -> None:
    # GIVEN a block of which the whole has a gradient, and one member a second one
    block = Block.lend(some())
    block.whole.grad = torch.ones(4, 2, 3)
    block.members[1].grad = torch.full((2, 3), 5.0)
    # WHEN gathered
    assert block.gather(Pool())
    # THEN the whole has their sum and the members none
    assert block.whole.grad[:, 0, 0].tolist() == [1.0, 6.0, 1.0, 1.0]
    assert all(p.grad is None for p in block.members)
    # WHEN scattered THEN the members have it, added to what they have
    block.members[2].grad = torch.full((2, 3), 7.0)
    block.scatter()
    assert block.whole.grad is None
    assert [float(p.grad[0, 0]) for p in block.members] == [1.0, 6.0, 8.0, 1.0]  # type: ignore[index]
    # WHEN all have one and the whole none THEN these are its gradient
    assert block.gather(Pool())
    assert block.whole.grad[:, 0, 0].tolist() == [1.0, 6.0, 8.0, 1.0]  # type: ignore[index]


def test_some_gradients_alone_cannot_be_gathered() -> None:
    # GIVEN a block with no gradient, but for one member
    block = Block.lend(some())
    assert block.gather(Pool()) and block.whole.grad is None
    block.members[1].grad = torch.ones(2, 3)
    # WHEN, THEN nothing is gathered and nothing lost
    assert not block.gather(Pool())
    assert block.whole.grad is None and block.members[1].grad is not None


def test_what_may_not_be_lent() -> None:
    # GIVEN a parameter that may be lent
    (common,) = some(1)
    assert lendable(common)
    # THEN one that is looked into, frozen, not dense, of half precision or none, may not
    held = nn.Parameter(torch.zeros(3))
    view = held.detach()
    hooked = nn.Parameter(torch.zeros(3))
    hooked.register_hook(lambda grad: grad)
    waiting = nn.Parameter(torch.zeros(3))
    waiting.register_post_accumulate_grad_hook(lambda p: None)  # type: ignore[no-untyped-call]
    others = (
        held, hooked, waiting, torch.zeros(3), nn.Parameter(torch.zeros(())),
        nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.zeros(3), requires_grad=False),
        nn.Parameter(torch.zeros(3).half()), nn.Parameter(torch.zeros(3, 4).t()),
        nn.Parameter(torch.zeros(3, device="meta")), nn.Parameter(torch.zeros(300, 300)),
        nn.UninitializedParameter(), nn.Parameter(torch.zeros(3, dtype=torch.complex64)),
    )  # fmt: skip
    assert not any(map(lendable, others))
    del view


def test_state_that_differs_is_left_to_the_members() -> None:
    # GIVEN parameters of which one was trained a step more
    members = some()
    optimizer = torch.optim.Adam(members)
    for trained in (members, members[:1]):
        for p in trained:
            p.grad = torch.ones(2, 3)
        optimizer.step()
        optimizer.zero_grad()
    # WHEN they are to be packed THEN they are not, and the state is as it was
    packed = Packed(optimizer)
    assert not packed.take(Block.lend(members))
    packed.enter()
    assert [float(optimizer.state[p]["step"]) for p in members] == [2.0, 1.0, 1.0, 1.0]
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], members, strict=True))


@pytest.mark.parametrize("steps", [0, 2])
def test_state_comes_back_as_it_went(steps: int) -> None:
    # GIVEN an optimizer before its first step, or after
    members = some()
    optimizer = torch.optim.Adam(members, amsgrad=True)
    for _ in range(steps):
        for at, p in enumerate(members):
            p.grad = torch.full((2, 3), float(at))
        optimizer.step()
    before = {p: dict(optimizer.state[p]) for p in members} if steps else {}
    # WHEN it is packed and released
    block = Block.lend(members)
    packed = Packed(optimizer)
    assert packed.take(block)
    packed.enter()
    assert optimizer.param_groups[0]["params"] == [block.whole]
    packed.release()
    # THEN every member has what it had
    assert set(optimizer.state) == set(before)
    for p, state in before.items():
        found = optimizer.state[p]
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())
