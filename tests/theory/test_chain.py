"""Chain predictions against hand calculation, the maps, and real torch networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradmend.theory import meanfield as mf
from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.chain import (
    BETA_LINEAR,
    LayerSpec,
    finite_width_band,
    predict_chain,
)


def uniform_chain(name: str | None, depth: int, sigma_w: float, width: int = 64) -> list[LayerSpec]:
    return [
        LayerSpec(
            fan_in=width,
            fan_out=width,
            weight_mean_square=sigma_w**2 / width,
            activation=name,
        )
        for _ in range(depth)
    ]


def test_he_relu_chain_is_flat() -> None:
    for layer in predict_chain(uniform_chain("relu", 50, math.sqrt(2)), 1.0):
        assert layer.q == pytest.approx(2.0)
        assert layer.offset_share == pytest.approx(1 / math.pi)
        assert layer.gradient_gain_decades == pytest.approx(0.0, abs=1e-14)
        assert layer.weight_decades == pytest.approx(0.5 * math.log10(2))


@pytest.mark.parametrize("name", KNOWN)
def test_chain_iterates_the_q_map(name: str) -> None:
    phi, sigma_w = activation(name), 0.8
    q = sigma_w**2
    for layer in predict_chain(uniform_chain(name, 4, sigma_w), 1.0):
        assert layer.q == pytest.approx(q, rel=1e-12)
        chi = mf.chi(phi, q, sigma_w=sigma_w)
        assert 2 * layer.gradient_gain_decades == pytest.approx(math.log10(chi), abs=1e-12)
        share = mf.output_mean(phi, q) ** 2 / mf.output_mean_square(phi, q)
        assert layer.offset_share == pytest.approx(share, abs=1e-12)
        q = mf.q_map(phi, q, sigma_w=sigma_w)


def test_centred_chain_iterates_the_centred_map() -> None:
    sigmoid = activation("sigmoid")
    first, *rest = uniform_chain("sigmoid", 3, 4.2)
    layers = [
        first,
        *(
            LayerSpec(
                fan_in=s.fan_in,
                fan_out=s.fan_out,
                weight_mean_square=s.weight_mean_square,
                activation="sigmoid",
                centred=True,
            )
            for s in rest
        ),
    ]
    q = 4.2**2 * 0.1
    for layer in predict_chain(layers, 0.1):
        assert layer.q == pytest.approx(q, rel=1e-12)
        q = mf.centred_q_map(sigmoid, q, sigma_w=4.2)


def test_default_sigmoid_chain_names_its_two_faults() -> None:
    *_, last = predict_chain(uniform_chain("sigmoid", 20, 1 / math.sqrt(3)), 1.0)
    assert last.offset_share > 0.98
    assert 100 * last.gradient_gain_decades == pytest.approx(-85, abs=0.5)


def test_vanishing_and_exploding_chains_stay_finite_and_keep_their_gains() -> None:
    for name, sigma_w, decades in (("relu", 0.1, -1.15), ("tanh", 0.1, -1.0), ("relu", 50.0, 1.55)):
        *_, last = predict_chain(uniform_chain(name, 3000, sigma_w), 1.0)
        assert math.isfinite(last.q)
        assert last.gradient_gain_decades == pytest.approx(decades, abs=0.01)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("power", [1e-300, 1e300])
def test_extreme_inputs_give_finite_gains_without_warnings(name: str, power: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        for layer in predict_chain(uniform_chain(name, 3, 1.0), power):
            assert math.isfinite(layer.q)
            # A saturated unit passes on next to nothing, and tanhshrink is flat at the origin.
            assert layer.activation_decades <= math.log10(activation(name).max_slope) + 1e-12
            assert 0.0 <= layer.offset_share <= 1.0


def test_zero_weights_stop_every_gradient() -> None:
    (layer,) = predict_chain(uniform_chain("tanh", 1, 0.0), 1.0)
    assert layer.weight_decades == -math.inf
    assert layer.signal_gain_decades == -math.inf


def test_linear_output_layer_has_no_activation_gain() -> None:
    (layer,) = predict_chain(uniform_chain(None, 1, 1.0), 1.0)
    assert (layer.activation_decades, layer.offset_share) == (0.0, 0.0)


def test_parameters_of_the_activation_are_used() -> None:
    spec = LayerSpec(
        fan_in=2, fan_out=2, weight_mean_square=0.5, activation="LeakyReLU", negative_slope=0.5
    )
    (layer,) = predict_chain([spec], 1.0)
    assert layer.activation_decades == pytest.approx(0.5 * math.log10(0.625))


WIDTH, DEPTH = 512, 6


def measured_chain(
    name: str, module: type[torch.nn.Module], sigma_w: float, sigma_b: float
) -> tuple[list[LayerSpec], torch.Tensor, list[float], list[float], list[float]]:
    """Build a random torch net; return its specs, input, and per-layer q and gradient gains."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, WIDTH, generator=generator).requires_grad_()
    specs, pre, post, h = [], [], [x], x
    for _ in range(DEPTH):
        weight = torch.randn(WIDTH, WIDTH, generator=generator) * sigma_w / math.sqrt(WIDTH)
        bias = torch.randn(WIDTH, generator=generator) * sigma_b
        pre.append(h @ weight.T + bias)
        h = module()(pre[-1])
        post.append(h)
        specs.append(
            LayerSpec(
                fan_in=WIDTH,
                fan_out=WIDTH,
                weight_mean_square=weight.square().mean().item(),
                bias_mean_square=bias.square().mean().item(),
                activation=name,
            )
        )
    cotangent = torch.randn(h.shape, generator=generator)
    g_pre = torch.autograd.grad(h, pre, cotangent, retain_graph=True)
    g_post = torch.autograd.grad(h, post, cotangent)
    phi_gain = [
        math.log10((a.norm() / b.norm()).item()) for a, b in zip(g_pre, g_post[1:], strict=True)
    ]
    w_gain = [
        math.log10((a.norm() / b.norm()).item()) for a, b in zip(g_post[:-1], g_pre, strict=True)
    ]
    return specs, x, [z.detach().square().mean().item() for z in pre], phi_gain, w_gain


CASES = [
    ("tanh", torch.nn.Tanh, 1.3, 0.2),
    ("relu", torch.nn.ReLU, math.sqrt(2), 0.0),
    ("sigmoid", torch.nn.Sigmoid, 1.0, 0.1),
    ("gelu", torch.nn.GELU, 1.6, 0.2),
    ("selu", torch.nn.SELU, 1.0, 0.0),
]


@pytest.mark.parametrize(("name", "module", "sigma_w", "sigma_b"), CASES)
def test_prediction_matches_autograd_at_width_512(
    name: str, module: type[torch.nn.Module], sigma_w: float, sigma_b: float
) -> None:
    specs, x, q, phi_gain, w_gain = measured_chain(name, module, sigma_w, sigma_b)
    predicted = predict_chain(specs, x.detach().square().mean().item())
    # One layer's ln of a mean square fluctuates by sqrt(5 / 512) = 0.1 at most, and q accumulates
    # that over six layers: 0.25, of which two standard deviations are allowed. Gains are
    # measured layer by layer, so they do not accumulate: two standard deviations are 0.2 in
    # ln of the square, 0.043 decades of the norm; thirty-two inputs share the weights.
    for layer, q_l, a_l, w_l in zip(predicted, q, phi_gain, w_gain, strict=True):
        assert abs(math.log(q_l / layer.q)) < 0.5
        assert a_l == pytest.approx(layer.activation_decades, abs=0.043)
        assert w_l == pytest.approx(layer.weight_decades, abs=0.043)
    total = sum(layer.gradient_gain_decades for layer in predicted)
    band = 2 * finite_width_band([WIDTH] * DEPTH)
    assert sum(phi_gain) + sum(w_gain) == pytest.approx(total, abs=band)


@pytest.mark.parametrize(("relu", "beta"), [(True, 5.0), (False, BETA_LINEAR)])
def test_band_is_the_spread_of_random_networks(relu: bool, beta: float) -> None:
    # Hanin and Nica 2018: the standard deviation over 1500 draws of 12 layers of width 40 has a
    # standard error of 1 / sqrt(2 * 1500) = 1.8 %; corrections of order 1 / width come on top.
    rng = np.random.default_rng(4)
    width, depth, draws = 40, 12, 1500
    g = np.ones((draws, width)) / math.sqrt(width)
    for _ in range(depth):
        weight = rng.standard_normal((draws, width, width)) * math.sqrt((1 + relu) / width)
        g = np.einsum("dij,dj->di", weight, g)
        if relu:  # seen from a fixed vector, the sign pattern of a fresh layer is a coin per unit
            g = np.where(g > 0, g, 0.0)
    decades = 0.5 * np.log10((g**2).sum(axis=1))
    assert decades.std() == pytest.approx(finite_width_band([width] * depth, beta=beta), rel=0.1)


def test_band_shrinks_with_width_and_is_zero_without_layers() -> None:
    assert finite_width_band([]) == 0.0
    assert finite_width_band([400]) == pytest.approx(finite_width_band([100]) / 2)


def test_impossible_descriptions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight_mean_square = nan.*NaN"):
        LayerSpec(fan_in=2, fan_out=2, weight_mean_square=float("nan"))
    with pytest.raises(ValueError, match="at least one"):
        LayerSpec(fan_in=0, fan_out=2, weight_mean_square=1.0)
    with pytest.raises(ValueError, match="no activation is called"):
        LayerSpec(fan_in=2, fan_out=2, weight_mean_square=1.0, activation="nonsense")
    with pytest.raises(ValueError, match="input_mean_square"):
        predict_chain([], -1.0)
    with pytest.raises(ValueError, match="widths >= 1"):
        finite_width_band([0])


def test_layers_that_do_not_follow_one_another_are_refused() -> None:
    a = LayerSpec(fan_in=4, fan_out=3, weight_mean_square=1.0, activation="tanh")
    with pytest.raises(ValueError, match="layer 1 has fan_in = 4 but 3 units come in"):
        predict_chain([a, a], 1.0)


def test_convolutions_read_a_patch_of_channels() -> None:
    first = LayerSpec(fan_in=27, fan_out=16, weight_mean_square=2 / 27, activation="relu")
    second = LayerSpec(fan_in=144, fan_out=16, weight_mean_square=2 / 144, activation="relu")
    assert predict_chain([first, second], 1.0)[1].q == pytest.approx(2.0)
