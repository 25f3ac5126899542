"""Mean-field maps against closed forms, differences, samples and the reference's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradmend.theory import meanfield as mf
from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.initialisation import TORCH_DEFAULT_SIGMA_W

# A busy machine is no failure, and the same examples every time keep the suite quiet.
CALM = settings(deadline=None, derandomize=True, max_examples=50)

RELU, TANH, ERF, SIGMOID = (activation(n) for n in ("relu", "tanh", "erf", "sigmoid"))
HE = math.sqrt(2.0)


def test_relu_maps_are_closed() -> None:
    # Poole et al. 2016 with E[relu^2] = q / 2, and Cho and Saul 2009 for the c map.
    assert mf.q_map(RELU, 0.7, sigma_w=1.3, sigma_b=0.2) == pytest.approx(1.69 * 0.35 + 0.04)
    assert mf.chi(RELU, 0.7, sigma_w=HE) == pytest.approx(1.0, rel=1e-14)
    assert mf.q_slope(RELU, 0.7, sigma_w=HE) == pytest.approx(1.0, rel=1e-13)
    for c in (-0.5, 0.0, 0.6, 0.99):
        angle = math.acos(c)
        expected = (math.sin(angle) + (math.pi - angle) * c) / math.pi
        assert mf.c_map(RELU, 0.7, c, sigma_w=HE) == pytest.approx(expected, abs=1e-13)
        slope = 1 - angle / math.pi
        assert mf.c_slope(RELU, 0.7, c, sigma_w=HE) == pytest.approx(slope, abs=1e-13)


def test_batch_normalised_relu_explodes_by_pi_over_pi_minus_one() -> None:
    # Yang et al. 2019: centring the ReLU multiplies the squared gradient by 1.467 a layer.
    sigma_w = math.sqrt(1.0 / mf.output_variance(RELU, 1.0))
    assert mf.chi(RELU, 1.0, sigma_w=sigma_w) == pytest.approx(math.pi / (math.pi - 1), rel=1e-12)


def test_erf_maps_are_closed() -> None:
    q, sigma_w, sigma_b, c = 0.8, 1.2, 0.3, 0.4
    r = 2 * q / (1 + 2 * q)
    after = sigma_w**2 * 2 / math.pi * math.asin(r) + sigma_b**2
    chi = sigma_w**2 * 4 / math.pi / math.sqrt(1 + 4 * q)
    pair = sigma_w**2 * 2 / math.pi * math.asin(r * c) + sigma_b**2
    scales = {"sigma_w": sigma_w, "sigma_b": sigma_b}
    assert mf.q_map(ERF, q, **scales) == pytest.approx(after, rel=1e-13)
    assert mf.chi(ERF, q, sigma_w=sigma_w) == pytest.approx(chi, rel=1e-13)
    assert mf.c_map(ERF, q, c, **scales) == pytest.approx(pair / after, rel=1e-12)


@CALM
@given(st.sampled_from(KNOWN), st.floats(0.05, 20.0), st.booleans())
def test_q_slope_is_the_limit_of_differences(name: str, q: float, centred: bool) -> None:
    phi, h = activation(name), 1e-4 * q
    one_layer = mf.centred_q_map if centred else mf.q_map
    up, down = (one_layer(phi, q + s * h, sigma_w=1.4, sigma_b=0.3) for s in (1, -1))
    slope = mf.q_slope(phi, q, sigma_w=1.4, centred=centred)
    # Truncation is (h / q)^2 = 1e-8 of a slope of order one; rounding 1e-15 / 1e-4.
    assert slope == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-7)


@CALM
@given(st.sampled_from(KNOWN), st.floats(0.01, 5.0), st.floats(1.01, 3.0))
def test_q_map_increases(name: str, q: float, factor: float) -> None:
    # For sin, (1 - exp(-2 q)) / 2; for the others phi(z)^2 + phi(-z)^2 rises with abs(z). Below
    # q = 15 the rise of sin stays above rounding.
    phi = activation(name)
    below, above = (mf.q_map(phi, x, sigma_w=1.0) for x in (q, q * factor))
    assert above > below


@CALM
@given(st.sampled_from(KNOWN), st.floats(0.01, 20.0))
def test_mean_square_is_variance_plus_squared_mean(name: str, q: float) -> None:
    phi = activation(name)
    total = mf.output_variance(phi, q) + mf.output_mean(phi, q) ** 2
    assert total == pytest.approx(mf.output_mean_square(phi, q), rel=1e-12)


@pytest.mark.parametrize("name", ["tanh", "gelu", "selu", "relu6"])
def test_chi_is_the_slope_of_the_c_map_at_one(name: str) -> None:
    phi = activation(name)
    point = mf.fixed_point(phi, sigma_w=1.1, sigma_b=0.5)
    slope = mf.c_slope(phi, point.q, 1.0, sigma_w=1.1, sigma_b=0.5)
    assert slope == pytest.approx(point.chi, rel=1e-11)


def test_maps_predict_a_wide_random_layer() -> None:
    # 4000 units with fresh weights on a fixed Gaussian layer: the mean square of the next layer
    # is an average of 4000 squares, of relative standard error sqrt(2 / 4000) = 2.2 %, and the
    # incoming layer adds about as much.
    rng = np.random.default_rng(0)
    n, q, sigma_w = 4000, 0.8, 1.3
    h = np.tanh(math.sqrt(q) * rng.standard_normal(n))
    z = (sigma_w / math.sqrt(n)) * rng.standard_normal((n, n)) @ h
    expected = mf.q_map(TANH, q, sigma_w=sigma_w)
    assert np.mean(z**2) == pytest.approx(expected, rel=4 * math.sqrt(4 / n))


def test_values_at_zero_are_limits_from_above() -> None:
    assert mf.chi(RELU, 0.0, sigma_w=HE) == pytest.approx(1.0)
    assert mf.q_slope(RELU, 0.0, sigma_w=HE) == pytest.approx(1.0)
    assert mf.q_slope(TANH, 0.0, sigma_w=1.0) == pytest.approx(1.0)
    assert mf.q_map(SIGMOID, 0.0, sigma_w=2.0) == pytest.approx(1.0)


@CALM
@given(st.sampled_from(KNOWN), st.floats(0.3, 2.0), st.floats(0.05, 1.0), st.booleans())
def test_fixed_point_is_fixed(name: str, sigma_w: float, sigma_b: float, centred: bool) -> None:
    phi = activation(name)
    point = mf.fixed_point(phi, sigma_w=sigma_w, sigma_b=sigma_b, centred=centred)
    assume(math.isfinite(point.q))
    one_layer = mf.centred_q_map if centred else mf.q_map
    after = one_layer(phi, point.q, sigma_w=sigma_w, sigma_b=sigma_b)
    # A root of q' - q is known to rounding divided by the distance of the slope from one.
    assert after == pytest.approx(point.q, rel=1e-11)


def test_fixed_point_is_where_iteration_leads() -> None:
    for name in ("tanh", "sigmoid", "gelu", "softplus", "sin"):
        phi, q = activation(name), 1.0
        for _ in range(200):
            q = mf.q_map(phi, q, sigma_w=1.1, sigma_b=0.4)
        point = mf.fixed_point(phi, sigma_w=1.1, sigma_b=0.4)
        assert point.q == pytest.approx(q, rel=1e-9)
        assert point.stable


def test_fixed_point_tells_collapse_explosion_and_indifference() -> None:
    dead = mf.fixed_point(RELU, sigma_w=1.0)
    assert (dead.q, dead.stable) == (0.0, True)
    assert dead.chi == pytest.approx(0.5)
    wild = mf.fixed_point(RELU, sigma_w=2.0)
    assert (wild.q, wild.stable) == (math.inf, False)
    assert wild.chi == pytest.approx(2.0)
    level = mf.fixed_point(RELU, sigma_w=HE, start=3.0)
    assert level.q == pytest.approx(3.0)
    assert not level.stable
    edge = mf.fixed_point(TANH, sigma_w=1.0)
    assert edge.q == 0.0
    assert edge.chi == pytest.approx(1.0, abs=1e-9)


def test_unstable_q_map_of_gelu_at_he_scale_leads_away_on_both_sides() -> None:
    gelu = activation("gelu")
    assert mf.fixed_point(gelu, sigma_w=HE).q == 0.0
    assert mf.fixed_point(gelu, sigma_w=1.5, start=50.0).q == math.inf


def test_selu_design_point_is_a_stable_fixed_point_with_growing_gradients() -> None:
    # Klambauer et al. 2017: (0, 1) is fixed at LeCun scale; chi = 1.072 there.
    point = mf.fixed_point(activation("selu"), sigma_w=1.0, start=0.5)
    assert point.q == pytest.approx(1.0, abs=1e-9)
    assert point.stable
    assert point.chi == pytest.approx(1.072, abs=5e-4)


# --- the reference's table of default initialisations -----------------------------------------

WIDTH = 64
BIAS_64 = 1.0 / math.sqrt(3.0 * WIDTH)  # torch draws biases like weights: U(+-1 / sqrt(64))

# Printed to three or four digits, and decades per 100 layers to whole numbers or halves.
DEFAULT_CHI = [
    ("sigmoid", 0.0200, -85),
    ("softplus", 0.087, -53),
    ("gelu", 0.0845, -54),
    ("silu", 0.0838, -54),
    ("relu", 0.1666, -39),
    ("tanh", 0.3283, -24),
    ("elu", 0.3125, -25),
    ("selu", 0.6161, -10.5),
]


@pytest.mark.parametrize(("name", "chi", "decades"), DEFAULT_CHI)
def test_backward_gain_of_torch_default_matches_reference(
    name: str, chi: float, decades: float
) -> None:
    point = mf.fixed_point(activation(name), sigma_w=TORCH_DEFAULT_SIGMA_W, sigma_b=BIAS_64)
    assert point.chi == pytest.approx(chi, abs=2e-4)
    assert 50 * math.log10(point.chi) == pytest.approx(decades, abs=0.5)


XAVIER_AND_HE = [
    ("sigmoid", 1.0, 0.0557, -63),
    ("gelu", 1.0, 0.25, -30),
    ("silu", 1.0, 0.25, -30),
    ("relu", 1.0, 0.5, -15),
    ("tanh", 1.0, 1.0, 0),
    ("selu", 1.0, 1.072, 1.5),
    ("tanh", HE, 1.1055, 2.2),
    ("erf", HE, 1.197, 3.9),
    ("sin", HE, 1.203, 4),
    ("gelu", HE, 0.5, -15),
    ("silu", HE, 0.5, -15),
    ("sigmoid", HE, 0.101, -50),
]


@pytest.mark.parametrize(("name", "sigma_w", "chi", "decades"), XAVIER_AND_HE)
def test_backward_gain_of_xavier_and_he_matches_reference(
    name: str, sigma_w: float, chi: float, decades: float
) -> None:
    point = mf.fixed_point(activation(name), sigma_w=sigma_w)
    assert point.chi == pytest.approx(chi, abs=6e-4)
    assert 50 * math.log10(point.chi) == pytest.approx(decades, abs=0.5)


def test_torch_gain_of_tanh_explodes_and_of_selu_is_nearly_critical() -> None:
    # torch.nn.init.calculate_gain: tanh 5/3 -> chi = 1.21; selu 3/4 -> chi = 1.004.
    assert mf.fixed_point(TANH, sigma_w=5 / 3).chi == pytest.approx(1.21, abs=6e-3)
    assert mf.fixed_point(activation("selu"), sigma_w=0.75).chi == pytest.approx(1.004, abs=6e-4)


# --- depth scales -----------------------------------------------------------------------------


def test_depth_scale_is_one_over_the_logarithm() -> None:
    assert mf.depth_scale(math.e**-2) == pytest.approx(0.5)
    assert mf.depth_scale(math.e**2) == pytest.approx(0.5)
    assert mf.depth_scale(1.0) == math.inf
    assert mf.depth_scale(0.0) == 0.0
    with pytest.raises(ValueError, match="no depth scale"):
        mf.depth_scale(-1.0)


def test_ordered_phase_forgets_at_the_rate_of_its_gradients() -> None:
    scales = {"sigma_w": 1.0, "sigma_b": 0.3}
    assert mf.xi_c(TANH, **scales) == pytest.approx(mf.xi_grad(TANH, **scales), rel=1e-9)
    assert mf.trainable_depth(TANH, **scales) == pytest.approx(6 * mf.xi_c(TANH, **scales))


def test_chaotic_erf_without_bias_forgets_completely() -> None:
    # c* = 0 for odd phi without bias, and dc'/dc there is sigma_w^2 E[phi']^2 with
    # E[phi'] = 2 / sqrt(pi (1 + 2 q)).
    point = mf.fixed_point(ERF, sigma_w=1.5)
    assert point.chi > 1.0
    assert mf.correlation_fixed_point(ERF, point.q, sigma_w=1.5) == 0.0
    slope = 1.5**2 * 4 / math.pi / (1 + 2 * point.q)
    assert mf.xi_c(ERF, sigma_w=1.5) == pytest.approx(1 / abs(math.log(slope)), rel=1e-9)


def test_chaotic_phase_has_a_correlation_below_one_that_iteration_finds() -> None:
    scales = {"sigma_w": 1.8, "sigma_b": 0.3}
    q = mf.fixed_point(TANH, **scales).q
    c = 0.9
    for _ in range(300):
        c = mf.c_map(TANH, q, c, **scales)
    assert 0.0 < c < 1.0
    assert mf.correlation_fixed_point(TANH, q, **scales) == pytest.approx(c, abs=1e-9)
    assert 0 < mf.xi_c(TANH, **scales) < math.inf


def test_critical_weight_scale_of_schoenholz_has_diverging_depth() -> None:
    # Schoenholz et al. 2017: at sigma_b^2 = 0.05 the transition is at sigma_w^2 = 1.76.
    sigma_b = math.sqrt(0.05)
    at, off = (
        mf.trainable_depth(TANH, sigma_w=math.sqrt(s), sigma_b=sigma_b) for s in (1.761, 1.3)
    )
    assert at > 1000
    assert off < 60


def test_explosion_has_no_correlation_length() -> None:
    with pytest.raises(ValueError, match=r"explodes.*lower sigma_w"):
        mf.xi_c(RELU, sigma_w=2.0)


def test_collapse_uses_the_slope_at_the_origin() -> None:
    assert mf.xi_c(RELU, sigma_w=1.0) == pytest.approx(1 / math.log(2), rel=1e-9)


@pytest.mark.parametrize("q", [1e-4, 0.3, 2.0])
def test_curvature_of_sin_is_closed(q: float) -> None:
    # phi'' = -sin: C''(1) = sigma_w^2 q (1 - exp(-2 q)) / 2. Six digits from central differences.
    expected = q * -math.expm1(-2 * q) / 2
    assert mf.c_curvature(activation("sin"), q, sigma_w=1.0) == pytest.approx(expected, rel=1e-5)


def test_curvature_is_that_of_the_c_map() -> None:
    gelu, q, h = activation("gelu"), 0.5, 1e-4
    sigma_w, sigma_b = 1.5670, math.sqrt(0.0345)
    near, one = (mf.c_slope(gelu, q, c, sigma_w=sigma_w, sigma_b=sigma_b) for c in (1 - h, 1.0))
    # First-order difference, so good to h times the third derivative.
    assert mf.c_curvature(gelu, q, sigma_w=sigma_w) == pytest.approx((one - near) / h, rel=1e-3)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_impossible_scales_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="sigma_w"):
        mf.q_map(TANH, 1.0, sigma_w=bad)
    with pytest.raises(ValueError, match="sigma_b"):
        mf.fixed_point(TANH, sigma_w=1.0, sigma_b=bad)
    with pytest.raises(ValueError, match="variance"):
        mf.chi(TANH, bad, sigma_w=1.0)


def test_identically_zero_layers_have_no_correlation() -> None:
    with pytest.raises(ValueError, match="identically zero"):
        mf.c_map(TANH, 0.0, 0.5, sigma_w=1.0)


def test_fixed_point_needs_a_positive_start() -> None:
    with pytest.raises(ValueError, match="start"):
        mf.fixed_point(TANH, sigma_w=1.0, start=0.0)
