"""The first value that is no number: which module, operation and step."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from loops import data
from torch import Tensor, nn

import gradmend
from gradmend.records.watched import FirstBadValue


class Net(nn.Module):
    """A layer in the middle does something at one step."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.middle = Middle(spoil)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.middle(self.first(x))))


class Middle(nn.Module):
    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spoil = spoil
        self.now = False

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(x) if self.now else x.relu()


def first_bad(
    spoil: Callable[[Tensor], Tensor] = torch.relu,
    loss_fn: Callable[[Tensor, Tensor, bool], Tensor] | None = None,
    *,
    budget: str = "all",
    after: Callable[[Net, Tensor], None] | None = None,
) -> FirstBadValue | None:
    torch.manual_seed(0)
    net = Net(spoil)
    opt = torch.optim.SGD(net.parameters(), 0.01)
    with gradmend.watch(net, opt, budget=budget, looks=False) as watch:
        for step in range(10):
            x, y = data(step)
            net.middle.now = step == 6
            opt.zero_grad()
            out = net(x)
            loss = F.cross_entropy(out, y) if loss_fn is None else loss_fn(out, y, step == 6)
            loss.backward()
            if after is not None and step == 6:
                after(net, x)
            opt.step()
    assert watch.observer.failures == []
    report = watch.report()
    assert report.watched is not None
    return report.watched.first_bad


@pytest.mark.parametrize("budget", ["all", "2%"])
@pytest.mark.parametrize(
    ("spoil", "operation"),
    [
        (lambda x: (x - x).log(), "log"),
        (lambda x: (1000 * x.abs()).exp(), "exp"),
        (lambda x: x / (x - x), "div"),
        (lambda x: (-x.abs()).sqrt(), "sqrt"),
    ],
)
def test_a_forward_operation_is_found(
    spoil: Callable[[Tensor], Tensor], operation: str, budget: str
) -> None:
    bad = first_bad(spoil, budget=budget)
    assert bad is not None
    assert (bad.step, bad.last_good, bad.direction) == (6, 5, "forward")
    assert bad.module == "middle" and bad.operation == operation
    assert bad.replayed and bad.batch == (16, 8)
    assert bad.source is not None and "test_first_bad.py" in bad.source


def test_a_gradient_that_is_infinite_behind_a_finite_loss() -> None:
    bad = first_bad(lambda x: (x - x).abs().sqrt())  # d sqrt at 0
    assert bad is not None and bad.step == 6
    assert bad.direction == "backward" and bad.module == "middle" and bad.replayed
    assert bad.operation == "sqrt"


def test_a_loss_outside_modules_is_told_by_its_operations() -> None:
    def loss(out: Tensor, y: Tensor, now: bool) -> Tensor:
        p = out.softmax(1)
        return -((p * 0 if now else p)[torch.arange(len(y)), y].log()).mean()

    bad = first_bad(loss_fn=loss)
    assert bad is not None and bad.step == 6 and bad.direction == "loss"
    assert "log" in bad.operation and bad.module == ""
    assert bad.source is not None and "test_first_bad.py" in bad.source


def test_a_batch_changed_in_place_cannot_be_replayed() -> None:
    bad = first_bad(lambda x: x.log(), after=lambda net, x: x.zero_().detach_())
    assert bad is not None
    assert not bad.replayed and "changed in place" in bad.why


def test_a_healthy_run_has_none() -> None:
    assert first_bad() is None


def test_only_the_first_is_kept_and_replays_are_few() -> None:
    net = nn.Linear(8, 3)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    with gradmend.watch(net, opt, budget="all", looks=False) as watch:
        for step in range(30):
            x, y = data(step)
            opt.zero_grad()
            (F.cross_entropy(net(x), y) * float("nan")).backward()
            opt.step()
    bad = watch.report().watched.first_bad  # type: ignore[union-attr]
    assert bad is not None and bad.step == 0 and bad.last_good == -1
    assert len(list(watch.history().of_kind("non-finite"))) <= 3


def test_overflow_that_the_scaler_skips_is_no_first_bad_value() -> None:
    net = nn.Linear(8, 3)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    amp = torch.amp.GradScaler("cpu", init_scale=4.0)
    with gradmend.watch(net, opt, budget="all", looks=False) as watch:
        for step in range(6):
            x, y = data(step)
            opt.zero_grad()
            amp.scale(F.cross_entropy(net(x), y)).backward()
            if step < 2:
                net.weight.grad.fill_(float("inf"))  # type: ignore[union-attr]
            amp.step(opt)
            amp.update()
    assert watch.report().watched.first_bad is None  # type: ignore[union-attr]
    assert watch.report().watched.skipped_steps == pytest.approx(2 / 6)  # type: ignore[union-attr]
