"""Gradients far below the smallest float are booked as exactly as any."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from probe_models import Written
from probe_twins import assert_balanced, look_at, plain
from torch import Tensor, nn

from gradmend.zoo import build


def backward_by_hand(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, dict[str, float]]:
    """(whole gain, log10 |grad| of each weight) of a sigmoid perceptron, layer by layer.

    The formulas of the chain rule on plain matrices; after each layer the gradient is divided
    by its norm, whose logarithm is kept. No autograd.
    """
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double() for layer in layers]
    biases = [layer.bias.detach().double() for layer in layers]
    reads = [x.double()]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        reads.append(torch.sigmoid(reads[-1] @ weight.T + bias))
    logits = reads[-1] @ weights[-1].T + biases[-1]
    delta = (torch.softmax(logits, 1) - F.one_hot(y, logits.shape[1])) / len(y)
    border = scale = math.log10(float(delta.norm()))
    delta = delta / delta.norm()
    found = {}
    for number in reversed(range(len(layers))):
        grad = delta.T @ reads[number]
        found[f"{2 * number}.weight"] = math.log10(float(grad.norm())) + scale
        delta = delta @ weights[number]
        if number:
            delta = delta * reads[number] * (1 - reads[number])
        size = float(delta.norm())
        scale += math.log10(size)
        delta = delta / size
    return scale - border, found


@pytest.mark.parametrize("depth", [100, 400, 3000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_deep_sigmoid_net_is_booked_to_its_inputs(depth: int) -> None:
    # GIVEN a net so deep that from 400 layers on its input gradient is below 1e-308
    specimen = build("mlp", depth=depth, activation="sigmoid", width=16 if depth < 1000 else 4)
    x, y = specimen.batch
    expected, weights = backward_by_hand(specimen.model, x, y)
    # WHEN it is looked at
    trace = look_at(specimen.model, (x, y), specimen.loss_fn)
    # THEN total and parameters agree with the chain rule by hand
    assert trace.total_decades == pytest.approx(expected, rel=1e-13, abs=1e-9)
    assert_balanced(trace)
    measured = {p.name: p.log10_grad for p in trace.parameters}
    for name, value in weights.items():
        assert measured[name] == pytest.approx(value, rel=1e-13, abs=1e-9)
    if depth >= 400:
        assert expected < -308
        assert not any(p.exact_zero for p in trace.parameters)


def test_native_precision_agrees_to_a_thousandth() -> None:
    # GIVEN a float32 net whose input gradient is far below float32's smallest number
    specimen = build("mlp", depth=100, activation="sigmoid")
    expected, _ = backward_by_hand(specimen.model, *specimen.batch)
    assert expected < -60
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn, precision="native")
    assert trace.run.probe_dtype == "float32"
    assert trace.total_decades == pytest.approx(expected, abs=1e-3)
    assert trace.ledger is not None
    assert trace.ledger.unexplained_decades is not None
    assert trace.ledger.unexplained_decades < 1e-3


def test_an_exploding_net_is_booked_beyond_the_largest_float() -> None:
    # GIVEN 60 orthogonal layers of gain 1e6 (forward 1e360 would overflow, so one scales down)
    class Down(torch.autograd.Function):
        """Divides by 1e6 going forward, and not going back."""

        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x / 1e6

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            return grad

    def run(s: nn.Module, x: Tensor) -> Tensor:
        for layer in s.layers:  # type: ignore[union-attr]
            x = Down.apply(layer(x))
        return x

    layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(60)).double()
    for layer in layers:
        nn.init.orthogonal_(layer.weight, 1e6)
    batch = (torch.randn(4, 8), torch.randn(4, 8))
    trace = look_at(Written(run, layers=layers), batch, F.mse_loss)
    assert trace.total_decades == pytest.approx(360.0, abs=1e-9)
    assert_balanced(trace)


@pytest.mark.parametrize("form", ["mapping", "forward"])
def test_a_float_target_beside_the_input_raises_no_floor(form: str) -> None:
    # GIVEN a batch that holds a float target, which only the loss reads
    specimen = build("mlp", depth=400, activation="sigmoid", width=8, features=8, classes=8)
    x, _ = specimen.batch
    model = Written(lambda s, x, y=None: s.body(x), body=specimen.model)
    batch = {"x": x, "y": torch.randn(len(x), 8)}
    # WHEN it is looked at
    if form == "mapping":
        trace = look_at(model, batch, lambda out, b: F.mse_loss(out, b["y"]))
    else:
        trace = look_at(model, batch, forward=lambda m, b: F.mse_loss(m(b["x"]), b["y"]))
    # THEN the chain is still cut and rescaled: the gradient is no false zero
    pair = look_at(model, ((x,), batch["y"]), F.mse_loss)
    assert trace.total_decades is not None
    assert trace.total_decades < -308
    assert trace.total_decades == pytest.approx(pair.total_decades, abs=1e-9)
    assert_balanced(trace)


def test_a_residual_net_of_400_blocks_is_cut_between_blocks() -> None:
    # GIVEN blocks (x + tanh(Wx)) / 8, which lose most of a decade each
    def run(s: nn.Module, x: Tensor) -> Tensor:
        for layer in s.layers:  # type: ignore[union-attr]
            x = (x + torch.tanh(layer(x))) * 0.125
        return x

    model = Written(run, layers=nn.ModuleList(nn.Linear(6, 6) for _ in range(400)))
    batch = (torch.randn(4, 6), torch.randn(4, 6))
    trace = look_at(model, batch, F.mse_loss)
    assert trace.total_decades is not None
    assert trace.total_decades < -308
    assert_balanced(trace)
    # AND where plain autograd can still follow, both agree
    model.layers = model.layers[:100]  # type: ignore[index]
    trace = look_at(model, batch, F.mse_loss)
    assert trace.total_decades == pytest.approx(plain(model, batch, F.mse_loss).total, abs=1e-9)


def test_a_deep_branch_beside_a_skip_of_the_input_is_no_exact_zero() -> None:
    # GIVEN 400 sigmoid layers, and the input added again behind them: nothing can be cut
    body = build("mlp", depth=400, activation="sigmoid", width=8, features=8, classes=8).model
    model = Written(lambda s, x: s.body(x) + x, body=body)
    trace = look_at(model, (torch.randn(5, 8), torch.randn(5, 8)), F.mse_loss)
    assert_balanced(trace)
    # THEN the first layer's gradient, about 1e-340, is not called exactly zero
    assert not any(p.exact_zero for p in trace.parameters)


@pytest.mark.slow
def test_ten_thousand_layers() -> None:
    specimen = build("mlp", depth=10_000, activation="sigmoid", width=4)
    expected, _ = backward_by_hand(specimen.model, *specimen.batch)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    assert trace.total_decades == pytest.approx(expected, rel=1e-10)
