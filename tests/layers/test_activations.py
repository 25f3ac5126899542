"""Inserted activations against their definitions, saved, scripted and of any type."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmend.layers import TAILORED, CentredSigmoid, ScaledSigmoid, Shifted, Tailored

X = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
REFERENCE = {
    "elu": nn.ELU(),
    "erf": torch.erf,
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "leaky_relu": nn.LeakyReLU(0.3),
    "selu": nn.SELU(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "softsign": nn.Softsign(),
    "tanh": nn.Tanh(),
}


def test_centred_and_scaled_sigmoids_are_tanh_in_two_sizes() -> None:
    assert torch.allclose(CentredSigmoid()(X), torch.tanh(X), atol=1e-15)
    assert torch.allclose(ScaledSigmoid()(X), 2.0 * torch.tanh(X / 2.0), atol=1e-15)


@pytest.mark.parametrize("layer", [CentredSigmoid(), ScaledSigmoid()])
def test_both_have_slope_one_and_no_offset_at_the_origin(layer: nn.Module) -> None:
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    y = layer(x)
    (slope,) = torch.autograd.grad(y, x)
    assert float(y.detach()) == 0.0
    assert float(slope) == pytest.approx(1.0)


@pytest.mark.parametrize("function", TAILORED)
@given(
    a=st.floats(-2, 2), b=st.floats(-2, 2), g=st.floats(-3, 3), d=st.floats(-2, 2)
)  # fmt: skip
def test_tailored_is_what_it_says(function: str, a: float, b: float, g: float, d: float) -> None:
    layer = Tailored(
        function, input_scale=a, input_shift=b, output_scale=g, output_shift=d, negative_slope=0.3
    ).double()
    # The constants are float32 buffers until the model is double.
    a, b, g, d = (float(torch.tensor(value)) for value in (a, b, g, d))
    expected = g * (REFERENCE[function](a * X + b) + d)
    assert torch.allclose(layer(X), expected, atol=1e-12)


def test_constants_are_saved_and_loaded_with_the_model() -> None:
    # GIVEN a model with a tailored activation, and one built with other constants
    saved = nn.Sequential(nn.Linear(3, 3), Tailored("tanh", input_scale=0.2, output_scale=5.0))
    other = nn.Sequential(nn.Linear(3, 3), Tailored("tanh"))
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    # WHEN it is loaded THEN it computes the same, and nothing of it is trained
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(5, 3)
    assert torch.equal(saved(x), other(x))
    assert [name for name, _ in saved.named_parameters()] == ["0.weight", "0.bias"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tailored_keeps_the_type_of_its_input(dtype: torch.dtype) -> None:
    x = torch.randn(4, dtype=dtype)
    assert Tailored("tanh", input_scale=0.5)(x).dtype == dtype


def test_an_unknown_function_is_refused_and_the_known_ones_print_themselves() -> None:
    with pytest.raises(ValueError, match="cannot be tailored"):
        Tailored("relu7")
    assert "negative_slope=0.4" in repr(Tailored("leaky_relu", negative_slope=0.4))


def test_gradients_agree_with_finite_differences() -> None:
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    for function in TAILORED:
        layer = Tailored(function, input_scale=0.7, input_shift=0.2, output_scale=2.0).double()

        def run(x: Tensor, layer: nn.Module = layer) -> Tensor:
            result: Tensor = layer(x)
            return result

        assert torch.autograd.gradcheck(run, (x,))


@pytest.mark.parametrize("inner", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SELU()])
def test_a_shifted_activation_is_the_plain_one_between_affine_maps(inner: nn.Module) -> None:
    # GIVEN an activation around 2 WHEN its map is undone
    shifted = Shifted.around(inner, 2.0)
    plain = shifted(X - 2.0) * shifted.slope + shifted.offset
    # THEN it is the plain one; at zero it puts out nothing, with a slope of one
    assert torch.allclose(plain, inner(X.clone()), atol=1e-14)
    at = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    there = shifted(at)
    (slope,) = torch.autograd.grad(there, at)
    assert float(there.detach()) == pytest.approx(0.0, abs=1e-15)
    assert float(slope) == pytest.approx(1.0, abs=1e-14)


def test_a_shifted_relu_stops_what_the_plain_one_stops() -> None:
    # GIVEN a kink, its sides, and no number
    x = torch.tensor([-2.1, -2.0, -1.9, torch.nan], requires_grad=True)
    y = Shifted.around(nn.ReLU(), 2.0)(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.detach()[:3].tolist() == pytest.approx([-2.0, -2.0, -1.9])
    assert torch.isnan(y[3])
    assert slope[:3].tolist() == [0.0, 0.0, 1.0]
