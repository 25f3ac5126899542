"""Activations: torch's definitions, true derivatives, and the facts the theory relies on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from gradmend.theory.activations import (
    KNOWN,
    Activation,
    ActivationParameterError,
    UnknownActivation,
    activation,
    erf,
)

# A busy machine is no failure, and the same examples every time keep the suite quiet.
CALM = settings(deadline=None, derandomize=True, max_examples=50)

Tensor = torch.Tensor

TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x * 1.0,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "prelu": lambda x: functional.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
    "elu": functional.elu,
    "celu": functional.celu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    # torch turns softplus into the identity above `threshold`; it is put out of the way.
    "softplus": lambda x: functional.softplus(x, threshold=1000.0),
    "softsign": functional.softsign,
    "erf": torch.erf,
    "sin": torch.sin,
    "hardtanh": functional.hardtanh,
    "relu6": functional.relu6,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "logsigmoid": functional.logsigmoid,
    "tanhshrink": functional.tanhshrink,
    "centred_sigmoid": lambda x: 2.0 * torch.sigmoid(2.0 * x) - 1.0,
}

PARAMETRISED = {
    "leaky_relu": ("negative_slope", 0.3, lambda x: functional.leaky_relu(x, 0.3)),
    "prelu": ("negative_slope", 0.1, lambda x: functional.leaky_relu(x, 0.1)),
    "elu": ("alpha", 1.7, lambda x: functional.elu(x, alpha=1.7)),
    # A power of two: torch 2.13 rounds 1 / alpha to float32, an error of 1e-7 for other values.
    "celu": ("alpha", 0.5, lambda x: functional.celu(x, alpha=0.5)),
    "softplus": ("beta", 3.0, lambda x: functional.softplus(x, beta=3.0, threshold=1000.0)),
}


def grid(phi: Activation, reach: float = 12.0) -> np.ndarray:
    """Points all over [-reach, reach], none of them at a kink."""
    x = np.linspace(-reach, reach, 2402)
    for kink in phi.kinks:
        x = x[np.abs(x - kink) > 1e-3]
    return x


def assert_like_torch(phi: Activation, function: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor(grid(phi), requires_grad=True)
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    # Both sides compute in float64; what is left is the rounding of a few operations on numbers
    # of size ten.
    np.testing.assert_allclose(phi.value(x.detach().numpy()), y.detach().numpy(), atol=2e-14)
    np.testing.assert_allclose(phi.derivative(x.detach().numpy()), slope.numpy(), atol=2e-14)


def test_every_known_name_has_a_torch_counterpart() -> None:
    assert set(TORCH) == set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_value_and_derivative_are_those_of_torch(name: str) -> None:
    assert_like_torch(activation(name), TORCH[name])


@pytest.mark.parametrize("name", PARAMETRISED)
def test_parameters_mean_what_they_mean_in_torch(name: str) -> None:
    key, number, function = PARAMETRISED[name]
    assert_like_torch(activation(name, **{key: number}), function)


@CALM
@given(st.sampled_from(KNOWN), st.floats(-8.0, 8.0))
def test_derivative_is_the_limit_of_central_differences(name: str, x: float) -> None:
    phi, h = activation(name), 1e-5
    if any(abs(x - kink) <= 2 * h for kink in phi.kinks):
        return
    left, here, right = np.array([x - h]), np.array([x]), np.array([x + h])
    difference = (phi.value(right) - phi.value(left)) / (2 * h)
    # Truncation h^2 / 6 times a third derivative below four, plus rounding 1e-15 / h.
    assert abs(difference[0] - phi.derivative(here)[0]) < 1e-9


@pytest.mark.parametrize("name", KNOWN)
def test_max_slope_is_the_supremum_and_is_nearly_reached(name: str) -> None:
    phi = activation(name)
    x = np.concatenate((np.linspace(-40.0, 40.0, 160_002), np.array([-1e-9, 1e-9, 3.0 - 1e-9])))
    largest = np.abs(phi.derivative(x)).max()
    assert largest <= phi.max_slope * (1 + 1e-12)
    # A maximum between two points 5e-4 apart is missed by (2.5e-4)^2 / 2 times a curvature of
    # order one.
    assert largest >= phi.max_slope * (1 - 1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_stated_facts_hold(name: str) -> None:
    phi = activation(name)
    x = grid(phi, reach=50.0)
    assert phi.slope_at_zero == pytest.approx(phi.derivative(np.zeros(1))[0], abs=1e-15)
    assert phi.odd == bool(np.allclose(phi.value(-x), -phi.value(x), atol=1e-13))
    assert phi.positively_homogeneous == bool(np.allclose(phi.value(7 * x), 7 * phi.value(x)))
    assert phi.bounded == bool(np.abs(phi.value(1e6 * x)).max() < 10.0)
    assert phi.smooth == (not phi.kinks)


def test_saturated_tails_neither_warn_nor_become_nan() -> None:
    x = np.array([-1e5, -800.0, 800.0, 1e5])
    for name in KNOWN:
        phi = activation(name)
        with np.errstate(all="raise", under="ignore"):
            assert np.isfinite(phi.value(x)).all(), name
            assert np.isfinite(phi.derivative(x)).all(), name


def test_sigmoid_keeps_relative_precision_in_its_lower_tail() -> None:
    x = np.array([-700.0, -40.0])
    np.testing.assert_allclose(activation("sigmoid").value(x), np.exp(x), rtol=1e-12)


def test_centred_sigmoid_is_tanh() -> None:
    x = np.linspace(-20.0, 20.0, 401)
    np.testing.assert_allclose(activation("centred_sigmoid").value(x), np.tanh(x), atol=3e-16)


def test_erf_agrees_with_torch() -> None:
    x = np.linspace(-6.0, 6.0, 500)
    np.testing.assert_allclose(erf(x), torch.erf(torch.tensor(x)).numpy(), rtol=1e-14)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("LeakyReLU", "leaky_relu"),
        ("torch.nn.SiLU", "silu"),
        ("swish", "silu"),
        ("Linear", "identity"),
        ("hard-swish", "hardswish"),
        ("centered_sigmoid", "centred_sigmoid"),
    ],
)
def test_class_names_and_common_spellings_are_understood(spelling: str, name: str) -> None:
    assert activation(spelling) == activation(name)


def test_equal_arguments_return_the_same_object() -> None:
    assert activation("elu", alpha=0.5) is activation("ELU", alpha=0.5)
    assert activation("elu", alpha=1.0) is activation("elu")


def test_unknown_name_lists_the_known_ones_and_suggests_the_closest() -> None:
    with pytest.raises(UnknownActivation, match=r"did you mean 'gelu'\?.*leaky_relu"):
        activation("gellu")


def test_unknown_name_without_neighbour_makes_no_suggestion() -> None:
    with pytest.raises(UnknownActivation, match=r"predicted; The known names"):
        activation("zzz")


def test_parameter_of_another_activation_is_refused() -> None:
    with pytest.raises(ActivationParameterError, match=r"elu takes no negative_slope.*give alpha"):
        activation("elu", negative_slope=0.1)
    with pytest.raises(ActivationParameterError, match="tanh takes no beta"):
        activation("tanh", beta=2.0)


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_parameter_is_refused(number: float) -> None:
    with pytest.raises(ActivationParameterError, match=r"alpha = .* undefined"):
        activation("elu", alpha=number)
