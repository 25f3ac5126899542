"""A look leaves every bit as it was, also when something raises on the way."""

from __future__ import annotations

import collections
import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from probe_models import MODELS, Written, mlp_part, xy
from probe_twins import change, flat
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

import gradmend
from gradmend.errors import BadInput
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.zoo import build

GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_")]


def bits(value: Any) -> Any:
    """A value that compares equal only for the same bits, as deep as plain containers go."""
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().reshape(-1)
        return (
            "tensor", id(value), value.dtype, tuple(value.shape), value.requires_grad,
            value._version, raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"",
            None if not value.is_leaf else bits(value.grad),
        )  # fmt: skip
    if isinstance(value, dict):
        inside = [(key, bits(item)) for key, item in value.items()]
        return (type(value), id(value), inside)
    if isinstance(value, list | tuple | collections.deque):
        return (type(value), id(value), [bits(item) for item in value])
    if isinstance(value, np.ndarray):
        return (id(value), value.tobytes())
    if isinstance(value, torch.Generator):
        return (id(value), bits_of_state(value.get_state()))
    if isinstance(value, np.random.Generator):
        return (id(value), repr(value.bit_generator.state))
    if isinstance(value, set):
        return (id(value), sorted(map(repr, value)))
    if isinstance(value, int | float | str | bool | None):
        return value
    return id(value)


def bits_of_state(state: Tensor) -> bytes:
    return state.numpy().tobytes()


def everything(*roots: nn.Module, batch: Any = None) -> list[Any]:
    """All that a look must not change."""
    found: list[Any] = [
        bits_of_state(torch.get_rng_state()),
        random.getstate(),
        repr(np.random.get_state()),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        {name: bits(getattr(torch_module, name)) for name in GLOBAL_HOOKS},
        torch.utils.checkpoint.CheckpointFunction.__dict__.keys(),
        [bits(tensor) for tensor in flat(batch)],
    ]
    for root in roots:
        for path, module in root.named_modules():
            found.append((path, id(module), type(module), bits(module.__dict__)))
    return found


def assert_untouched(
    act: Callable[[], Any], *roots: nn.Module, batch: Any = None, raises: Any = None
) -> Any:
    before = everything(*roots, batch=batch)
    result = None
    if raises is None:
        result = act()
    else:
        with pytest.raises(raises):
            act()
    after = everything(*roots, batch=batch)
    for old, new in zip(before, after, strict=True):
        assert old == new
    return result


def looking(model: nn.Module, batch: Any, loss_fn: Any = None, **kw: Any) -> Callable[[], Any]:
    return lambda: look(
        model, batch, Feeder(loss_fn=loss_fn, forward=kw.pop("forward", None)), **kw
    )


@pytest.mark.parametrize("name", [*MODELS])
def test_a_look_leaves_no_mark(name: str) -> None:
    model, batch, loss_fn, forward = MODELS[name]()
    # GIVEN a model in the middle of its training: gradients there, one missing
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn_like(parameter) if number else None
    assert_untouched(looking(model, batch, loss_fn, forward=forward), model, batch=batch)


@pytest.mark.parametrize("precision", ["float64", "native"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer", "recurrent"])
def test_a_look_at_a_specimen_leaves_no_mark(name: str, precision: str) -> None:
    args = {"mlp": {"norm": "batch", "activation": "relu_inplace"}}.get(name, {})
    s = build(name, **args)
    batch = s.batch
    assert_untouched(looking(s.model, batch, s.loss_fn, precision=precision), s.model, batch=batch)


class Messy(nn.Module):
    """Writes down whatever it can while it runs."""

    def __init__(self, fails: BaseException | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.3)
        self.last_layer = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6))
        self.fails = fails
        self.calls = 0
        self.history: list[Tensor] = []
        self.nested: dict[str, Any] = {"a": [1, {"b": [2]}], "t": (torch.ones(2), [torch.ones(2)])}
        self.ordered = collections.OrderedDict(x=1)
        self.queue: collections.deque[int] = collections.deque(maxlen=3)
        self.counter = collections.Counter("aab")
        self.tags: set[str] = {"a"}
        self.mask = torch.ones(6)
        self.array = np.zeros(3)
        self.torch_generator = torch.Generator().manual_seed(3)
        self.numpy_generator = np.random.default_rng(3)
        self.unregistered = [nn.BatchNorm1d(6)]

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        self.calls += 1
        self.seen += 1
        h = self.drop(self.norm(self.first(x)))
        self.mean.lerp_(h.detach().mean(0), 0.1)
        self.mean = self.mean + 1
        self.history.append(h)
        self.nested["a"][1]["b"].append(3)
        self.nested["new"] = h
        self.nested["t"][1][0].add_(1)
        self.nested["t"][0].add_(1)
        self.ordered["y"] = 2
        self.queue.append(self.calls)
        self.counter.update("c")
        self.tags.add("b")
        self.mask[0] += 1.0
        self.array += 1
        self.latest = h
        self.eval()
        self.first.weight.grad = torch.ones(6, 6)
        self.first.weight.data.mul_(2.0)
        self.register_forward_hook(lambda *_: None)
        self.extra = nn.Linear(2, 2)
        torch.set_default_dtype(torch.float32)
        random.random()
        np.random.rand()
        torch.rand(1, generator=self.torch_generator)
        self.numpy_generator.random()
        h = self.unregistered[0](h) * self.mask
        if self.fails is not None:
            torch.set_default_dtype(torch.float16)
            torch.set_grad_enabled(False)
            raise self.fails
        return self.last_layer(h)


def test_a_model_that_writes_everywhere_is_put_back() -> None:
    model, batch = Messy(), xy()
    helper = model.unregistered[0]
    assert_untouched(looking(model, batch, F.cross_entropy), model, helper, batch=batch)
    assert not hasattr(model, "latest")
    assert model.training


@pytest.mark.parametrize(
    ("error", "raises"),
    [
        (ValueError("no"), BadInput),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(3), SystemExit),
    ],
    ids=["ValueError", "KeyboardInterrupt", "SystemExit"],
)
def test_a_model_that_raises_mid_forward_is_put_back(error: BaseException, raises: Any) -> None:
    model, batch = Messy(error), xy()
    helper = model.unregistered[0]
    act = looking(model, batch, F.cross_entropy)
    assert_untouched(act, model, helper, batch=batch, raises=raises)


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), KeyboardInterrupt()], ids=repr)
def test_a_loss_that_raises_leaves_no_mark(error: BaseException) -> None:
    model, batch = Messy(), xy()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        raise error

    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else BadInput
    assert_untouched(looking(model, batch, loss), model, batch=batch, raises=expected)


def test_a_backward_that_raises_leaves_no_mark() -> None:
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise ZeroDivisionError("in backward")

    model = nn.Sequential(nn.Linear(6, 3), Written(lambda s, x: Breaks.apply(x)))
    batch = xy()
    act = looking(model, batch, F.cross_entropy)
    assert_untouched(act, model, batch=batch, raises=BadInput)


def test_users_forward_hooks_run_and_backward_hooks_do_not() -> None:
    model, batch = mlp_part(), (torch.randn(5, 6), torch.randn(5, 6))
    ran: list[str] = []
    model[0].register_forward_hook(lambda *_: ran.append("forward"))
    model[0].register_forward_pre_hook(lambda *_: ran.append("pre"))
    model[0].register_full_backward_hook(lambda *_: ran.append("backward"))
    model[0].register_full_backward_pre_hook(lambda *_: ran.append("backward pre"))
    model[0].weight.register_hook(lambda g: ran.append("weight"))
    model[0].weight.register_post_accumulate_grad_hook(lambda p: ran.append("accumulated"))
    assert_untouched(looking(model, batch, F.mse_loss), model, batch=batch)
    assert set(ran) == {"forward", "pre"}
    # AND they are still there
    ran.clear()
    F.mse_loss(model(batch[0].requires_grad_()), batch[1]).backward()
    assert set(ran) == {"forward", "pre", "backward", "backward pre", "weight", "accumulated"}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_keep_their_flat_weights(kind: type[nn.RNNBase]) -> None:
    model = Written(lambda s, x: s.body(x)[0].mean(1), body=kind(6, 3, batch_first=True))
    flat_weights = list(model.body._flat_weights)
    batch = (torch.randn(4, 5, 6), torch.randint(3, (4,)))
    assert_untouched(looking(model, batch, F.cross_entropy), model, batch=batch)
    for new, old in zip(model.body._flat_weights, flat_weights, strict=True):
        assert new is old
    assert all(
        a is b for a, b in zip(model.body._flat_weights, model.body.parameters(), strict=True)
    )


def test_old_style_spectral_and_weight_norm_are_put_back() -> None:
    with pytest.warns(FutureWarning):
        normed = nn.utils.weight_norm(nn.Linear(6, 6))
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 6)), nn.Tanh(), normed)
    batch = (torch.randn(4, 6), torch.randn(4, 6))
    model(batch[0])
    assert_untouched(looking(model, batch, F.mse_loss), model, batch=batch)


def test_parameter_lists_and_dicts_are_put_back() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        for weight in s.ws:
            x = torch.tanh(x @ weight)
        return x @ s.named["out"]

    model = Written(
        run,
        ws=nn.ParameterList(torch.randn(6, 6) / 2 for _ in range(3)),
        named=nn.ParameterDict({"out": torch.randn(6, 3)}),
    )
    batch = xy()
    trace = assert_untouched(looking(model, batch, F.cross_entropy), model, batch=batch)
    assert all(p.reached for p in trace.parameters)
    assert len(trace.parameters) == 4


def test_parameters_kept_in_a_plain_list_as_well_are_reached() -> None:
    # GIVEN a model that reads its registered parameters through a list of its own
    class Fast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
            self.weights = [self.a.weight, self.b.weight]

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = torch.tanh(x @ weight.T)
            return x

    model, batch = Fast(), xy()
    trace = assert_untouched(looking(model, batch, F.cross_entropy), model, batch=batch)
    reached = {p.name: p.reached for p in trace.parameters}
    assert reached == {"a.weight": True, "a.bias": False, "b.weight": True, "b.bias": False}


def test_a_compiled_model_is_looked_at_through_its_original() -> None:
    model, batch = mlp_part(), (torch.randn(5, 6), torch.randn(5, 6))
    compiled = torch.compile(model, backend="eager")
    plain = look(model, batch, Feeder(loss_fn=F.mse_loss))
    trace = assert_untouched(looking(compiled, batch, F.mse_loss), model, batch=batch)
    assert trace.total_decades == plain.total_decades
    assert any("torch.compile" in note for note in trace.notes)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo's, in the user's own call
@pytest.mark.parametrize("how", ["child", "in place"])
def test_compiled_parts_run_eagerly_under_a_look(how: str) -> None:
    # GIVEN a model that was compiled in part, or by model.compile(), and has already run
    inner = mlp_part()
    batch = (torch.randn(5, 6), torch.randn(5, 6))
    plain = look(nn.Sequential(nn.Linear(6, 6), inner), batch, Feeder(loss_fn=F.mse_loss))
    if how == "child":
        model = nn.Sequential(nn.Linear(6, 6), torch.compile(inner, backend="eager"))
    else:
        model = nn.Sequential(nn.Linear(6, 6), inner)
        model.compile(backend="eager")
    model(batch[0])
    trace = assert_untouched(looking(model, batch, F.mse_loss), model, batch=batch)
    assert [op.name for op in trace.operations] == [op.name for op in plain.operations]
    assert len({op.module for op in trace.weights}) == 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same_trace(mode: Any) -> None:
    model, batch = mlp_part(), (torch.randn(5, 6), torch.randn(5, 6))
    expected = look(model, batch, Feeder(loss_fn=F.mse_loss))
    with mode():
        made_here = change(batch, lambda t: t.clone())
        for fed in (batch, made_here):
            trace = assert_untouched(looking(model, fed, F.mse_loss), model)
            assert trace.total_decades == expected.total_decades


def test_frozen_parameters_stay_frozen_and_count_as_such() -> None:
    model, batch = mlp_part(), (torch.randn(5, 6), torch.randn(5, 6))
    model[0].requires_grad_(False)
    trace = assert_untouched(looking(model, batch, F.mse_loss), model, batch=batch)
    frozen = {p.name: (p.trainable, p.reached, p.log10_grad is None) for p in trace.parameters}
    assert frozen["0.weight"] == (False, False, True)
    assert frozen["2.weight"] == (True, True, False)
    assert trace.total_decades is not None


def test_eval_mode_is_looked_at_as_it_is() -> None:
    s = build("mlp", norm="batch")
    s.model.eval()
    batch = s.batch
    trace = assert_untouched(looking(s.model, batch, s.loss_fn), s.model, batch=batch)
    assert not trace.run.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precision", ["auto", "native"])
def test_models_of_other_number_types(dtype: torch.dtype, precision: str) -> None:
    model = mlp_part().to(dtype)
    batch = (torch.randn(5, 6, dtype=dtype), torch.randn(5, 6, dtype=dtype))
    act = looking(model, batch, F.mse_loss, precision=precision)
    trace = assert_untouched(act, model, batch=batch)
    assert trace.run.dtype == str(dtype).removeprefix("torch.")
    wide = look(copy.deepcopy(model).double(), change(batch, Tensor.double), Feeder(F.mse_loss))
    # half the digits of its type remain after a dozen roundings
    tolerance = 1e-12 if precision == "auto" or dtype == torch.float64 else 0.05
    assert trace.total_decades == pytest.approx(wide.total_decades, abs=tolerance)


def test_complex_parameters_are_looked_at() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        h = torch.fft.rfft(s.a(x))
        return s.b(torch.fft.irfft((h.unsqueeze(1) @ s.w).squeeze(1) * s.v, n=6))

    model = Written(
        run,
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 3),
        w=nn.Parameter(torch.randn(4, 4, dtype=torch.complex64)),
        v=nn.Parameter(torch.randn(4, dtype=torch.complex64)),
    )
    batch = xy()
    trace = assert_untouched(looking(model, batch, F.cross_entropy), model, batch=batch)
    assert trace.run.probe_dtype == "float64"
    assert {p.name: p.reached for p in trace.parameters}["w"]


def test_modules_that_the_loss_closes_over_are_left_alone() -> None:
    # GIVEN a teacher with batch norm in train mode, used by a closure and as a global would be
    model, teacher = mlp_part(), nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    for parameter in teacher.parameters():
        parameter.grad = torch.ones_like(parameter)
    batch = (torch.randn(5, 6), torch.randn(5, 6))

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(out, teacher(y))

    trace = assert_untouched(looking(model, batch, loss), model, teacher, batch=batch)
    assert trace.run.probe_dtype == "float64"

    class Trainer:
        def __init__(self) -> None:
            self.teacher = teacher

        def step(self, m: nn.Module, b: Any) -> Tensor:
            return F.mse_loss(m(b[0]), self.teacher(b[1]))

    act = looking(model, batch, forward=Trainer().step)
    assert_untouched(act, model, teacher, batch=batch)
    assert_untouched(
        lambda: gradmend.check(model, batch, loss, steps=2), model, teacher, batch=batch
    )


def test_a_loss_module_with_parameters_is_left_alone() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(6))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return ((out - y).square() * self.log_scale.exp()).mean()

    model, loss, batch = mlp_part(), Weighted(), (torch.randn(5, 6), torch.randn(5, 6))
    assert_untouched(looking(model, batch, loss), model, loss, batch=batch)
    assert_untouched(lambda: gradmend.check(model, batch, loss, steps=3), model, loss, batch=batch)


@dataclass(frozen=True)
class Data:
    x: Tensor
    y: Tensor


@pytest.mark.parametrize("form", ["dataclass", "defaultdict", "nested", "named tuple"])
def test_batches_of_any_form_are_copied_before_a_model_writes_into_them(form: str) -> None:
    model = Messy()
    x, y = xy()
    pair = collections.namedtuple("pair", "x y")
    batch: Any = {
        "dataclass": Data(x, y),
        "defaultdict": collections.defaultdict(list, x=x, y=y),
        "nested": [{"deep": (x, [y])}],
        "named tuple": pair(x, y),
    }[form]

    def forward(m: nn.Module, b: Any) -> Tensor:
        if form == "nested":
            return F.cross_entropy(m(b[0]["deep"][0]), b[0]["deep"][1][0])
        if form == "defaultdict":
            return F.cross_entropy(m(b["x"]), b["y"])
        return F.cross_entropy(m(b.x), b.y)

    trace = assert_untouched(looking(model, batch, forward=forward), model, batch=[x, y])
    assert trace.ledger is not None
    assert trace.ledger.start == "the inputs"


@pytest.mark.parametrize("steps", [0, 5])
def test_check_leaves_no_mark(steps: int) -> None:
    model, batch = Messy(), xy()
    helper = model.unregistered[0]
    report = assert_untouched(
        lambda: gradmend.check(model, batch, F.cross_entropy, steps=steps),
        model, helper, batch=batch,
    )  # fmt: skip
    assert (report.after is not None) == bool(steps)
    if steps:
        assert report.after.run.step == steps
        assert report.after.run.loss != report.trace.run.loss


def test_check_with_steps_learns_on_the_shadow_only() -> None:
    s = build("mlp", norm="batch")
    batch = s.batch
    report = assert_untouched(
        lambda: gradmend.check(s.model, batch, s.loss_fn, steps=20, learning_rate=1e-2),
        s.model, batch=batch,
    )  # fmt: skip
    assert report.after is not None
    assert report.after.run.loss is not None
    assert report.trace.run.loss is not None
    assert report.after.run.loss < 0.5 * report.trace.run.loss


def test_a_look_draws_the_numbers_that_the_next_forward_would_draw() -> None:
    # GIVEN dropout: the look sees the very masks the user's next step will see
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    x, y = xy()
    trace = look(model, (x.double(), y), Feeder(loss_fn=F.cross_entropy))
    assert trace.run.loss == pytest.approx(F.cross_entropy(model(x.double()), y).item(), rel=1e-12)


def test_looking_twice_gives_the_same_trace() -> None:
    s = build("transformer")
    feeder = Feeder(loss_fn=s.loss_fn)
    one, two = (look(s.model, s.batch, feeder) for _ in range(2))
    assert one.ledger == two.ledger
    assert one.operations == two.operations
    assert one.parameters == two.parameters


def test_reentrant_checkpoints_are_put_back_after_looks_and_steps() -> None:
    from torch.utils.checkpoint import CheckpointFunction, checkpoint

    def run(s: Any, x: Tensor) -> Tensor:
        return s.head(checkpoint(s.block, s.stem(x), use_reentrant=True))

    model = Written(run, stem=nn.Linear(6, 6), block=mlp_part(), head=nn.Linear(6, 3))
    batch, before = xy(), CheckpointFunction.apply
    report = assert_untouched(
        lambda: gradmend.check(model, batch, F.cross_entropy, steps=2), model, batch=batch
    )
    assert CheckpointFunction.apply == before
    for trace in (report.trace, report.after):
        assert all(p.reached for p in trace.parameters)
    # AND the user's own step goes through torch's checkpoint again
    out = model(batch[0])
    assert "CheckpointFunction" in out.grad_fn.next_functions[1][0].name()
