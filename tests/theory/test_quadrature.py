"""Gaussian expectations against closed forms, an independent integrator, and samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.quadrature import gaussian_mean, gaussian_nodes, gaussian_pair_mean

# A busy machine is no failure, and the same examples every time keep the suite quiet.
CALM = settings(deadline=None, derandomize=True, max_examples=50)

VARIANCES = [1e-6, 0.03, 1.0, 45.0, 1e4]
CORRELATIONS = [-1.0, -0.999, -0.4, 0.0, 0.3, 0.9, 0.9999, 1.0]


@pytest.mark.parametrize("q", VARIANCES)
def test_weights_sum_to_one_and_moments_are_gaussian(q: float) -> None:
    z, weights = gaussian_nodes(q, mean=0.5)
    assert weights.sum() == pytest.approx(1.0, rel=1e-14)
    assert weights @ z == pytest.approx(0.5, rel=1e-11)
    assert weights @ (z - 0.5) ** 2 == pytest.approx(q, rel=1e-13)
    assert weights @ (z - 0.5) ** 4 == pytest.approx(3 * q * q, rel=1e-13)


@pytest.mark.parametrize("q", VARIANCES)
def test_relu_keeps_half_of_the_power(q: float) -> None:
    phi = activation("relu")
    square = gaussian_mean(lambda z: phi.value(z) ** 2, q, kinks=phi.kinks)
    slope = gaussian_mean(lambda z: phi.derivative(z) ** 2, q, kinks=phi.kinks)
    mean = gaussian_mean(phi.value, q, kinks=phi.kinks)
    assert square == pytest.approx(q / 2, rel=1e-13)
    assert slope == pytest.approx(0.5, rel=1e-13)
    assert mean == pytest.approx(math.sqrt(q / (2 * math.pi)), rel=1e-13)


@pytest.mark.parametrize("q", VARIANCES)
def test_erf_mean_square_has_the_form_of_williams_1997(q: float) -> None:
    expected = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
    actual = gaussian_mean(lambda z: activation("erf").value(z) ** 2, q)
    assert actual == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("q", VARIANCES)
def test_sin_mean_square_is_closed(q: float) -> None:
    actual = gaussian_mean(lambda z: np.sin(z) ** 2, q)
    assert actual == pytest.approx(-math.expm1(-2 * q) / 2, rel=1e-12)


def test_gelu_mean_is_closed() -> None:
    # E[z Phi(z)] = q E[density(z)] = q / sqrt(2 pi (1 + q)), by Stein's lemma.
    q = 1.7
    expected = q / math.sqrt(2 * math.pi * (1 + q))
    assert gaussian_mean(activation("gelu").value, q) == pytest.approx(expected, rel=1e-13)


def test_smooth_functions_agree_with_gauss_hermite() -> None:
    u, weights = np.polynomial.hermite_e.hermegauss(150)
    for name in ("tanh", "gelu", "silu", "mish", "sigmoid"):
        phi = activation(name)
        hermite = weights @ phi.value(math.sqrt(0.3) * u) ** 2 / weights.sum()
        ours = gaussian_mean(lambda z, phi=phi: phi.value(z) ** 2, 0.3)
        # Gauss-Hermite converges like exp(-const sqrt(n)) for functions with poles.
        assert ours == pytest.approx(hermite, rel=1e-9)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("q", [0.01, 45.6])
def test_every_activation_agrees_with_adaptive_integration(name: str, q: float) -> None:
    phi = activation(name)

    def integrand(z: float) -> float:
        density = math.exp(-0.5 * z * z / q) / math.sqrt(2 * math.pi * q)
        return float(phi.value(np.array([z]))[0] ** 2) * density

    reach = 10 * math.sqrt(q)
    breaks = [k for k in (*phi.kinks, 0.0) if abs(k) < reach]
    expected, _ = scipy.integrate.quad(
        integrand, -reach, reach, points=breaks, epsabs=0, epsrel=1e-10, limit=400
    )
    ours = gaussian_mean(lambda z: phi.value(z) ** 2, q, kinks=phi.kinks)
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["tanh", "elu", "relu6", "mish"])
def test_monte_carlo_mean_lies_within_four_standard_errors(name: str) -> None:
    phi = activation(name)
    z = 0.4 + 1.5 * np.random.default_rng(3).standard_normal(200_000)
    samples = phi.value(z)
    ours = gaussian_mean(phi.value, 2.25, mean=0.4, kinks=phi.kinks)
    assert abs(samples.mean() - ours) < 4 * samples.std() / math.sqrt(samples.size)


def test_unnamed_kinks_cost_digits_and_rough_panels_win_them_back() -> None:
    def step(z: np.ndarray) -> np.ndarray:
        return np.where(z > 0.3, 1.0, 0.0)

    exact = 0.5 * math.erfc(0.3 / math.sqrt(2))
    assert gaussian_mean(step, 1.0, kinks=(0.3,)) == pytest.approx(exact, rel=1e-13)
    assert gaussian_mean(step, 1.0, smooth=False) == pytest.approx(exact, abs=5e-4)


def test_zero_variance_evaluates_at_the_mean() -> None:
    assert gaussian_mean(np.exp, 0.0, mean=2.0) == pytest.approx(math.exp(2.0))
    assert gaussian_pair_mean(np.cos, 0.0, 0.5) == 1.0


@pytest.mark.parametrize("c", CORRELATIONS)
@pytest.mark.parametrize("q", [0.02, 1.0, 60.0])
def test_pair_mean_of_relu_is_the_arc_cosine_kernel(q: float, c: float) -> None:
    # Cho and Saul 2009, n = 1 for the values and n = 0 for the slopes.
    phi = activation("relu")
    angle = math.acos(c)
    values = q * (math.sin(angle) + (math.pi - angle) * c) / (2 * math.pi)
    slopes = (math.pi - angle) / (2 * math.pi)
    assert gaussian_pair_mean(phi.value, q, c, kinks=phi.kinks) == pytest.approx(
        values, rel=1e-11, abs=1e-14 * q
    )
    assert gaussian_pair_mean(phi.derivative, q, c, kinks=phi.kinks) == pytest.approx(
        slopes, rel=1e-11, abs=1e-14
    )


@pytest.mark.parametrize("c", CORRELATIONS)
@pytest.mark.parametrize("q", [0.02, 1.0, 60.0])
def test_pair_mean_of_erf_has_the_form_of_williams_1997(q: float, c: float) -> None:
    values = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
    slopes = 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
    phi = activation("erf")
    assert gaussian_pair_mean(phi.value, q, c) == pytest.approx(values, rel=1e-11, abs=1e-14)
    assert gaussian_pair_mean(phi.derivative, q, c) == pytest.approx(slopes, rel=1e-11)


@pytest.mark.parametrize("name", ["hardtanh", "selu", "softsign", "gelu"])
def test_pair_mean_lies_within_four_standard_errors_of_samples(name: str) -> None:
    phi, q, c = activation(name), 1.5, 0.8
    u, v = np.random.default_rng(7).standard_normal((2, 200_000))
    second = c * u + math.sqrt(1 - c * c) * v
    samples = phi.value(math.sqrt(q) * u) * phi.value(math.sqrt(q) * second)
    ours = gaussian_pair_mean(phi.value, q, c, kinks=phi.kinks)
    assert abs(samples.mean() - ours) < 4 * samples.std() / math.sqrt(samples.size)


@CALM
@given(st.sampled_from(KNOWN), st.floats(0.01, 20.0))
def test_gaussian_poincare_inequality_holds_for_every_activation(name: str, q: float) -> None:
    phi = activation(name)
    z, weights = gaussian_nodes(q, kinks=phi.kinks)
    variance = weights @ (phi.value(z) - weights @ phi.value(z)) ** 2
    assert variance <= q * (weights @ phi.derivative(z) ** 2) * (1 + 1e-12)


@pytest.mark.parametrize("variance", [-1.0, float("nan"), float("inf")])
def test_impossible_variance_is_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="has no Gaussian"):
        gaussian_mean(np.tanh, variance)


def test_impossible_correlation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give a number in \[-1, 1\]"):
        gaussian_pair_mean(np.tanh, 1.0, 1.5)
