"""A snapshot puts everything back: bits, objects, random state."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradmend.engine.state import Progress, Snapshot, randomness, seed_randomness, set_randomness

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


class Noisy(nn.Module):
    """Dropout, batch norm, a counter, a buffer given anew, a frozen layer, an unused head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3)
        self.frozen, self.head, self.idle = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.frozen.requires_grad_(False)
        self.drop.eval()
        self.calls = 0
        self.register_buffer("ema", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = self.norm(self.layer(x)) + 0.01 * float(np.random.rand()) + 0.01 * random.random()
        self.ema = 0.9 * self.ema + 0.1 * h.detach().mean(dim=0)  # a new tensor each time
        h = torch.relu(self.frozen(self.drop(h)))
        result: Tensor = self.head(h + 0.01 * torch.randn_like(h))
        return result


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    x, y = torch.randn(8, 4, generator=torch.Generator().manual_seed(7)), torch.arange(8) % 2
    for _ in range(steps):

        def closure() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        losses.append(float(optimizer.step(closure).detach()))
    return losses


class Frozen:
    """Every bit and object that a training could change."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.tensors = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
        self.grads = [(p.grad, None if p.grad is None else p.grad.clone())
                      for p in model.parameters()]  # fmt: skip
        self.plain = [
            {k: v for k, v in vars(m).items() if isinstance(v, bool | int | float)}
            for m in model.modules()
        ]
        self.groups = [(g, dict(g)) for g in optimizer.param_groups]
        self.state_object = optimizer.state
        self.state = {p: (s, clone(s)) for p, s in optimizer.state.items()}
        self.noise = randomness()

    def assert_same(self) -> None:
        now = [*self.model.parameters(), *self.model.buffers()]
        assert len(now) == len(self.tensors)
        for tensor, (same, bits) in zip(now, self.tensors, strict=True):
            assert tensor is same
            assert torch.equal(tensor, bits)
        for parameter, (grad, bits) in zip(self.model.parameters(), self.grads, strict=True):
            assert parameter.grad is grad
            assert grad is None or torch.equal(grad, bits)
        for module, plain in zip(self.model.modules(), self.plain, strict=True):
            assert {k: vars(module).get(k) for k in plain} == plain
        assert len(self.optimizer.param_groups) == len(self.groups)
        for group, (same, content) in zip(self.optimizer.param_groups, self.groups, strict=True):
            assert group is same
            assert list(group) == list(content)
            assert all(group[k] is content[k] for k in content)
        assert self.optimizer.state is self.state_object
        assert list(self.optimizer.state) == list(self.state)
        for parameter, (same, values) in self.state.items():
            assert self.optimizer.state[parameter] is same
            assert equal(same, values)
        assert_noise(self.noise)


def assert_noise(was: Any) -> None:
    now = randomness()
    assert now[0] == was[0]
    assert now[1][0] == was[1][0]
    assert (now[1][1] == was[1][1]).all()
    assert now[1][2:] == was[1][2:]
    assert torch.equal(now[2], was[2])


def clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: clone(v) for k, v in value.items()}
    return [clone(v) for v in value] if isinstance(value, list) else value


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def pair(name: str, warm: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(2)
    model = Noisy()
    optimizer = OPTIMIZERS[name](p for p in model.parameters() if p.requires_grad)
    train(model, optimizer, warm)
    return model, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("warm", [0, 3])
def test_put_back_restores_every_bit_and_object(name: str, warm: int) -> None:
    # GIVEN a model, fresh or in the middle of its training
    model, optimizer = pair(name, warm)
    before = Frozen(model, optimizer)
    # WHEN it is saved, trained, its rate changed, its mode flipped
    shot = Snapshot.take(model, optimizer)
    losses = train(model, optimizer, 5)
    assert losses[0] != losses[-1]
    model.eval()
    optimizer.param_groups[0]["lr"] = 123.0
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]}) if name != "lbfgs" else 0
    shot.put_back()
    # THEN nothing shows
    before.assert_same()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_training_is_the_same_training_again(name: str) -> None:
    # GIVEN a snapshot WHEN one trains, restores, and trains with the same seed again
    model, optimizer = pair(name)
    shot = Snapshot.take(model, optimizer)
    runs = []
    for _ in range(2):
        seed_randomness(5)
        runs.append((train(model, optimizer, 4), [p.clone() for p in model.parameters()]))
        shot.restore()
    # THEN both are the same, bit for bit
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))
    shot.put_back()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_progress_goes_on_where_it_stopped(name: str) -> None:
    # GIVEN a training of seven steps in one go
    model, optimizer = pair(name)
    shot = Snapshot.take(model, optimizer)
    seed_randomness(5)
    whole = train(model, optimizer, 7)
    end = [t.clone() for t in (*model.parameters(), *model.buffers())]
    calls = model.calls
    shot.restore()
    # WHEN it is stopped after three, put back, and resumed
    seed_randomness(5)
    first = train(model, optimizer, 3)
    progress = Progress.take(model, optimizer)
    shot.restore()
    seed_randomness(99)
    progress.resume(model, optimizer)
    # THEN it is the same training: weights, buffers, counters, optimizer state and noise
    assert first + train(model, optimizer, 4) == whole
    now = [*model.parameters(), *model.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(now, end, strict=True))
    assert model.calls == calls
    shot.put_back()


def test_what_the_optimizer_trains_beside_the_model_is_put_back_too() -> None:
    # GIVEN a loss with a temperature of its own and a buffer, in the same optimizer
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))
            self.register_buffer("seen", torch.zeros(()))

    model, loss, loose = nn.Linear(3, 2), Loss(), nn.Parameter(torch.ones(2))
    own = [*model.parameters(), *loss.parameters(), loose]
    optimizer = torch.optim.Adam(own, lr=0.1)
    shot = Snapshot.take(model, optimizer, [loss])
    for parameter in own:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    loss.seen.add_(1)
    shot.put_back()
    assert float(loss.temperature.detach()) == 1.0
    assert float(loss.seen) == 0.0
    assert torch.equal(loose.detach(), torch.ones(2))
    assert all(p.grad is None for p in own)


def test_an_optimizer_that_keeps_progress_in_its_groups_resumes_it() -> None:
    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            self.param_groups[0]["taken"] = self.param_groups[0].get("taken", 0) + 1
            return super().step(closure)

    model = Noisy()
    optimizer = Counting([p for p in model.parameters() if p.requires_grad], lr=0.1)
    shot = Snapshot.take(model, optimizer)
    train(model, optimizer, 3)
    progress = Progress.take(model, optimizer)
    shot.restore()
    assert "taken" not in optimizer.param_groups[0]
    progress.resume(model, optimizer)
    assert optimizer.param_groups[0]["taken"] == 3
    shot.put_back()


def test_a_model_without_an_optimizer_can_be_saved() -> None:
    model = nn.Linear(2, 2)
    bits = model.weight.detach().clone()
    shot = Snapshot.take(model, None)
    with torch.no_grad():
        model.weight.zero_()
    shot.put_back()
    assert torch.equal(model.weight.detach(), bits)


def test_seeding_makes_all_generators_repeat_and_setting_puts_them_back() -> None:
    was = randomness()

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_randomness(3)
    first = drawn()
    seed_randomness(3)
    assert drawn() == first
    seed_randomness(4)
    assert drawn() != first
    set_randomness(was)
    assert_noise(was)
