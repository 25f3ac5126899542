"""Watching one call changes no bit of it, and measures what plain arithmetic says."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from gradmend.probe import kernels, slopes
from gradmend.probe.kernels import _backend
from gradmend.probe.outputs import OutputWatch, Sheet
from gradmend.probe.sample import ENTRIES, measure, merged, norm_of, thin
from gradmend.probe.slopes import DeadUnits


class Written(nn.Module):
    """A module whose forward is a function of itself and its input."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4), nn.Sigmoid())


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout2d(), nn.Flatten()
    )


def transformer() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


def shared() -> nn.Module:
    return Written(lambda m, x: m.act(m.lin(m.act(m.lin(x)))), lin=nn.Linear(5, 5), act=nn.Tanh())


def checkpointed(reentrant: bool) -> nn.Module:
    return Written(
        lambda m, x: checkpoint(m.body, m.first(x), use_reentrant=reentrant),
        first=nn.Linear(5, 5),
        body=nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Dropout(), nn.Linear(5, 3)),
    )


def in_place() -> nn.Module:
    return Written(
        lambda m, x: F.silu(m.a(x), inplace=True).mul_(2).relu_() + m.b(x).tanh_(),
        a=nn.Linear(5, 3), b=nn.Linear(5, 3),
    )  # fmt: skip


def nests() -> nn.Module:
    inner = Written(lambda m, x: {"a": [m.lin(x)], "none": None}, lin=nn.Linear(5, 3))
    return Written(lambda m, x: (m.inner(x)["a"][0].tanh(), None, [x]), inner=inner)


def lstm() -> nn.Module:
    return Written(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(5, 4, 2, batch_first=True, dropout=0.5))


def cells() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = None
        for t in range(x.shape[1]):
            h = m.cell(x[:, t], h)
        return h

    return Written(forward, cell=nn.GRUCell(5, 4))


def attends() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, dim=-1)
        w = F.softmax(q @ k.transpose(1, 2), dim=-1)
        return F.scaled_dot_product_attention(q, k, w @ v, is_causal=True)

    return Written(forward, qkv=nn.Linear(5, 12))


SUBJECTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6, 5)),
    "conv": (conv, (3, 2, 6, 6)),
    "transformer": (transformer, (3, 4, 8)),
    "shared": (shared, (6, 5)),
    "checkpoint": (lambda: checkpointed(False), (6, 5)),
    "reentrant checkpoint": (lambda: checkpointed(True), (6, 5)),
    "in place": (in_place, (6, 5)),
    "nests": (nests, (6, 5)),
    "lstm": (lstm, (3, 7, 5)),
    "cells": (cells, (3, 7, 5)),
    "attends": (attends, (3, 7, 5)),
    "eval": (lambda: transformer().eval(), (3, 4, 8)),
}


def first_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def run(
    model: nn.Module, x: Tensor, watched: bool, autocast: bool = False
) -> tuple[list[Tensor], Sheet | None]:
    """Everything one training step computes."""
    torch.manual_seed(3)
    watch = OutputWatch(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        if watched:
            with watch:
                output = first_tensor(model(x))
        else:
            output = first_tensor(model(x))
    output.float().square().sum().backward()
    sheet = watch.finish() if watched else None
    found = [output.detach(), torch.get_rng_state(), x]
    found += [p.grad for p in model.parameters() if p.grad is not None]
    return [*found, *model.buffers()], sheet


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_bit_is_the_same(name: str, autocast: bool) -> None:
    make, shape = SUBJECTS[name]
    model, x = make(), torch.randn(shape)
    twin = copy.deepcopy(model)
    hooks = {
        n: dict(v) for n, v in vars(torch_module).items() if isinstance(v, dict) and "hook" in n
    }
    plain, _ = run(twin, x.clone(), False, autocast)
    watched, sheet = run(model, x.clone(), True, autocast)
    assert len(plain) == len(watched)
    for a, b in zip(plain, watched, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert sheet is not None and sheet.failure is None
    assert sheet.outputs
    assert all(not p._backward_hooks for p in model.parameters())
    assert hooks == {n: dict(vars(torch_module)[n]) for n in hooks}
    assert torch.overrides._get_current_function_mode_stack() == []


def sheet_of(
    model: nn.Module, *args: Any, dead: DeadUnits | None = None, **kwargs: Any
) -> dict[str, dict[str, float]]:
    watch = OutputWatch(model, dead)
    with watch:
        output = model(*args, **kwargs)
    first_tensor(output).sum().backward()
    sheet = watch.finish()
    assert sheet.failure is None
    return {m.column.name: dict(m.values) for m in sheet.outputs}


def twin_of(y: Tensor) -> dict[str, float]:
    """The output table's row of one tensor, entry by entry."""
    rows = y.detach().double().reshape(len(y), -1)
    energy = math.fsum(v * v for v in rows.flatten().tolist())
    shared = len(rows) * math.fsum(v * v for v in rows.mean(0).tolist())
    return {
        "log10_rms": 0.5 * math.log10(energy / rows.numel()),
        "log10_max": math.log10(max(abs(v) for v in rows.flatten().tolist())),
        "spread_share": 1 - shared / energy,
        "zero_share": sum(v == 0 for v in rows.flatten().tolist()) / rows.numel(),
        "non_finite": 0.0,
    }


def test_outputs_agree_with_entry_by_entry() -> None:
    model, x = mlp(), torch.randn(6, 5)
    found = sheet_of(model, x)
    assert list(found) == ["0", "1", "2", "3"]
    y = x
    for name, layer in model.named_children():
        y = layer(y)
        assert {k: found[name][k] for k in twin_of(y)} == pytest.approx(twin_of(y), rel=1e-6)


def test_gradients_are_those_of_autograd() -> None:
    model, x = mlp(), torch.randn(6, 5)
    found = sheet_of(model, x)
    outputs, y = [], x
    for layer in model.children():
        y = layer(y)
        outputs.append(y)
    for name, grad in zip(found, torch.autograd.grad(y.sum(), outputs), strict=True):
        want = float(grad.double().square().mean().log10()) / 2
        assert found[name]["log10_grad"] == pytest.approx(want, rel=1e-6)


def test_what_is_overwritten_in_place_keeps_its_own_gradient() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    x = torch.randn(6, 5)
    found = sheet_of(model, x)
    before = model[0](x)
    after = before.relu()
    grads = torch.autograd.grad(model[2](after).sum(), [before, after])
    for name, y, grad in zip("01", (before, after), grads, strict=True):
        want = float(grad.double().square().mean().log10()) / 2
        assert found[name]["log10_grad"] == pytest.approx(want, rel=1e-6)
        assert found[name]["log10_rms"] == pytest.approx(twin_of(y)["log10_rms"], rel=1e-6)


def test_calls_of_a_shared_module_are_added() -> None:
    model, x = shared(), torch.randn(6, 5)
    found = sheet_of(model, x)
    first = model.act(model.lin(x))  # type: ignore[operator]
    second = model.act(model.lin(first))  # type: ignore[operator]
    want = float(torch.stack([first, second]).detach().double().square().mean().log10()) / 2
    assert set(found) == {"lin", "act"}
    assert found["act"]["log10_rms"] == pytest.approx(want, rel=1e-6)


def test_functional_calls_have_columns_of_their_own() -> None:
    found = sheet_of(in_place(), torch.randn(6, 5))
    assert set(found) == {"a", "b", "silu", "relu", "tanh"}
    assert not math.isnan(found["silu"]["flat_share"])


@pytest.mark.parametrize(
    ("module", "slope", "steepest"),
    [
        (nn.Tanh(), lambda x: 1 - x.tanh() ** 2, 1.0),
        (nn.Sigmoid(), lambda x: x.sigmoid() * (1 - x.sigmoid()), 0.25),
        (nn.ReLU(), lambda x: (x > 0).double(), 1.0),
        (nn.SiLU(inplace=True), None, 1.0998),
        (nn.GELU(), None, 1.1289),
        (nn.GELU("tanh"), None, 1.129),
        (nn.Hardtanh(-2, 1), None, 1.0),
        (nn.LeakyReLU(0.02), None, 1.0),
        (nn.PReLU(), None, 1.0),
        (nn.ELU(0.5), None, 1.0),
        (nn.CELU(0.5), None, 1.0),
        (nn.SELU(), None, 1.7581),
        (nn.Mish(), None, 1.0885),
        (nn.Softplus(2.0), None, 1.0),
        (nn.Softsign(), None, 1.0),
        (nn.LogSigmoid(), None, 1.0),
        (nn.Hardswish(), None, 1.5),
        (nn.Hardsigmoid(), None, 1 / 6),
        (nn.ReLU6(), None, 1.0),
        (nn.Tanhshrink(), None, 1.0),
        (nn.Softshrink(), None, 1.0),
        (nn.Hardshrink(), None, 1.0),
        (nn.Threshold(0.1, 5.0), None, 1.0),
    ],
)
def test_flat_entries_are_those_of_autograd(
    module: nn.Module, slope: Callable[[Tensor], Tensor] | None, steepest: float
) -> None:
    z = (4 * torch.randn(40, 6)).requires_grad_()
    y = module(z.clone())
    (grad,) = torch.autograd.grad(y.sum(), z)
    if slope is not None:
        assert torch.allclose(slope(z.detach()).to(grad.dtype), grad, atol=1e-6)
    model = Written(lambda m, x: m.act(m.lin(x)), lin=nn.Linear(6, 6), act=module)
    with torch.no_grad():
        model.lin.weight.copy_(torch.eye(6))  # type: ignore[union-attr, operator]
        model.lin.bias.zero_()  # type: ignore[union-attr, operator]
    found = sheet_of(model, z.detach())
    want = float((grad.abs() < 0.05 * steepest).double().mean())
    assert found["act"]["flat_share"] == pytest.approx(want)
    assert set(found) == {"lin", "act"}


def test_units_die_only_if_no_batch_wakes_them() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[0].bias.zero_()
    dead = DeadUnits(window=2)
    x = torch.tensor([[-1.0, -1, 1, -1], [-1, -1, 1, 1]])
    assert sheet_of(model, x, dead=dead)["1"]["dead_share"] == 0.5
    y = torch.tensor([[1.0, -1, -1, -1]])
    assert sheet_of(model, y, dead=dead)["1"]["dead_share"] == 0.25
    quiet = -torch.ones(1, 4)
    for _ in range(4):
        share = sheet_of(model, quiet, dead=dead)["1"]["dead_share"]
    assert share == 1.0  # what woke them is longer ago than two windows


def test_units_of_images_are_channels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([-1.0, -1, -1, 1]))
    assert sheet_of(model, torch.randn(2, 1, 5, 5))["1"]["dead_share"] == 0.75


def test_a_single_living_entry_of_a_big_output_is_found() -> None:
    x = -torch.ones(4, 3, 400, 400)
    x[3, 1, 399, 399] = 1.0
    assert x.numel() > ENTRIES
    model = Written(lambda m, v: F.relu(v), one=nn.Identity())
    found = sheet_of(model, x.requires_grad_())
    assert found["Written"]["dead_share"] == pytest.approx(2 / 3)
    assert found["Written"]["log10_max"] == 0.0


def test_one_bad_entry_of_a_big_output_is_counted() -> None:
    x = torch.ones(4, 3, 400, 400)
    x[3, 1, 399, 399], x[0, 0, 0, 0] = math.nan, math.inf
    found = sheet_of(nn.Sequential(nn.Tanh(), nn.Identity()), x.requires_grad_())
    assert found["0"]["non_finite"] == 1.0 and math.isnan(found["0"]["log10_rms"])


def test_samples_are_bounded_and_keep_all_units() -> None:
    for shape, dim in [((7, 30, 90, 90), 1), ((50, 700, 64), -1), ((90000, 8), -1)]:
        part = thin(torch.zeros(shape), dim)
        assert 0 < part.numel() <= ENTRIES and part.shape[dim] == shape[dim]
    small = torch.zeros(3, 4)
    assert thin(small, -1) is small


def test_double_precision_far_below_the_floats() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    x = torch.full((3, 4), 1e-250, dtype=torch.float64, requires_grad=True)
    found = sheet_of(Written(lambda m, v: m.body(v * 1), body=model), x)
    assert found["body.0"]["log10_rms"] == pytest.approx(-250)


def test_attention_is_read_in_all_three_forms() -> None:
    for model, x, names in [
        (attends(), torch.randn(3, 7, 5), {"softmax", "scaled_dot_product_attention"}),
        (transformer(), torch.randn(3, 4, 8), {"layers.0.self_attn", "layers.1.self_attn"}),
    ]:
        watch = OutputWatch(model)
        with watch:
            model(x)
        sheet = watch.finish()
        assert {m.column.name for m in sheet.attention} == names
        assert all(0 < m.values["entropy"] <= 1 for m in sheet.attention)


def test_recurrent_layers_and_cells_get_their_books() -> None:
    for make, names in [(lstm, {"rnn", "rnn.l1"}), (cells, {"cell"})]:
        model, x = make(), torch.randn(3, 7, 5)
        watch = OutputWatch(model)
        with watch:
            output = model(x)
        output.sum().backward()
        sheet = watch.finish()
        assert {m.column.name for m in sheet.recurrence} == names
        assert all(r.steps == 7 and len(r.log10_grads) == 7 for r in sheet.recurrences)
        assert all(math.isfinite(m.values["log10_gain"]) for m in sheet.recurrence)


def test_weights_that_moved_on_are_not_unrolled() -> None:
    model, x = lstm(), torch.randn(3, 7, 5)
    watch = OutputWatch(model)
    with watch:
        output = model(x)
    output.sum().backward()
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(2)  # type: ignore[union-attr, operator]
    sheet = watch.finish()
    assert sheet.recurrences == () and "changed" in sheet.notes[0]


def test_an_exception_of_the_users_passes_unchanged() -> None:
    class Own(Exception):
        pass

    def forward(m: Any, x: Tensor) -> Tensor:
        m.lin(x)
        raise Own

    model = Written(forward, lin=nn.Linear(5, 3))
    watch = OutputWatch(model)
    with pytest.raises(Own), watch:
        model(torch.randn(2, 5))
    assert [m.column.name for m in watch.finish().outputs] == ["lin"]
    assert torch.overrides._get_current_function_mode_stack() == []


def test_an_exception_of_ours_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr("gradmend.probe.outputs.measure", broken)
    model, x = mlp(), torch.randn(6, 5)
    watch = OutputWatch(model)
    with watch:
        output = model(x)
    assert torch.equal(output, model(x))
    assert "ours" in (watch.finish().failure or "")


def test_a_branch_the_user_gave_up_is_forgotten() -> None:
    def fails(m: Any, x: Tensor) -> Tensor:
        raise ValueError

    def forward(m: Any, x: Tensor) -> Tensor:
        try:
            return m.bad(x)
        except ValueError:
            return m.good(x).tanh()

    model = Written(forward, bad=Written(fails), good=nn.Linear(5, 3))
    assert set(sheet_of(model, torch.randn(2, 5))) == {"good", "tanh"}


def test_only_the_outermost_watch_counts() -> None:
    model = mlp()
    inner = OutputWatch(model[0])  # type: ignore[index]
    outer = OutputWatch(Written(lambda m, x: _inside(inner, m.body, x), body=model))
    with outer:
        outer.root(torch.randn(2, 5))
    assert inner.finish().outputs == () and len(outer.finish().outputs) == 4


def _inside(watch: OutputWatch, model: nn.Module, x: Tensor) -> Any:
    with watch:
        return model(x)


def test_facts_of_modules_and_inputs() -> None:
    model, x = conv(), torch.randn(3, 2, 6, 6)
    x[:, 0] = 7.0
    watch = OutputWatch(model)
    with watch:
        model(x)
    sheet = watch.finish()
    states = {s["module"]: s for s in sheet.modules}
    assert states["3"] == {"module": "3", "class": "Dropout2d", "training": True, "p": 0.5}
    assert states["1"]["values_per_channel"] == 3 * 4 * 4
    assert set(states) == {"", "1", "3"}  # nobody asks for the mode of the others
    assert states[""] == {"module": "", "class": "Sequential", "training": True}
    (given,) = sheet.inputs
    assert given["shape"] == (3, 2, 6, 6) and given["dtype"] == "float32"
    assert given["mean"] == pytest.approx(float(x.double().mean()))
    assert given["constant_share"] == 0.5


def test_nothing_is_held() -> None:
    model, x = mlp(), torch.randn(6, 5)
    watch = OutputWatch(model)
    with watch:
        output = model(x)
    held = [m for e in watch._entries.by_name.values() for m in e.measures]
    assert held and all(not isinstance(getattr(m, "energy"), Tensor) for m in held)  # noqa: B009
    output.sum().backward()
    assert all(isinstance(norm, float) or norm.dim() == 0 for m in held for norm in m.norms)
    assert sum(len(m.norms) for m in held) == 4


@pytest.fixture(params=["numba", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GRADMEND_KERNELS", request.param)
    _backend._installed.cache_clear()
    assert kernels.backend() == request.param
    yield request.param
    _backend._installed.cache_clear()


HOSTILE = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((7,), -1), ((1, 5), -1), ((6, 5), -1), ((3, 2, 5), -1), ((2, 3, 4, 5), 1), ((40, 50), 0)],
)
@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_measures_agree_with_entry_by_entry(
    engine: str, name: str, shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(len(shape) + dim)
    x = 6 * torch.randn(shape, generator=generator)
    x.movedim(dim, 0)[:2] = -200.0  # without a slope, all of the unit
    y = getattr(torch, name)(x.to(dtype))
    y = y.transpose(0, -1).contiguous().transpose(0, -1)  # not in the order of memory
    slope = slopes.known(name)
    assert slope is not None
    found = measure(y, dim, slope)
    want = twin_of(y)
    row = merged([found])
    assert row["log10_rms"] == pytest.approx(want["log10_rms"], rel=1e-6)
    assert row["log10_max"] == pytest.approx(want["log10_max"], abs=1e-12)
    assert row["zero_share"] == pytest.approx(want["zero_share"])
    if shape[0] > 1:
        assert row["spread_share"] == pytest.approx(want["spread_share"], abs=1e-9)
    else:
        assert math.isnan(row["spread_share"])
    steep = {
        "relu": lambda v: float(v > 0),
        "tanh": lambda v: 1 - v * v,
        "sigmoid": lambda v: 4 * v * (1 - v),
    }[name]
    units = y.double().movedim(dim, 0).reshape(shape[dim], -1).tolist()
    assert found.dead is not None
    assert found.dead.tolist() == [all(steep(v) < 1e-6 for v in unit) for unit in units]
    assert found.dead[:2].all() and not found.dead.all()
    flat = [steep(v) < 0.05 for unit in units for v in unit]
    # Within the format's rounding of the bound an entry may be either.
    near = sum(abs(steep(v) - 0.05) < 0.02 for unit in units for v in unit)
    slack = near / len(flat) if dtype in (torch.bfloat16, torch.float16) else 0
    assert abs(found.flat - sum(flat) / len(flat)) <= slack + 1e-12


@pytest.mark.parametrize("bad", HOSTILE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_is_no_number_is_counted(engine: str, dtype: torch.dtype, bad: float) -> None:
    x = torch.ones(30, 50, dtype=dtype)
    x[3, 4] = x[29, 49] = bad
    found = measure(x, -1, slopes.known("relu"))
    assert found.non_finite == 2
    row = merged([found])
    assert all(math.isnan(row[key]) for key in ("log10_rms", "log10_max", "spread_share"))
    assert found.dead is not None and not found.dead.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_norms_of_gradients(engine: str, dtype: torch.dtype) -> None:
    x = torch.randn(30, 50).to(dtype)
    for grad in (x, x.T, x[:, ::2], x[:1, :1].expand(30, 50), torch.zeros(3, dtype=dtype)):
        want = math.sqrt(math.fsum(v * v for v in grad.double().flatten().tolist()))
        assert float(norm_of(grad)) == pytest.approx(want, rel=1e-9)
    small = torch.full((4,), 1e-30, dtype=torch.float32)  # whose squares float32 does not hold
    assert float(norm_of(small)) == pytest.approx(2e-30)
    x[0, 0] = math.nan
    assert math.isnan(float(norm_of(x)))


def looped(model: nn.Module, cut: Callable[[Any], Any], steps: int = 5) -> Any:
    """A layer or cell called in a loop, its state cut between calls."""
    layer = model

    def forward(m: Any, x: Tensor) -> Tensor:
        state, outputs = None, []
        for t in range(steps):
            if isinstance(m.rnn, nn.RNNBase):
                output, state = m.rnn(x[:, t : t + 1], state)
            else:
                state = m.rnn(x[:, t], state)
                output = state[0] if isinstance(state, tuple) else state
            outputs.append(output)
            state = cut(state)
        return torch.stack(outputs)

    return Written(forward, rnn=layer)


def parts(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tuple(map(change, state)) if isinstance(state, tuple) else change(state)


CUTS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "carried": (lambda s: s, 0),
    "detached": (lambda s: parts(s, Tensor.detach), 4),
    "copied without history": (lambda s: parts(s, lambda p: p.detach().clone()), 4),
    "zeros begin a new sequence": (lambda s: parts(s, lambda p: torch.zeros_like(p)), 0),
    "none begins a new sequence": (lambda s: None, 0),
    "one of two parts": (lambda s: (s[0].detach(), s[1]) if isinstance(s, tuple) else s, 0),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.RNNCell(5, 4),
        lambda: nn.GRUCell(5, 4),
        lambda: nn.LSTMCell(5, 4),
        lambda: nn.GRU(5, 4, batch_first=True),
        lambda: nn.LSTM(5, 4, batch_first=True),
    ],
)
def test_states_cut_off_in_time_are_counted(make: Callable[[], nn.Module], cut: str) -> None:
    change, detached = CUTS[cut]
    watch = OutputWatch(model := looped(make(), change))
    with watch:
        output = model(torch.randn(3, 5, 5))
    output.sum().backward()
    sheet = watch.finish()
    assert sheet.failure is None
    kind = type(model.rnn).__name__
    assert sheet.cells == ({"module": "rnn", "class": kind, "calls": 5, "detached": detached},)


def test_a_frozen_cell_is_not_cut_off() -> None:
    model = looped(nn.GRUCell(5, 4).requires_grad_(False), lambda s: s)
    watch = OutputWatch(model)
    with watch:
        model(torch.randn(3, 5, 5))
    assert watch.finish().cells[0]["detached"] == 0


def test_a_layer_called_once_is_no_cell() -> None:
    watch = OutputWatch(model := lstm())
    with watch:
        model(torch.randn(3, 7, 5))
    assert watch.finish().cells == ()


@pytest.mark.parametrize(("reentrant", "notes"), [(True, 1), (False, 0)])
def test_gradients_in_reentrant_checkpoints_are_missed_aloud(reentrant: bool, notes: int) -> None:
    watch = OutputWatch(model := checkpointed(reentrant))
    with watch:
        output = model(torch.randn(6, 5))
    output.sum().backward()
    sheet = watch.finish()
    assert len([note for note in sheet.notes if "reentrant" in note]) == notes
    inside = [m for m in sheet.outputs if m.column.name.startswith("body")]
    assert len(inside) == 4
    assert all(math.isnan(m.values["log10_grad"]) == reentrant for m in inside)


def test_a_teacher_without_gradient_needs_no_note() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = m.teacher(x)
        return (m.student(x) - target).square()

    watch = OutputWatch(model := Written(forward, teacher=mlp(), student=mlp()))
    with watch:
        model(torch.randn(6, 5))
    assert watch.finish().notes == ()


def test_two_models_may_keep_their_dead_units_together() -> None:
    dead, models = DeadUnits(), []  # all alive, so that none gets another's id
    for sign, share in ((1.0, 0.0), (-1.0, 1.0), (1.0, 0.0)):
        model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.ReLU())
        with torch.no_grad():
            model[0].weight.fill_(sign)
        assert sheet_of(model, torch.ones(2, 1), dead=dead)["1"]["dead_share"] == share
        models.append(model)


@pytest.mark.slow
def test_compiled_models_are_left_alone() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    model = torch.compile(mlp(), backend="eager")
    x = torch.randn(6, 5)
    want = model(x)
    frames = dict(counters["frames"])
    watch = OutputWatch(model)
    with watch:
        assert torch.equal(model(x), want)
    sheet = watch.finish()
    assert sheet.outputs == () and "compiled" in sheet.notes[0]
    assert dict(counters["frames"]) == frames
    eager = OutputWatch(plain := mlp())  # others may call compiled functions
    with eager:
        plain(x)
    sheet = eager.finish()
    assert len(sheet.outputs) == 4 and "functions" in sheet.notes[0]
    counters.clear()


def by_hand(x: Tensor) -> dict[int, int]:
    """How many numbers lie in each power of two, one after the other."""
    counts: dict[int, int] = {}
    for value in x.detach().double().reshape(-1).tolist():
        if math.isfinite(value) and value != 0.0:
            exponent = math.frexp(value)[1] - 1
            counts[exponent] = counts.get(exponent, 0) + 1
    return dict(sorted(counts.items()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_histograms_count_what_plain_arithmetic_counts(dtype: torch.dtype, backend: str) -> None:
    # given an activation with zeros, infinities, NaN and subnormal numbers before it
    x = torch.randn(6, 8).mul(3).to(dtype)
    x[0, 0], x[0, 1], x[0, 2] = math.inf, math.nan, torch.finfo(dtype).tiny / 8
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    watch = OutputWatch(model, histograms=True)
    with _backend.interpreted() if backend == "torch" else contextlib.nullcontext(), watch:
        model(x)
    sheet = watch.finish()
    assert sheet.failure is None and watch.histogram_seconds > 0
    found = {m.column.name: m.histogram for m in sheet.outputs}
    assert found.keys() == {"0", "1"}
    for name, output in (("0", x), ("1", x.relu())):
        histogram = found[name]
        assert histogram is not None
        assert dict(histogram.counts) == by_hand(output) and histogram.stride == 1


def test_histograms_of_several_calls_are_added_and_none_is_made_unasked() -> None:
    model, x = shared(), torch.randn(6, 5)
    watch = OutputWatch(model, histograms=True)
    with watch:
        last = model(x)
    found = {m.column.name: m.histogram for m in watch.finish().outputs}
    first = model.act(model.lin(x))  # type: ignore[operator]
    want = by_hand(torch.cat([first, last]))
    assert found["act"] is not None and dict(found["act"].counts) == want
    plain = OutputWatch(model)
    with plain:
        model(x)
    assert all(m.histogram is None for m in plain.finish().outputs)
    assert plain.histogram_seconds == 0


def test_histograms_of_big_outputs_are_of_the_part_that_is_measured() -> None:
    x = torch.randn(64, 4096)
    model = nn.Sequential(nn.Identity())
    watch = OutputWatch(model, histograms=True)
    with watch:
        model(x)
    (found,) = [m.histogram for m in watch.finish().outputs]
    part = thin(x, -1)
    assert found is not None and part.shape == (8, 4096)
    assert dict(found.counts) == by_hand(part) and found.stride == 8


def test_one_tensor_is_counted_as_many_are() -> None:
    for x in (torch.randn(3, 5), torch.randn(40, 50).T, torch.zeros(4), torch.randn(4).double(),
              torch.full((9,), math.nan), torch.tensor(2.0), torch.randn(7).half()):  # fmt: skip
        assert kernels.exponents_of(x) == kernels.exponents([x])[0]
