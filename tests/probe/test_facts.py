"""The facts beside the books: slopes, weights, signals, wiring; each against a naive twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from probe_models import MODELS, Residual, Written, mlp_part, xy
from probe_twins import look_at, plain
from torch import Tensor, nn

from gradmend.probe.signals import measure
from gradmend.probe.statistics import stats_of
from gradmend.records.trace import Operation, Trace
from gradmend.theory.activations import KNOWN
from gradmend.zoo import build

ACTIVATIONS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "Sigmoid": ("sigmoid", nn.Sigmoid()),
    "Tanh": ("tanh", nn.Tanh()),
    "ReLU": ("relu", nn.ReLU()),
    "ReLU in place": ("relu", nn.ReLU(inplace=True)),
    "LeakyReLU(0.2)": ("leaky_relu", nn.LeakyReLU(0.2)),
    "PReLU": ("prelu", nn.PReLU(init=0.4)),
    "ELU": ("elu", nn.ELU()),
    "ELU(3)": ("elu(alpha=3)", nn.ELU(3.0)),
    "ELU in place": ("elu", nn.ELU(inplace=True)),
    "SELU": ("selu", nn.SELU()),
    "CELU": ("celu", nn.CELU()),
    "CELU(2)": ("celu(alpha=2)", nn.CELU(2.0)),
    "GELU": ("gelu", nn.GELU()),
    "GELU tanh": ("gelu_tanh", nn.GELU(approximate="tanh")),
    "SiLU": ("silu", nn.SiLU()),
    "Mish": ("mish", nn.Mish()),
    "Softplus": ("softplus", nn.Softplus()),
    "Softplus(4)": ("softplus(beta=4)", nn.Softplus(4.0)),
    "Hardtanh": ("hardtanh", nn.Hardtanh()),
    "Hardtanh(-2, 3)": ("hardtanh(-2, 3)", nn.Hardtanh(-2.0, 3.0)),
    "ReLU6": ("relu6", nn.ReLU6()),
    "Hardsigmoid": ("hardsigmoid", nn.Hardsigmoid()),
    "Hardswish": ("hardswish", nn.Hardswish()),
    "LogSigmoid": ("logsigmoid", nn.LogSigmoid()),
    "Softshrink": ("softshrink", nn.Softshrink()),
    "Hardshrink": ("hardshrink", nn.Hardshrink()),
    "Threshold": ("threshold", nn.Threshold(0.1, 0.0)),
    "functional sigmoid": ("sigmoid", torch.sigmoid),
    "method tanh": ("tanh", lambda x: x.tanh()),
    "functional relu": ("relu", F.relu),
    "in place sigmoid_": ("sigmoid", lambda x: x.sigmoid_()),
    "in place relu_": ("relu", torch.relu_),
    "functional leaky_relu(0.3)": ("leaky_relu", lambda x: F.leaky_relu(x, 0.3)),
    "functional selu": ("selu", F.selu),
    "functional relu6": ("relu6", F.relu6),
    "sin": ("sin", torch.sin),
    "cos": ("cos", torch.cos),
    "erf": ("erf", torch.erf),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_the_function_at_its_preactivations(name: str) -> None:
    function, phi = ACTIVATIONS[name]
    # GIVEN an activation between two layers, with one unit held far in the negative
    part = phi if isinstance(phi, nn.Module) else Written(lambda s, x: phi(x))
    model = nn.Sequential(nn.Linear(6, 7), part, nn.Linear(7, 3)).double()
    with torch.no_grad():
        model[0].bias[2] = -50.0
    x, y = torch.randn(9, 6).double(), torch.randint(3, (9,))
    # WHEN it is looked at
    trace = look_at(model, (x, y), F.cross_entropy)
    (op,) = trace.activations
    facts = op.activation
    assert facts is not None
    # THEN its facts are those of phi', entry by entry, at the captured pre-activations
    z = model[0](x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(part(z.clone()).sum(), z)
    slope = slope.abs()
    assert facts.function == function
    assert facts.slope_rms == pytest.approx(slope.square().mean().sqrt().item(), rel=1e-12)
    assert facts.slope_max == pytest.approx(slope.max().item(), rel=1e-12)
    assert facts.dead_units == int((slope == 0).all(0).sum())
    assert (facts.units, facts.samples) == (7, 9)
    grid = torch.linspace(-30, 30, 300_001, dtype=torch.float64).requires_grad_()
    (everywhere,) = torch.autograd.grad(part(grid.clone()).sum(), grid)
    steepest = everywhere.abs().max().item()
    if function in KNOWN:
        assert facts.steepest_slope == pytest.approx(steepest, rel=1e-6)
    else:
        assert facts.steepest_slope is None
        steepest = facts.slope_max
    assert facts.flat_share == pytest.approx((slope < 0.05 * steepest).double().mean().item())
    assert op.cause == "activation-derivative"


def test_units_of_pictures_are_their_channels() -> None:
    # GIVEN a convolution whose channel 1 never fires
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[0].bias[1] = -1e3
    batch = (torch.randn(5, 2, 6, 6), torch.randint(3, (5,)))
    trace = look_at(model, batch, F.cross_entropy)
    facts = trace.activations[0].activation
    assert facts is not None
    assert (facts.units, facts.samples, facts.dead_units) == (4, 5 * 16, 1)
    assert facts.dead_share == 0.25


def weights_of(trace: Trace) -> list[Any]:
    return [op.weights for op in trace.weights]


@pytest.mark.parametrize(
    ("module", "shape", "fan_in", "fan_out"),
    [
        (lambda: nn.Linear(6, 4), (5, 6), 6, 4),
        (lambda: nn.Linear(6, 4, bias=False), (5, 6), 6, 4),
        (lambda: nn.Linear(6, 4), (5, 3, 6), 6, 4),
        (lambda: nn.Conv1d(6, 4, 3), (5, 6, 8), 18, 4),
        (lambda: nn.Conv2d(6, 4, 3, stride=2, groups=2), (5, 6, 8, 8), 27, 4),
        (lambda: nn.Conv2d(6, 6, 3, groups=6), (5, 6, 8, 8), 9, 6),
        (lambda: nn.Conv3d(2, 4, 2), (5, 2, 4, 4, 4), 16, 4),
        (lambda: nn.ConvTranspose2d(6, 4, 3), (5, 6, 8, 8), 54, 4),
        (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), (5, 6, 8, 8), 27, 4),
        (
            lambda: Written(
                lambda s, x: F.conv_transpose2d(x, s.w, groups=2),
                w=nn.Parameter(torch.randn(6, 2, 3, 3)),
            ),
            (5, 6, 8, 8), 27, 4,
        ),
        (lambda: Written(lambda s, x: x @ s.w, w=nn.Parameter(torch.randn(6, 4))), (5, 6), 6, 4),
        (lambda: Written(lambda s, x: x @ s.w.T, w=nn.Parameter(torch.randn(4, 6))), (5, 6), 6, 4),
        (lambda: Written(lambda s, x: s.w @ x, w=nn.Parameter(torch.randn(4, 6))), (6, 5), 6, 4),
        (lambda: Written(lambda s, x: s.w.T @ x, w=nn.Parameter(torch.randn(6, 4))), (6, 5), 6, 4),
        (
            lambda: Written(
                lambda s, x: torch.addmm(s.b, s.w, x),
                w=nn.Parameter(torch.randn(4, 6)), b=nn.Parameter(torch.randn(5)),
            ),
            (6, 5), 6, 4,
        ),
    ],
    ids=[
        "linear", "no bias", "sequence", "conv1d", "conv2d strided, groups", "depthwise", "conv3d",
        "transposed", "transposed, groups", "functional transposed", "x @ w", "x @ w.T", "w @ x",
        "w.T @ x", "addmm(b, w, x)",
    ],
)  # fmt: skip
def test_fans_count_what_is_summed_and_what_is_made(
    module: Callable[[], nn.Module], shape: tuple[int, ...], fan_in: int, fan_out: int
) -> None:
    model = module()
    trace = look_at(model, (torch.randn(shape), torch.zeros(())), lambda o, y: o.square().mean())
    (facts,) = weights_of(trace)
    weight = model.w if hasattr(model, "w") else model.weight
    assert (facts.fan_in, facts.fan_out) == (fan_in, fan_out)
    assert facts.mean_square == pytest.approx(weight.double().square().mean().item(), rel=1e-12)
    assert facts.sigma_w == pytest.approx(math.sqrt(fan_in * facts.mean_square))
    assert facts.shape == tuple(weight.shape)


def test_biases_are_told() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3, bias=False))
    first, second = weights_of(look_at(model, xy(), F.cross_entropy))
    assert (first.bias, second.bias) == ("0.bias", None)
    assert first.bias_mean_square == pytest.approx(
        model[0].bias.double().square().mean().item(), rel=1e-12
    )


def test_a_layer_is_plain_only_if_used_once_with_its_own_weight() -> None:
    # GIVEN a layer called twice, two that share a weight, and one by itself
    def run(s: Any, x: Tensor) -> Tensor:
        return s.alone(s.b(s.a(s.twice(s.twice(x)))))

    parts = {name: nn.Linear(6, 6) for name in ("twice", "a", "b", "alone")}
    parts["b"].weight = parts["a"].weight
    trace = look_at(Written(run, **parts), (torch.randn(5, 6), torch.randn(5, 6)), F.mse_loss)
    plain_ones = [op.module for op in trace.weights if op.weights and op.weights.module_is_plain]
    assert plain_ones == ["alone"]
    assert [op.call for op in trace.weights] == [0, 1, 0, 0, 0]


def test_weights_composed_on_the_fly_have_no_facts() -> None:
    trace = look_at(*MODELS["parametrized"]()[:3])
    linears = [op for op in trace.operations if op.name == "linear"]
    assert [op.weights is None for op in linears] == [True, True, False]


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (1, 4)])
def test_signals_split_into_what_samples_share_and_what_tells_them_apart(
    shape: tuple[int, ...],
) -> None:
    x = torch.randn(shape) + torch.arange(4.0)
    signal = measure(x)
    rows = [row.tolist() for row in x.double().reshape(-1, 4)]
    means = [math.fsum(row[i] for row in rows) / len(rows) for i in range(4)]
    offset = math.fsum(m * m for m in means) / 4
    spread = math.fsum((row[i] - means[i]) ** 2 for row in rows for i in range(4)) / x.numel()
    assert signal.offset_square == pytest.approx(offset, rel=1e-12)
    assert signal.spread_square == pytest.approx(spread, rel=1e-12)
    assert signal.mean_square == pytest.approx(x.double().square().mean().item(), rel=1e-12)
    assert signal.mean == pytest.approx(math.fsum(means) / 4, rel=1e-9)
    assert signal.max_abs == x.abs().max().item()
    assert (signal.units, signal.samples) == (4, len(rows))
    assert 0 <= signal.offset_share <= 1


def test_a_signal_with_holes_counts_them() -> None:
    x = torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]])
    assert measure(x).non_finite == 2


def test_operations_carry_the_signal_of_their_output() -> None:
    model, batch = mlp_part().double(), (torch.randn(5, 6).double(), torch.randn(5, 6).double())
    trace = look_at(model, batch, F.mse_loss)
    h = batch[0]
    for layer, op in zip(model, trace.operations, strict=False):
        h = layer(h).detach()
        assert op.signal is not None
        assert op.signal.mean_square == pytest.approx(h.square().mean().item(), rel=1e-12)


def test_inputs_are_described_and_their_first_reader_named() -> None:
    # GIVEN an input that a inner layer reads first, and another one later
    model = Written(
        lambda s, x, z: s.b(x) + s.a(x) * z, a=nn.Linear(6, 3), b=nn.Sequential(nn.Linear(6, 3))
    )
    x = torch.randn(5, 6) * torch.tensor([1.0, 10, 1, 1, 1, 0])
    trace = look_at(model, ((x, torch.randn(5, 3)), torch.randint(3, (5,))), F.cross_entropy)
    first, second = trace.inputs
    assert (first.name, second.name) == ("input0", "input1")
    assert first.reader == "b.0"
    assert second.reader == ""
    assert first.feature_rms_max == pytest.approx(x.double().std(0, correction=0).max().item())
    assert first.feature_rms_min == pytest.approx(x.double().std(0, correction=0)[:5].min().item())
    assert first.stats == stats_of(x.double())


def ids(trace: Trace, *names: str) -> list[Operation]:
    return [next(op for op in trace.operations if op.module == name) for name in names]


def test_upstream_looks_through_rearrangements() -> None:
    model = Written(
        lambda s, x: s.b(torch.tanh(s.a(x)).view(5, 2, 3).transpose(1, 2).reshape(5, 6)),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 3),
    )
    trace = look_at(model, xy(), F.cross_entropy)
    a, b = ids(trace, "a", "b")
    tanh = next(op for op in trace.operations if op.name == "tanh")
    assert tanh.upstream == (a.id,)
    assert b.upstream == (tanh.id,)
    assert trace.readers[a.id] == (tanh.id,)
    assert [(w.id, act.id) for w, act in trace.pairs()] == [(a.id, tanh.id)]
    assert trace.is_chain
    assert trace.chain_depth == 2


@pytest.mark.parametrize(
    "build_model",
    [
        lambda: nn.Sequential(nn.Linear(6, 6), Residual(mlp_part()), nn.Linear(6, 3)),
        lambda: nn.Sequential(Residual(mlp_part())),  # the skip begins at the input itself
        lambda: MODELS["dense_concat"]().model,
    ],
    ids=["residual", "skip from the input", "concat"],
)
def test_what_forks_is_no_chain(build_model: Callable[[], nn.Module]) -> None:
    assert not look_at(build_model(), xy(), F.cross_entropy).is_chain


def test_a_skip_shares_the_gradient_out() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Residual(mlp_part()), nn.Linear(6, 3))
    trace = look_at(model, xy(), F.cross_entropy)
    first, inner, last = ids(trace, "0", "1.inner.0", "2")
    assert first.share == pytest.approx(1)
    assert last.share == pytest.approx(1)
    assert 0 < inner.share < 1
    assert trace.chain_depth == 2


def test_own_gain_of_a_sum_of_two_is_the_norm_of_both() -> None:
    # GIVEN a module that adds: each input gets the whole gradient, both together sqrt(2) of it
    model = Written(
        lambda s, x: s.out(s.plus(s.a(x), s.b(x))),
        plus=Written(lambda s, a, b: a + b),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 6),
        out=nn.Linear(6, 3),
    )
    trace = look_at(model, xy(), F.cross_entropy)
    assert trace.ledger is not None
    assert trace.ledger.root is not None
    (entry,) = [e for e in trace.ledger.root.walk() if e.name == "plus"]
    assert entry.own_decades == pytest.approx(0.5 * math.log10(2), abs=1e-12)
    (op,) = [op for op in trace.operations if op.module == "plus"]
    assert op.own_decades == pytest.approx(0.5 * math.log10(2), abs=1e-12)


@pytest.mark.parametrize("depth", [6, 60])
def test_a_dead_layer_blocks_the_gradient_exactly(depth: int) -> None:
    # GIVEN a ReLU net whose middle layer never fires
    s = build("mlp", depth=depth, init="normal", gain=1.4)
    middle = depth // 2
    with torch.no_grad():
        for layer in s.model[::2]:
            layer.bias.uniform_(0.0, 1.0)  # so that what follows a silent layer is not silent
        s.model[2 * middle].bias.fill_(-1e6)
    # WHEN it is looked at
    trace = look_at(s.model, s.batch, s.loss_fn)
    # THEN no total is made up, and the blocked place is named
    assert trace.ledger is not None
    assert trace.ledger.total_decades is None
    assert trace.ledger.blocked_by == str(2 * middle + 1)
    # AND every parameter's gradient is what a plain backward says: exactly zero below, not None
    twin = plain(s.model, s.batch, s.loss_fn)
    for parameter in trace.parameters:
        grad = twin.grads[parameter.name]
        assert grad is not None
        assert parameter.reached
        assert parameter.exact_zero == (not grad.any()), parameter.name
    assert sum(p.exact_zero for p in trace.parameters) > depth


@pytest.mark.parametrize("values", ["inf", "nan"])
def test_a_forward_pass_that_overflows_is_named(values: str) -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        h = torch.exp(s.a(x) * 1e5) if values == "inf" else torch.sqrt(s.a(x) - 1e3)
        return s.b(h)

    trace = look_at(Written(run, a=nn.Linear(6, 6), b=nn.Linear(6, 3)), xy(), F.cross_entropy)
    assert trace.non_finite in ("exp", "sqrt")
    assert trace.ledger is None
    assert any("no gradient could be booked" in note for note in trace.notes)
    assert all(p.reached for p in trace.parameters)


def test_a_gradient_that_overflows_alone_is_no_number() -> None:
    # GIVEN sqrt at zero: a finite output with an infinite slope
    model = Written(
        lambda s, x: s.b(torch.sqrt(torch.relu(s.a(x) - 1e3))), a=nn.Linear(6, 6), b=nn.Linear(6, 3)
    )
    trace = look_at(model, xy(), F.cross_entropy)
    assert trace.non_finite is None
    assert trace.ledger is not None
    assert trace.ledger.total_decades is None
    assert any("not finite" in note for note in trace.ledger.notes)


def test_parameters_that_the_loss_does_not_reach_are_told_apart() -> None:
    # GIVEN a head that is never called, one that is called but cut off, one never used in place
    def run(s: Any, x: Tensor) -> Tensor:
        h = torch.tanh(s.a(x))
        s.cut(h)
        return s.b(h) + 0.0 * s.zero(h)

    names = ("a", "b", "cut", "zero", "idle")
    model = Written(run, **{name: nn.Linear(6, 6 if name == "a" else 3) for name in names})
    trace = look_at(model, xy(), F.cross_entropy)
    twin = plain(model, xy(), F.cross_entropy)
    by_name = {p.name: p for p in trace.parameters}
    for name, parameter in by_name.items():
        assert parameter.reached == (twin.grads[name] is not None)
        assert parameter.module == name.split(".")[0]
        assert parameter.shape == tuple(model.get_parameter(name).shape)
    assert not by_name["idle.weight"].module_called
    assert by_name["cut.weight"].module_called
    assert not by_name["cut.weight"].reached
    assert by_name["zero.weight"].exact_zero
    assert by_name["zero.weight"].reached


def test_random_cotangents_are_booked_beside_the_losss_own() -> None:
    s = build("mlp", depth=20, activation="tanh")
    trace = look_at(s.model, s.batch, s.loss_fn)
    assert trace.ledger_random is not None
    assert trace.ledger_random.unexplained_decades == pytest.approx(0, abs=1e-9)
    assert trace.ledger_random.log10_cotangent == pytest.approx(0, abs=1e-12)
    # a random direction into a net at random weights fares as the loss's does, within a decade
    assert trace.ledger_random.total_decades == pytest.approx(trace.total_decades, abs=1.0)


def test_frozen_weights_are_weights_and_not_products() -> None:
    # GIVEN a deep net whose layers are frozen, all but the last
    specimen = build("mlp", depth=30, activation="tanh")
    for parameter in [*specimen.model.parameters()][:-2]:
        parameter.requires_grad_(False)
    trainable = build("mlp", depth=30, activation="tanh")
    # WHEN both are looked at
    frozen = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    free = look_at(trainable.model, trainable.batch, trainable.loss_fn)
    # THEN the books are the same, and the facts say what cannot be trained
    assert frozen.ledger is not None and free.ledger is not None
    assert frozen.ledger.by_cause == pytest.approx(free.ledger.by_cause)
    assert [op.weights.sigma_w for op in frozen.weights if op.weights] == pytest.approx(
        [op.weights.sigma_w for op in free.weights if op.weights]
    )
    assert [op.weights.trainable for op in frozen.weights if op.weights] == [False] * 30 + [True]
