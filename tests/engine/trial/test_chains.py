"""A run as one function: the numbers of layer by layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deep import batch, deep, far, gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradmend.engine.trial.express import express
from gradmend.layers.activations import TAILORED, CentredSigmoid, ScaledSigmoid, Shifted, Tailored

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.3),
    "negative leaky": lambda: nn.LeakyReLU(-0.5),
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "elu": lambda: nn.ELU(0.7),
    "elu in place": lambda: nn.ELU(inplace=True),
    "selu": nn.SELU,
    "mish": nn.Mish,
    "softsign": nn.Softsign,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "centred": CentredSigmoid,
    "scaled": ScaledSigmoid,
    "shifted relu": lambda: Shifted.around(nn.ReLU(), 0.6),
    "shifted relu in place": lambda: Shifted.around(nn.ReLU(inplace=True), 0.6),
    "shifted gelu": lambda: Shifted.around(nn.GELU(), 0.6),
    "tailored": lambda: Tailored("silu", input_scale=1.1, input_shift=0.1, output_scale=1.4),
    "two": lambda: nn.Sequential(nn.Tanh(), nn.Softplus()),
}


def plain_and_lent(model: nn.Module, x: torch.Tensor) -> tuple[Any, Any]:
    plain = gradients(model, x)
    # a rate of nought: nothing but the gradients is of interest; no group has them all
    with express(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))])) as lent:
        assert lent.lines
        return plain, gradients(model, x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_run_has_the_output_and_the_gradients_of_its_layers(name: str, bias: bool) -> None:
    # GIVEN a deep net of one activation
    model = deep(ACTIVATIONS[name], bias=bias)
    # WHEN it runs layer by layer and as one
    (output, grads), (fast, found) = plain_and_lent(model, batch()[0])
    # THEN the output is the same bit for bit, and the gradients up to roundings
    assert torch.equal(output, fast)
    assert far(grads, found) < 1e-12


@settings(max_examples=12, deadline=None)
@given(
    width=st.integers(1, 9),
    layers=st.integers(100, 140),
    size=st.integers(1, 40),
    gain=st.floats(0.5, 1.5),
    nested=st.booleans(),
    name=st.sampled_from(["tanh", "sigmoid", "relu", "gelu", "centred"]),
)
def test_whatever_the_shape(
    width: int, layers: int, size: int, gain: float, nested: bool, name: str
) -> None:
    # GIVEN a net of any width and depth, flat or of small containers, and any batch
    model = deep(ACTIVATIONS[name], layers=layers, width=width, gain=gain, nested=nested)
    # WHEN, THEN as above
    (output, grads), (fast, found) = plain_and_lent(model, batch(size=size)[0])
    assert far([output], [fast]) < 1e-12
    assert far(grads, found) < 1e-11


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "centred"])
def test_many_chunks_are_as_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a chunk of 3 layers, which does not divide their number
    monkeypatch.setattr("gradmend.engine.trial.chains.CHUNK", 3 * 7 * 8 + 1)
    # WHEN, THEN as above
    (output, grads), (fast, found) = plain_and_lent(deep(ACTIVATIONS[name]), batch()[0])
    assert torch.equal(output, fast)
    assert far(grads, found) < 1e-12


def test_in_single_precision() -> None:
    # GIVEN float32
    model = deep(dtype=torch.float32, width=32)
    # WHEN, THEN as above
    (output, grads), (fast, found) = plain_and_lent(model, batch(dtype=torch.float32)[0])
    assert torch.equal(output, fast)
    assert far(grads, found) < 1e-6


def test_a_dead_relu_stops_an_infinite_gradient() -> None:
    # GIVEN a net of dead units, and an infinite gradient behind it
    model = deep(nn.ReLU)[:-1]
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
        model[4].weight.zero_()
        model[4].bias.fill_(-1.0)
    x = batch()[0]
    model(x).sum().mul(torch.inf).backward()
    plain = [p.grad.clone() for p in model[:3].parameters()]
    # WHEN it runs as one
    model.zero_grad()
    with express(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))])) as given_:
        assert given_.lines
        model(x).sum().mul(torch.inf).backward()
        found = [p.grad.clone() for p in model[:3].parameters()]
    # THEN the first layers have the gradients they have layer by layer, none of them NaN
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert not any(bool(grad.isnan().any()) for grad in found)


def test_gradients_of_gradients() -> None:
    # GIVEN a penalty on the gradient of the input
    model = deep(nn.Tanh)
    x = batch()[0].requires_grad_()

    def penalty() -> list[torch.Tensor]:
        model.zero_grad()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        slope.square().sum().backward()
        return [torch.zeros(1) if p.grad is None else p.grad.clone() for p in model.parameters()]

    plain = penalty()
    # WHEN it runs as one
    with express(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))])) as given_:
        assert given_.lines
        found = penalty()
    # THEN the second derivatives are the same
    assert far(plain, found) < 1e-12


def test_twice_back_and_twice_forward() -> None:
    # GIVEN a loss of two runs through the net, gone back twice
    model, (x, y) = deep(nn.Tanh), batch()

    def total() -> list[torch.Tensor]:
        model.zero_grad()
        loss = (model(x) * model(y @ y.new_ones(2, 3))).sum()
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = total()
    # WHEN it runs as one
    with express(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))])):
        found = total()
    # THEN the gradients add up as ever
    assert far(plain, found) < 1e-12


def test_what_comes_out_may_be_written_into() -> None:
    # GIVEN a net that ends in a run, and somebody who changes its output in place
    model, x = deep(nn.Tanh)[:-1], batch()[0]

    def changed() -> list[torch.Tensor]:
        model.zero_grad()
        output = model(x)
        output.mul_(2.0).mul_(output.detach().clone()).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    # tanh's own backward needs its output, so layer by layer a copy has to be changed
    model.append(nn.Hardtanh(-5.0, 5.0))
    plain = changed()
    del model[-1]
    with express(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))])):
        found = changed()
    # THEN nothing that was kept for going back has changed
    assert far(plain, found) < 1e-12


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # forward mode's own
@pytest.mark.parametrize(
    "case", ["cube", "strided", "vmap", "dual", "autocast", "hook", "function"]
)
def test_what_is_not_common_runs_layer_by_layer(case: str) -> None:
    # GIVEN an input or surroundings that a run is not made for
    model, heard = deep(nn.Tanh, dtype=torch.float32), []
    x = batch(size=6, dtype=torch.float32)[0]

    def outcome() -> Any:
        if case == "cube":
            return model(x.view(2, 3, 3))
        if case == "strided":
            return model[1:](torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).t())
        if case == "vmap":
            return torch.func.vmap(model)(x)
        if case == "dual":
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
                return torch.autograd.forward_ad.unpack_dual(model(dual)).tangent
        if case == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return model(x)
        if case == "hook":
            handle = model[6].register_forward_hook(lambda *_: heard.append(1))
            output = model(x)
            handle.remove()
            return output
        return torch.func.functional_call(
            model, {name: 0.5 * p for name, p in model.named_parameters()}, (x,)
        )

    plain = outcome().detach()  # its graph would look into the parameters: nothing could be lent
    # WHEN it is given while a run is lent
    with express(model, torch.optim.SGD(model.parameters(), lr=0.1)) as given_:
        assert given_.lines
        found = outcome()
    # THEN the layers themselves are called
    assert far([plain], [found.detach()]) < 1e-6
    assert len(heard) == (2 if case == "hook" else 0)


def test_every_tailored_function_is_elementwise() -> None:
    # GIVEN each function that can be tailored
    for function in TAILORED:
        model = deep(lambda function=function: Tailored(function, input_scale=0.9), width=3)  # type: ignore[misc]
        # WHEN, THEN as above
        (output, grads), (fast, found) = plain_and_lent(model, batch()[0])
        assert torch.equal(output, fast)
        assert far(grads, found) < 1e-12
