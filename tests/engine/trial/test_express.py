"""A faster training that nobody notices: the same numbers, and everything back in its place."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from deep import batch, deep, far, train, values
from torch import Tensor, nn

from gradmend.controls import (
    ClipByNorm,
    ClipByPercentile,
    ClipByValue,
    ClipByZScore,
    ClipPerTensor,
    ClipPerUnit,
    Control,
    LayerRates,
    LossScale,
    WarmUp,
    hang,
)
from gradmend.engine.data import TrialData, trial_data
from gradmend.engine.state import Snapshot
from gradmend.engine.trial import Deadline
from gradmend.engine.trial.arm import Runner
from gradmend.engine.trial.express import Express, express
from gradmend.engine.trial.track import Track
from gradmend.probe.batch import Feeder

Make = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, weight_decay=0.1),
    "Adam, maximize": lambda p: torch.optim.Adam(p, lr=1e-3, maximize=True, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-4, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1e-1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-4),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=1e-3, max_iter=1),
}


class Looped(nn.Module):
    """Deep, but its layers are called in a loop of its own; each second may be left out."""

    def __init__(self, layers: int = 104, left_out: bool = False) -> None:
        super().__init__()
        found = [part for part in deep(layers=layers) if isinstance(part, nn.Linear)]
        self.first, self.last = found[0], found[-1]
        self.layers = nn.ModuleList(found[1:-1])
        self.left_out = left_out
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = torch.tanh(self.first(x))
        for at, layer in enumerate(self.layers):
            if not (self.left_out and at % 2 and self.calls % 2):
                x = torch.tanh(layer(x))
        return self.last(x)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, at: int, extra: Any = None) -> float:
    x, y = batch(at)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(model(x), y)
        loss = loss if extra is None else loss + extra(model)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        return float(optimizer.step(closure).detach())  # type: ignore[no-untyped-call]
    loss = closure()
    optimizer.step()
    return float(loss.detach())


def both(
    model: nn.Module, make: Make, extra: Any = None, more: Any = None, active: bool = True
) -> tuple[Any, Any]:
    """Losses, parameters and state of a training as ever, and of one of which half is lent."""
    results = []
    for lend in (False, True):
        twin = copy.deepcopy(model)
        optimizer = make(list(twin.parameters()))
        if more is not None:
            more(optimizer)
        losses = [step(twin, optimizer, 0, extra)]
        for spell in (range(1, 4), range(4, 6)):
            if lend:
                with express(twin, optimizer) as lent:
                    assert lent.active == active
                    losses += [step(twin, optimizer, at, extra) for at in spell]
            else:
                losses += [step(twin, optimizer, at, extra) for at in spell]
        losses.append(step(twin, optimizer, 9, extra))
        results.append((losses, values(twin), optimizer.state_dict()))
    return results[0], results[1]


def same(one: Any, other: Any, close: float = 1e-10) -> None:
    assert one[0] == pytest.approx(other[0], rel=close)
    assert far(one[1], other[1]) < close
    for group, found in zip(one[2]["param_groups"], other[2]["param_groups"], strict=True):
        assert group.keys() == found.keys()
        for key, option in group.items():
            assert str(option) == str(found[key]) or close_to(option, found[key])
    assert one[2]["state"].keys() == other[2]["state"].keys()
    for key, state in one[2]["state"].items():
        found = other[2]["state"][key]
        assert state.keys() == found.keys()
        for name, value in state.items():
            if isinstance(value, Tensor):
                assert value.dtype == found[name].dtype and value.shape == found[name].shape
                assert torch.allclose(value, found[name], rtol=1e-6, atol=1e-12)
            elif isinstance(value, list):  # the history of LBFGS
                assert len(value) == len(found[name])
            else:
                assert value == pytest.approx(found[name])


def close_to(one: Any, other: Any) -> bool:
    """Two controls' memories: plain numbers in nested dicts and lists."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close_to(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close_to, one, other))
    return bool(one == pytest.approx(other))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_comes_to_the_same(name: str) -> None:
    # GIVEN a deep net and an optimizer, elementwise or not
    # WHEN it is trained: two spells lent, the steps around them as ever
    plain, found = both(deep(), OPTIMIZERS[name], active=name != "LBFGS")
    # THEN losses, parameters and the optimizer's state are the same
    same(plain, found)


@pytest.mark.parametrize("name", ["Adam", "SGD, momentum", "Rprop"])
@pytest.mark.parametrize("left_out", [False, True])
def test_layers_in_a_loop_of_their_own(name: str, left_out: bool) -> None:
    # GIVEN a net that calls its layers itself, and perhaps not all of them each time
    # WHEN it is trained in both ways
    able = name != "Rprop"  # nothing to lay, and nothing that may be packed
    uneven = left_out and name == "Adam"  # by then some have taken fewer steps than others
    results = []
    for lend in (False, True):
        model = Looped(left_out=left_out)
        optimizer = OPTIMIZERS[name](model.parameters())
        losses = []
        for spell in ((0, 1), (2, 3, 4)):
            with express(model, optimizer) if lend else _nothing() as lent:
                assert lent is None or lent.active == (able and not (uneven and spell[0] == 2))
                losses += [step(model, optimizer, at) for at in spell]
        results.append((losses, values(model), optimizer.state_dict()))
    # THEN it comes to the same; layers that had no part in a step have no part in its count
    same(*results)


class _nothing:  # noqa: N801
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def penalty(model: nn.Module) -> Tensor:
    return 0.01 * torch.stack([p.square().sum() for p in list(model.parameters())[:40]]).sum()


def test_a_loss_that_looks_at_some_parameters() -> None:
    # GIVEN a penalty on some parameters: they have a gradient of their own beside the run's
    # WHEN, THEN as above
    same(*both(deep(), OPTIMIZERS["Adam"], extra=penalty))


def grouped(parameters: list[Tensor]) -> torch.optim.Optimizer:
    weights = [p for p in parameters if p.dim() > 1]
    biases = [p for p in parameters if p.dim() == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": 1e-2}]
    return torch.optim.AdamW(groups, lr=1e-3)


def split(parameters: list[Tensor]) -> torch.optim.Optimizer:
    groups = [{"params": parameters[:100]}, {"params": parameters[100:], "lr": 1e-2}]
    return torch.optim.SGD(groups, lr=1e-3, momentum=0.9)


def partial(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters[50:], lr=1e-3)


@pytest.mark.parametrize("make", [grouped, split, partial])
def test_groups(make: Make) -> None:
    # GIVEN groups that part weights from biases, or cut the run in two, or leave some layers out
    # WHEN, THEN as above
    same(*both(deep(), make))


@pytest.mark.parametrize(
    "control",
    [
        lambda: WarmUp(4),
        lambda: ClipByNorm(0.05),
        lambda: ClipByValue(-1e-3, 1e-3),
        lambda: ClipByPercentile(50.0),
        lambda: ClipByZScore(0.9, 0.5, 2, 0.1),
        lambda: ClipPerUnit(0.01, 1e-3, set()),
        lambda: ClipPerTensor(1.0, 0.9, 0.01, 2),
        lambda: LossScale(1024.0, divide=True),
    ],
)
def test_controls_see_what_they_must(control: Callable[[], Control]) -> None:
    # GIVEN what acts on gradients or rates at each step, some of it on each parameter by itself
    # WHEN, THEN as above
    same(*both(deep(), OPTIMIZERS["Adam"], more=lambda optimizer: hang(control(), optimizer)))


@pytest.mark.parametrize("inside", [False, True])
def test_layers_with_rates_of_their_own(inside: bool) -> None:
    # GIVEN a rate for both ends, or for one of the equal layers between them
    def hung(optimizer: torch.optim.Optimizer) -> None:
        held = optimizer.param_groups[0]["params"]
        apart = [held[100], held[101]] if inside else [held[0], held[1], held[-2], held[-1]]
        hang(LayerRates(apart, 10.0), optimizer)

    # WHEN, THEN as above
    same(*both(deep(), OPTIMIZERS["Adam"], more=hung))


def test_a_strange_hook_sees_every_parameter() -> None:
    # GIVEN somebody's hook that counts the gradients at each step
    seen: list[int] = []

    def count(optimizer: Any, *_: object) -> None:
        seen.append(sum(p.grad is not None for g in optimizer.param_groups for p in g["params"]))

    # WHEN trained in both ways
    same(*both(deep(), OPTIMIZERS["Adam"], more=lambda o: o.register_step_pre_hook(count)))
    # THEN it has seen the same each time
    assert len(set(seen)) == 1


def place(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Everything whose identity somebody may hold on to."""
    return (
        [(id(p), p.data_ptr(), p.requires_grad, p.is_leaf) for p in model.parameters()],
        [(id(m), dict(vars(m)).keys(), list(m._modules.values())) for m in model.modules()],
        [(id(g), id(g["params"]), {k: v for k, v in g.items() if k != "params"})
         for g in optimizer.param_groups],
        sorted(vars(optimizer)), list(optimizer._optimizer_step_pre_hooks),
        [set(s) for s in optimizer.state.values()],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["Adam", "SGD", "SGD, momentum", "Adagrad"])
@pytest.mark.parametrize("how", ["ends", "raises in it", "raises in a step"])
def test_everything_is_back_in_its_place(name: str, how: str) -> None:
    # GIVEN a deep net that has been trained a little
    model = deep()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    before, start = place(model, optimizer), values(model)
    # WHEN it is lent, trained, and given back in whatever way
    try:
        with express(model, optimizer) as lent:
            assert lent.active and place(model, optimizer) != before
            train(model, optimizer)
            trained = values(model)
            if how == "raises in it":
                raise KeyError
            if how == "raises in a step":
                model(torch.zeros(1, 2))
    except (KeyError, RuntimeError):
        pass
    # THEN all objects and addresses are as before, with the trained numbers, and once more
    assert place(model, optimizer) == before
    assert far(values(model), trained) == 0.0 < far(values(model), start)
    assert not lent.active
    with express(model, optimizer) as again:
        assert again.active


def shallow() -> nn.Module:
    return deep(layers=40)


def shared() -> nn.Module:
    model = deep()
    for part in model[2:-1]:
        if isinstance(part, nn.Linear):
            part.weight, part.bias = model[2].weight, model[2].bias
    return model


def frozen() -> nn.Module:
    model = deep()
    for at, p in enumerate(model.parameters()):
        p.requires_grad_(at < 4 or at > 200)
    return model


def hooked() -> nn.Module:
    model = deep()
    for p in model.parameters():
        p.register_hook(lambda grad: grad * 0.5)
    return model


def wide() -> nn.Module:
    return nn.Sequential(*(nn.Linear(257, 257, bias=False) for _ in range(100)))


def views() -> nn.Module:
    model = deep()
    model.kept = [p.detach() for p in model.parameters()]
    return model


@pytest.mark.parametrize("make", [shallow, shared, frozen, hooked, wide, views])
def test_what_must_not_be_lent_is_not_touched(make: Callable[[], nn.Module]) -> None:
    # GIVEN a net that is not deep, or whose parameters somebody else looks at
    model = make()
    optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    before = place(model, optimizer)
    # WHEN it is to be lent THEN nothing happens
    with express(model, optimizer) as lent:
        assert not lent.active
        assert place(model, optimizer) == before


def test_a_snapshot_puts_back_what_was_lent() -> None:
    # GIVEN a snapshot of a trained net, as a trial takes it
    model = deep()
    optimizer = OPTIMIZERS["Adam"](model.parameters())
    train(model, optimizer)
    start, state = values(model), copy.deepcopy(optimizer.state_dict())
    snapshot = Snapshot.take(model, optimizer)
    # WHEN it was lent, trained and put back
    with express(model, optimizer) as lent:
        assert lent.active
        train(model, optimizer)
    snapshot.put_back()
    # THEN it is as it was, bit for bit
    assert all(torch.equal(a, b) for a, b in zip(start, values(model), strict=True))
    same(([], start, state), ([], values(model), optimizer.state_dict()), 1e-300)


def test_a_copy_made_in_between_is_a_net_of_its_own() -> None:
    # GIVEN a net that is lent, and a copy that somebody makes of it
    model = deep()
    x = batch()[0]
    with express(model, torch.optim.SGD(model.parameters(), lr=1.0)) as lent:
        assert lent.lines
        twin = copy.deepcopy(model)
        expected = twin(x).detach()
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
    # THEN it has its own numbers
    assert torch.equal(twin(x), expected)


def data() -> TrialData:
    found = [batch(seed) for seed in range(6)]
    return trial_data(found, None)


def track(model: nn.Module, loss: Any = nn.functional.mse_loss) -> Track:
    return Track(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        feeder=Feeder(loss_fn=loss),
        data=data(),
        deadline=Deadline(steps=10**6),
    )


def trained(one: Track) -> Runner:
    arm = Runner(prescription=None, seed=0)
    one.begin()
    one.train([arm], (3, 6), "")
    return arm


def test_a_trial_trains_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a trial of a deep net
    lent: list[bool] = []
    engage = Express.engage

    def heard(self: Express) -> None:
        engage(self)
        lent.append(bool(self.lines) and self.active)

    monkeypatch.setattr(Express, "engage", heard)
    fast = trained(track(deep()))
    assert lent == [True]
    # WHEN nothing is lent
    monkeypatch.setattr(Express, "engage", lambda self: None)
    plain = trained(track(deep()))
    # THEN the arm has the same losses and scores
    assert [loss for _, loss in fast.losses] == pytest.approx([loss for _, loss in plain.losses])
    assert fast.scores == pytest.approx(plain.scores)
    assert fast.error is None and fast.steps == 6


def test_a_loss_that_needs_the_parameters_in_the_graph_is_trained_as_ever() -> None:
    # GIVEN a loss that asks for the gradient of a layer of the run: there is none where it is lent
    model = deep()
    inner = model[100].weight

    def loss(output: Tensor, y: Tensor) -> Tensor:
        value = nn.functional.mse_loss(output, y)
        if not value.requires_grad:
            return value
        (grad,) = torch.autograd.grad(value, inner, create_graph=True)
        return value + grad.square().sum()

    # WHEN an arm is trained on it
    arm = trained(track(model, loss))
    # THEN it is, layer by layer
    assert arm.error is None and arm.steps == 6
