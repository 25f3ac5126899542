"""Warm-up and loss scale: what a step is made with, and what is there after it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradmend.controls import ClipByNorm, LossScale, WarmUp, hang
from gradmend.controls.control import KEY


def one(value: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=dtype))


def pull(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> float:
    """A step down a slope of one: how far it went is the rate."""
    before = float(weight.detach())
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    return before - float(weight.detach())


def test_the_rate_grows_linearly_and_then_stays() -> None:
    weight = one()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    hang(WarmUp(4), optimizer)
    went = [pull(weight, optimizer) for _ in range(6)]
    assert went == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("schedule", ["lambda", "exponential"])
def test_it_multiplies_with_a_scheduler(schedule: str) -> None:
    weight = one()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    plan: Any = (
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
        if schedule == "lambda"
        else torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    )
    hang(WarmUp(2), optimizer)
    went = []
    for _ in range(4):
        went.append(pull(weight, optimizer))
        plan.step()
    assert went == pytest.approx([0.5, 0.5, 0.25, 0.125])


def test_every_group_and_a_rate_that_is_a_tensor() -> None:
    a, b = one(), one()
    optimizer = torch.optim.Adam(
        [{"params": [a]}, {"params": [b], "lr": torch.tensor(0.01)}], lr=0.1
    )
    rate = optimizer.param_groups[1]["lr"]
    hang(WarmUp(2), optimizer)
    a.grad, b.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert float(a.detach()) == pytest.approx(-0.05, rel=1e-4)
    assert float(b.detach()) == pytest.approx(-0.005, rel=1e-4)
    assert optimizer.param_groups[1]["lr"] is rate
    assert float(rate) == pytest.approx(0.01)


def test_a_warm_up_goes_on_where_a_checkpoint_left_it() -> None:
    weight = one()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    hang(WarmUp(4), optimizer)
    pull(weight, optimizer)
    again = torch.optim.SGD([weight], lr=1.0)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    hang(WarmUp(4), again)
    assert pull(weight, again) == pytest.approx(0.5)


def test_a_step_that_raises_leaves_no_small_rate_behind() -> None:
    weight = one()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    hang(WarmUp(4), optimizer)
    weight.grad = torch.ones(1)

    def fails() -> Tensor:
        raise RuntimeError("a batch that does not fit")

    with pytest.raises(RuntimeError):
        optimizer.step(fails)
    assert pull(weight, optimizer) == pytest.approx(0.25)
    assert optimizer.param_groups[0]["lr"] == 1.0


def train(control: LossScale | None, weight: nn.Parameter, optimizer: Any, slope: float) -> None:
    optimizer.zero_grad()
    loss = (weight * slope).sum()
    (control.change(loss, optimizer) if control else loss).backward()
    optimizer.step()


def test_a_scaled_loss_makes_the_same_step() -> None:
    scaled, plain = one(1.0), one(1.0)
    control = LossScale(1024.0)
    with_scale = torch.optim.SGD([scaled], lr=0.1, momentum=0.9)
    without = torch.optim.SGD([plain], lr=0.1, momentum=0.9)
    hang(control, with_scale)
    for slope in (1.0, -0.5, 2.0):
        train(control, scaled, with_scale, slope)
        train(None, plain, without, slope)
    assert torch.equal(scaled, plain)


def test_whoever_trains_with_the_plain_loss_gets_the_plain_gradient() -> None:
    weight = one(1.0)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    hang(LossScale(1024.0), optimizer)
    train(None, weight, optimizer, 1.0)
    assert float(weight.detach()) == pytest.approx(0.9)


def test_a_loss_that_is_only_looked_at_is_not_scaled() -> None:
    control = LossScale(1024.0)
    optimizer = torch.optim.SGD([one()], lr=0.1)
    with torch.no_grad():
        assert float(control.change(torch.tensor(2.0), optimizer)) == 2.0


def test_a_gradient_that_underflows_in_half_precision_is_lifted() -> None:
    # GIVEN a slope that float16 holds, and one half as large as its smallest number on the way
    for factor, moved in ((None, False), (2.0**12, True)):
        weight = one(0.0, torch.float16)
        optimizer = torch.optim.Adam([weight], lr=0.01, eps=1e-6)
        control = LossScale(factor, divide=False) if factor else None
        if control:
            hang(control, optimizer)
        optimizer.zero_grad()
        loss = (weight * 1e-4).float().sum() * 1e-4
        (control.change(loss, optimizer) if control else loss).backward()
        optimizer.step()
        assert (float(weight.detach()) != 0.0) is moved


def test_an_overflow_is_left_out_and_halves_the_scale() -> None:
    weight = one(1.0, torch.float16)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    control = LossScale(2.0**10)
    hang(control, optimizer)
    for expected in (2.0**9, 2.0**8):
        train(control, weight, optimizer, 500.0)
        assert float(weight.detach()) == 1.0
        assert control.current(optimizer) == expected
    assert optimizer.param_groups[0][KEY]["loss-scale"]["skipped"] == 2
    train(control, weight, optimizer, 0.5)
    assert float(weight.detach()) == pytest.approx(0.95, rel=1e-3)


def test_the_scale_is_out_before_anything_clips_whatever_was_hung_first() -> None:
    weight = one(0.0)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    hang(ClipByNorm(10.0), optimizer)
    control = LossScale(1024.0)
    hang(control, optimizer)
    train(control, weight, optimizer, 5.0)
    assert float(weight.detach()) == pytest.approx(-5.0)
