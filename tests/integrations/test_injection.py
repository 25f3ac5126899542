"""A prescription injected into code that builds its model itself, against the same by hand."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradmend
from gradmend.integrations.injection import Injection, NothingTrained
from gradmend.probe.source import note_construction
from gradmend.records.prescription import Edit, Prescription
from gradmend.records.script import Place


class Net(nn.Module):
    """What a user writes, with a method that calls the whole."""

    scale = 2.0

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.act = nn.Sigmoid()
        self.last = nn.Linear(width, 3)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        out: Tensor = self.last(self.act(self.first(x)))
        return out

    def guess(self, x: Tensor) -> Tensor:
        return self(x).argmax(1)


X = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
Y = X[:, :3].argmax(1)

ACTIVATION = Edit(kind="replace_module", targets=("act",), args={"module": "ReLU"})
NORM = Edit(
    kind="insert_norm",
    targets=("first",),
    args={"norm": "LayerNorm", "features": [16], "dims": [0], "groups": [1]},
)
DRAW = Edit.initialise([("first.weight", "first.bias")], [1.4])
RATE = Edit(kind="scale_learning_rate", args={"factor": 0.5})
ENDS = Edit(kind="scale_layer_rates", targets=("first.weight",), args={"factor": 3.0})
CLIP = Edit(kind="clip_gradients", args={"method": "norm", "limit": 0.1})
WARM = Edit(kind="warm_up", args={"steps": 4})
DATA = Edit(kind="rescale_by_data", targets=("first", "last"))
INPUT = Edit(kind="standardise_input", targets=("",), args={"mean": [0.5], "std": [2.0]})
OUTPUT = Edit(kind="multiply_output", targets=("",), args={"factors": [0.5], "learned": True})
LOSS = Edit(kind="scale_loss", args={"factor": 64.0})


def prescription(*edits: Edit, model: str = "Net") -> Prescription:
    return Prescription(edits=edits, model=model)


@contextmanager
def injected(*edits: Edit, model: str = "Net", **options: Any) -> Iterator[Injection]:
    injection = Injection(prescription(*edits, model=model), **options)
    injection.open()
    try:
        yield injection
    finally:
        injection.close()


Loop = Callable[[nn.Module, torch.optim.Optimizer], list[float]]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any = None,
    steps: int = 6,
    change: Callable[[Tensor], Tensor] | None = None,
) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        losses.append(float(loss.detach()))
        (loss if change is None else change(loss)).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return losses


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def build(width: int = 16) -> Net:
    torch.manual_seed(3)
    return Net(width)


EVERY = {
    "an activation": (ACTIVATION,),
    "a norm": (NORM,),
    "weights": (DRAW,),
    "the rate": (RATE,),
    "the rates of layers": (RATE, ENDS),
    "clipping": (CLIP,),
    "a warm-up and the rate": (WARM, RATE),
    "the rate and a warm-up": (RATE, WARM),
    "all of the model": (DRAW, ACTIVATION, NORM, RATE, CLIP),
    "the input of the whole": (INPUT,),
    "the output of the whole": (OUTPUT,),
    "both ends": (INPUT, OUTPUT, ACTIVATION, RATE),
    "the loss": (LOSS,),
}


@pytest.mark.parametrize("edits", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_training_is_that_of_apply(edits: tuple[Edit, ...], kind: Any) -> None:
    # given the same by hand
    theirs = build()
    optimizer = kind(theirs.parameters(), lr=0.1)
    fixed = gradmend.apply(prescription(*edits), theirs, optimizer=optimizer)
    change = None
    if fixed.loss_fn is None and edits == (LOSS,):
        loss_fn = gradmend.apply(
            prescription(LOSS),
            (twin := build()),
            optimizer=(optimizer := kind(twin.parameters(), lr=0.1)),
            loss_fn=lambda out, batch: out,
        ).loss_fn
        assert loss_fn is not None
        fixed_model: nn.Module = twin
        change = lambda loss: loss_fn(loss, None)  # noqa: E731
    else:
        fixed_model = fixed.model
    expected = train(fixed_model, optimizer, change=change)
    draw = torch.rand(3)
    # when a script does it and knows nothing
    with injected(*edits) as injection:
        mine = build()
        optimizer = kind(mine.parameters(), lr=0.1)
        losses = train(mine, optimizer)
        drawn = torch.rand(3)
    # then every bit is the same, and the object is the one the script holds
    assert losses == expected and torch.equal(draw, drawn)
    assert same(mine, fixed_model)
    assert isinstance(mine, Net) and mine.guess(X).shape == (32,)
    assert [each.model for each in injection.applied] == ["Net"]


def test_without_it_nothing_is_left(fresh: None = None) -> None:
    # given what torch has
    held = (nn.Module.__init__, nn.Module._call_impl, torch.optim.Optimizer.__init__)
    held += (torch.compile, torch.optim.lr_scheduler.LRScheduler.__init__)
    held += (torch.autograd.backward, nn.Module.state_dict, torch.optim.Optimizer.zero_grad)
    # when one was open
    with injected(ACTIVATION):
        model = build()
        train(model, torch.optim.Adam(model.parameters()))
    # then all is as it was
    assert held == (
        nn.Module.__init__,
        nn.Module._call_impl,
        torch.optim.Optimizer.__init__,
        torch.compile,
        torch.optim.lr_scheduler.LRScheduler.__init__,
        torch.autograd.backward,
        nn.Module.state_dict,
        torch.optim.Optimizer.zero_grad,
    )


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "steps": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda e: 0.5**e),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=20),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6, eta_min=0.01),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("edits", [(RATE, NORM), (DATA, RATE), (NORM, DATA, RATE)])
def test_a_scheduler_goes_on_and_the_rate_lasts(
    make: Callable[[torch.optim.Optimizer], Any], edits: tuple[Edit, ...]
) -> None:
    rates = []

    class Heard(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    # given the rates that the script means
    plain = build()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    scheduler = make(optimizer)
    meant = []
    for _ in range(6):
        meant.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # when a script is treated, whenever its scheduler came
    with injected(*edits) as injection:
        model = build()
        mine = Heard(model.parameters(), lr=0.1)
        scheduler = make(mine)
        train(model, mine, scheduler)
    # then each step took half of it, in all groups, and the script sees its own
    assert injection.applied and len(rates) == 6
    assert [row[0] for row in rates] == pytest.approx([0.5 * rate for rate in meant])
    assert all(len(set(row)) == 1 for row in rates)
    assert mine.param_groups[0]["lr"] == pytest.approx(scheduler.get_last_lr()[0])


def test_rates_that_a_loop_writes_itself_are_scaled_too() -> None:
    heard = []
    with injected(RATE):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        optimizer.register_step_post_hook(lambda o, *_: heard.append(o.param_groups[0]["lr"]))
        before = model.last.bias.detach().clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.25
        model(X).sum().backward()
        optimizer.step()
    assert torch.equal(model.last.bias.detach(), before - 0.125 * model.last.bias.grad)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("edits", [(DATA,), (DRAW, DATA, ACTIVATION), (INPUT, DATA)])
def test_data_are_those_of_the_first_training_call(edits: tuple[Edit, ...]) -> None:
    # given the same by hand, on the first batch
    theirs = build()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1)
    fixed = gradmend.apply(
        prescription(*edits),
        theirs,
        optimizer=optimizer,
        batches=[X],
        forward=lambda model, batch: model(batch).sum(),
    )
    expected = train(fixed.model, optimizer)
    # when the script looks at another batch in evaluation before
    with injected(*edits) as injection:
        mine = build()
        optimizer = torch.optim.Adam(mine.parameters(), lr=0.1)
        mine.eval()
        mine(X * 3)
        with torch.no_grad():
            mine(X * 5)
        mine.train()
        assert not injection.applied
        losses = train(mine, optimizer)
    assert losses == expected and same(mine, fixed.model)


def test_a_model_used_by_parts_is_treated_before_its_first_part() -> None:
    theirs = build()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    gradmend.apply(prescription(NORM), theirs, optimizer=optimizer)

    def step(model: Net, optimizer: Any) -> float:
        loss = nn.functional.cross_entropy(model.last(model.act(model.first(X))), Y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    expected = step(theirs, optimizer)
    with injected(NORM):
        mine = build()
        optimizer = torch.optim.SGD(mine.parameters(), lr=0.1)
        assert step(mine, optimizer) == expected
    assert same(mine, theirs)


def test_what_was_a_whole_stays_itself_in_a_wrapper() -> None:
    with injected(OUTPUT, model="Net"):
        model = build()
        held, method = model, model.guess
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        train(model, optimizer)
    # what the class and the object say is what the inner one says
    assert held is model and model.seen == 6 and model.scale == 2.0
    model.seen = 0
    model(X)
    assert model.seen == 1 and "seen" not in vars(model)
    model.scale = 3.0
    assert model.inner.scale == 3.0
    # a method calls the whole
    with torch.no_grad():
        model.then.factor.fill_(-1.0) if hasattr(model.then, "factor") else None
        assert torch.equal(model.guess(X), model(X).argmax(1))
        assert torch.equal(method(X), model(X).argmax(1))
    # copies and pickles are such, too
    twin = copy.deepcopy(model)
    assert type(twin) is type(model) and same(twin, model) and torch.equal(twin(X), model(X))
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    assert same(loaded, model) and torch.equal(loaded(X), model(X)) and isinstance(loaded, Net)
    # a checkpoint is one of apply's
    again = gradmend.apply(prescription(OUTPUT), build()).model
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(X), model(X))


def test_a_container_is_counted_and_indexed_as_before() -> None:
    with injected(INPUT, model="Sequential"):
        model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
        layers = list(model)
        train(model, torch.optim.Adam(model.parameters()))
    assert type(model).__name__ == "Sequential" and len(model) == 3 and model[0] is layers[0]
    assert list(model) == layers and [k.split(".")[0] for k in model.state_dict()][-1] == "inner"
    model.append(nn.Softmax(1))
    assert torch.allclose(model(X).sum(1), torch.ones(32))


def test_a_second_model_of_the_class_gets_the_same() -> None:
    with injected(NORM, RATE) as injection:
        kept = []
        for _ in range(3):  # as in cross-validation
            model = build()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            losses = train(model, optimizer)
            kept.append((losses, model.state_dict()))
    assert len(injection.applied) == 3
    assert kept[0][0] == kept[1][0] == kept[2][0]
    assert all("first.then.weight" in state for _, state in kept)


def test_copies_without_optimizer_are_left_alone() -> None:
    with injected(ACTIVATION, DRAW) as injection:
        model = build()
        average, teacher = copy.deepcopy(model), build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, optimizer)
        late = copy.deepcopy(model)
        losses = train(late, torch.optim.SGD(late.parameters(), lr=0.1))
    assert isinstance(average.act, nn.Sigmoid) and isinstance(teacher.act, nn.Sigmoid)
    assert isinstance(late.act, nn.ReLU) and len(injection.applied) == 1
    assert losses == train_on(model)


def train_on(model: nn.Module) -> list[float]:
    return train(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_copy_that_is_trained_instead_is_treated() -> None:
    with injected(ACTIVATION) as injection:
        base = build()
        folds = [copy.deepcopy(base) for _ in range(2)]
        for fold in folds:
            train_on(fold)
    assert len(injection.applied) == 2
    assert all(isinstance(fold.act, nn.ReLU) for fold in folds)
    assert isinstance(base.act, nn.Sigmoid)


def test_an_optimizer_that_comes_later_is_edited_along() -> None:
    with injected(NORM, RATE, WARM) as injection:
        model = build()
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=2)
        second = torch.optim.SGD(model.parameters(), lr=1.0)
        before = model.last.bias.detach().clone()
        train(model, second, steps=1)
    # half the rate, and the first of four steps of warm-up
    assert model.last.bias.grad is not None
    step = 1.0 * 0.5 * 0.25 * model.last.bias.grad
    assert torch.equal(model.last.bias.detach(), before - step)
    assert len(injection.applied) == 1


def test_of_two_optimizers_the_one_with_most_is_edited() -> None:
    with injected(CLIP):
        model = build()
        head = torch.optim.SGD(model.last.parameters(), lr=0.1)
        torch.optim.lr_scheduler.StepLR(head, 1)  # too early: it holds too little
        body = torch.optim.SGD(model.first.parameters(), lr=0.1)
        nn.functional.cross_entropy(model(X), Y).backward()
        head.step()
        body.step()
    assert not head._optimizer_step_pre_hooks and len(body._optimizer_step_pre_hooks) == 1


@pytest.mark.parametrize("edits", [(NORM,), (OUTPUT, RATE), (DRAW,)])
@pytest.mark.parametrize("treated", [True, False])
def test_a_training_is_taken_up_again(edits: tuple[Edit, ...], treated: bool) -> None:
    def script(checkpoint: Any) -> tuple[Any, list[float], Any]:
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        if checkpoint is not None:
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
        losses = train(model, optimizer, steps=3)
        made = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return copy.deepcopy(made), losses, model

    # given a checkpoint of a training with the edits, or of one without
    with injected(*edits) if treated else nullcontext():
        checkpoint, _, before = script(None)
    # when a script goes on from there
    with injected(*edits) as injection:
        again, losses, _ = script(copy.deepcopy(checkpoint))
    assert len(injection.applied) == 1
    # then it is the edited model that goes on
    if treated:
        going_on = train(before, optimizer_with(before, checkpoint, edits), steps=3)
        assert losses == going_on
    elif edits == (NORM,):
        with torch.no_grad():
            assert losses[0] != float(nn.functional.cross_entropy(before(X), Y))
        assert "first.then.weight" in again["model"] and "first.inner.weight" in again["model"]
    elif edits == (DRAW,):
        with torch.no_grad():
            assert losses[0] == float(nn.functional.cross_entropy(before(X), Y))


def optimizer_with(model: nn.Module, checkpoint: Any, edits: tuple[Edit, ...]) -> Any:
    """As it was when the checkpoint was made: groups for what the edits added, the half rate."""
    fresh = build()
    optimizer = torch.optim.Adam(fresh.parameters(), lr=0.1)
    fixed = gradmend.apply(
        prescription(*(e for e in edits if e is not RATE)), fresh, optimizer=optimizer
    )
    twins = dict(zip(fixed.model.parameters(), model.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [twins[p] for p in group["params"]]
    optimizer.load_state_dict(checkpoint["optimizer"])
    if RATE in edits:
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
    return optimizer


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 16), nn.Sigmoid(), nn.Linear(16, 8)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.last(self.act(self.first(z)))
        return out


@pytest.mark.parametrize("name", ["Net", "Maker"])
def test_of_two_models_that_play_the_named_one_is_edited(name: str) -> None:
    with injected(ACTIVATION, CLIP, model=name) as injection:
        maker, critic = Maker(), build()
        of_maker = torch.optim.Adam(maker.parameters())
        of_critic = torch.optim.Adam(critic.parameters())
        for _ in range(3):
            of_critic.zero_grad()
            nn.functional.cross_entropy(critic(maker(X[:, :4]).detach()), Y).backward()
            of_critic.step()
            of_maker.zero_grad()
            critic(maker(X[:, :4])).sum().backward()
            of_maker.step()
    mine, other = (critic, maker) if name == "Net" else (maker, critic)
    assert isinstance(mine.act, nn.ReLU) and isinstance(other.act, nn.Sigmoid)
    assert len(injection.applied) == 1


def test_two_of_torchs_own_class_are_told_apart_by_what_they_hold() -> None:
    edit = Edit(kind="replace_module", targets=("3",), args={"module": "ReLU"})
    with injected(edit, model="Sequential") as injection:
        maker = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8))
        critic = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        for each in (maker, critic):
            optimizer = torch.optim.Adam(each.parameters())
            optimizer.zero_grad()
            critic(maker(X[:, :4])).sum().backward()
            optimizer.step()
    assert isinstance(critic[3], nn.ReLU) and len(injection.applied) == 1


@pytest.mark.parametrize("known", [True, False])
def test_two_that_hold_the_same_names_are_told_apart_by_their_line(known: bool) -> None:
    # given two sequences with what is named, one of them meant
    edit = Edit(kind="replace_module", targets=("1",), args={"module": "ReLU"})
    line = inspect.getsourcelines(play)[1] + 3
    place = Place(file=__file__, line=line) if known else None
    with injected(edit, model="Sequential", place=place) as injection:
        maker, critic = play()
    # then that one is edited; where nothing is known the first is, and it is said
    assert isinstance(critic[1], nn.ReLU) is known
    assert isinstance(maker[1], nn.ReLU) is not known
    (applied,) = injection.applied
    assert any("another Sequential has what is named" in note for note in applied.notes) != known


def play() -> tuple[nn.Sequential, nn.Sequential]:
    maker = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8))
    note_construction(maker)
    critic = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 1)); note_construction(critic)  # fmt: skip  # noqa: E501, E702
    of_maker = torch.optim.Adam(maker.parameters())
    of_critic = torch.optim.Adam(critic.parameters())
    for _ in range(2):
        for optimizer in (of_critic, of_maker):
            optimizer.zero_grad()
            critic(maker(X[:, :4])).sum().backward()
            optimizer.step()
    return maker, critic


def test_two_models_of_one_optimizer_are_edited_and_it_is_once() -> None:
    with injected(CLIP, RATE, ACTIVATION) as injection:
        one, other = build(), build()
        optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()], lr=0.1)
        optimizer.zero_grad()
        (one(X) + other(X)).sum().backward()
        optimizer.step()
    assert isinstance(one.act, nn.ReLU) and isinstance(other.act, nn.ReLU)
    assert len(injection.applied) == 2 and len(optimizer._optimizer_step_pre_hooks) == 2


def test_the_loss_of_another_model_is_left_alone() -> None:
    with injected(LOSS):
        model, other = build(), nn.Linear(8, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.optim.SGD(other.parameters(), lr=0.1)
        optimizer.zero_grad()
        other(X).sum().backward()
        nn.functional.cross_entropy(model(X), Y).backward()
        raw = model.last.bias.grad
        assert raw is not None and other.bias.grad is not None
        assert torch.equal(other.bias.grad, torch.full((3,), 32.0))
        grad = raw.clone()
        optimizer.step()
        assert torch.equal(model.last.bias.grad * 64.0, grad)


def test_lbfgs_trains_what_was_edited() -> None:
    def run() -> tuple[nn.Module, list[float]]:
        model = build()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
        return model, optimizer, []

    def train_closure(model: nn.Module, optimizer: Any) -> list[float]:
        losses = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            losses.append(float(loss.detach()))
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return losses

    theirs = build()
    optimizer = torch.optim.LBFGS(theirs.parameters(), lr=0.5, max_iter=3)
    gradmend.apply(prescription(ACTIVATION, DRAW), theirs, optimizer=optimizer)
    expected = train_closure(theirs, optimizer)
    with injected(ACTIVATION, DRAW):
        mine = build()
        losses = train_closure(mine, torch.optim.LBFGS(mine.parameters(), lr=0.5, max_iter=3))
    assert losses == expected and same(mine, theirs)


@pytest.mark.parametrize(
    ("edits", "model", "said"),
    [
        ((Edit(kind="replace_module", targets=("gone",), args={"module": "ReLU"}),), "Net", "gone"),
        ((Edit(kind="set_dropout", targets=("act",), args={"p": 0.1}),), "Net", "no dropout|not a"),
        ((ACTIVATION,), "Other", None),
        ((Edit(kind="drop_non_finite_samples"),), "Net", "batches"),
        ((Edit(kind="replace_module", targets=("gone",)),), "Other", "the script trains Net"),
    ],
)
def test_what_does_not_fit_ends_it_untrained(
    edits: tuple[Edit, ...], model: str, said: str | None
) -> None:
    with injected(*edits, model=model) as injection:
        net = build()
        before = copy.deepcopy(net.state_dict())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        if said is None:  # a class of another name with all that is named: it is taken
            train(net, optimizer)
            assert isinstance(net.act, nn.ReLU) and injection.applied
            return
        for _ in range(2):  # a script that swallows it does not train either
            with pytest.raises(NothingTrained) as stop:
                train(net, optimizer)
            assert stop.value.code == 2
    assert injection.refused is not None
    import re

    assert re.search(said, injection.refused), injection.refused
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("edits", [(NORM,), (OUTPUT,), (DATA,)])
@pytest.mark.parametrize("before", [True, False])
def test_a_compiled_model_computes_as_edited(edits: tuple[Edit, ...], before: bool) -> None:
    theirs = build()
    of_theirs = torch.optim.SGD(theirs.parameters(), lr=0.1)
    fixed = gradmend.apply(
        prescription(*edits), theirs, optimizer=of_theirs, batches=[X],
        forward=lambda model, batch: model(batch).sum(),
    )  # fmt: skip
    expected = train(fixed.model, of_theirs, steps=3)
    with injected(*edits) as injection:
        mine: Any = build()
        if before:
            compiled = torch.compile(mine, backend="eager")
            optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
        else:
            optimizer = torch.optim.SGD(mine.parameters(), lr=0.1)
            compiled = torch.compile(mine, backend="eager")
        losses = train(compiled, optimizer, steps=3)
    assert injection.applied and losses == pytest.approx(expected)
    assert same(mine, fixed.model)
