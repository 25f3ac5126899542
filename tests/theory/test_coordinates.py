"""Sigmoid and tanh coordinates describe one and the same function."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmend.theory.coordinates import (
    Layer,
    LayerShapeError,
    fold_input,
    fold_output,
    sigmoid_to_tanh,
    tanh_to_sigmoid,
)

# A busy machine is no failure, and the same examples every time keep the suite quiet.
CALM = settings(deadline=None, derandomize=True, max_examples=50)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def centred_sigmoid(x: np.ndarray) -> np.ndarray:
    return 2.0 * sigmoid(2.0 * x) - 1.0


def run(layers: list[Layer], x: np.ndarray, phi: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Outputs [batch, n_out] for inputs [batch, n_in]."""
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = phi(x @ w.T + b)
    return x @ weight.T + bias


def random_layers(widths: list[int], seed: int, scale: float) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [
        (scale * rng.standard_normal((n_out, n_in)) / np.sqrt(n_in), rng.standard_normal(n_out))
        for n_in, n_out in pairwise(widths)
    ]


WIDTHS = st.lists(st.integers(1, 6), min_size=3, max_size=6)
SEEDS = st.integers(0, 10_000)
SCALES = st.floats(0.1, 3.0)


@CALM
@given(WIDTHS, SEEDS, SCALES)
def test_tanh_network_is_the_same_function(widths: list[int], seed: int, scale: float) -> None:
    layers = random_layers(widths, seed, scale)
    x = np.random.default_rng(seed + 1).standard_normal((5, widths[0]))
    expected = run(layers, x, sigmoid)
    # At most five layers of gain below 3 * sqrt(6) amplify rounding of 1e-16.
    np.testing.assert_allclose(run(sigmoid_to_tanh(layers), x, np.tanh), expected, atol=1e-11)


@CALM
@given(WIDTHS, SEEDS, SCALES)
def test_sigmoid_network_is_the_same_function(widths: list[int], seed: int, scale: float) -> None:
    layers = random_layers(widths, seed, scale)
    x = np.random.default_rng(seed + 1).standard_normal((5, widths[0]))
    expected = run(layers, x, np.tanh)
    np.testing.assert_allclose(run(tanh_to_sigmoid(layers), x, sigmoid), expected, atol=1e-9)


@CALM
@given(WIDTHS, SEEDS, SCALES)
def test_round_trip_returns_weights_bit_for_bit(widths: list[int], seed: int, scale: float) -> None:
    layers = random_layers(widths, seed, scale)
    for there, back in ((sigmoid_to_tanh, tanh_to_sigmoid), (tanh_to_sigmoid, sigmoid_to_tanh)):
        for (w, b), (weight, bias) in zip(back(there(layers)), layers, strict=True):
            np.testing.assert_array_equal(w, weight)
            np.testing.assert_allclose(b, bias, atol=1e-14)


def test_folding_pair_by_pair_is_the_whole_map() -> None:
    layers = random_layers([4, 5, 6, 3], seed=2, scale=1.0)
    folded = [fold_input(*layers[0]), *(fold_input(*fold_output(*h)) for h in layers[1:-1])]
    folded.append(fold_output(*layers[-1]))
    for ours, whole in zip(folded, tanh_to_sigmoid(layers), strict=True):
        np.testing.assert_allclose(ours[0], whole[0], atol=0)
        np.testing.assert_allclose(ours[1], whole[1], atol=1e-15)
    x = np.random.default_rng(0).standard_normal((7, 4))
    np.testing.assert_allclose(run(folded, x, sigmoid), run(layers, x, centred_sigmoid), atol=1e-13)


def test_a_thousand_layers_export_without_loss() -> None:
    rng = np.random.default_rng(5)
    layers = [
        (1.0263 * np.linalg.qr(rng.standard_normal((8, 8)))[0], np.zeros(8)) for _ in range(1000)
    ]
    x = rng.standard_normal((4, 8))
    expected = run(layers, x, np.tanh)
    # 1000 isometric layers add up roundings of 1e-16 each, times four for the gain.
    np.testing.assert_allclose(run(tanh_to_sigmoid(layers), x, sigmoid), expected, atol=1e-12)


def test_arguments_are_left_alone() -> None:
    layers = random_layers([2, 3, 1], seed=0, scale=1.0)
    copies = [(w.copy(), b.copy()) for w, b in layers]
    for (w, b), (x, y) in zip(tanh_to_sigmoid(layers), layers, strict=True):
        w += 1.0
        b += 1.0
        assert w is not x and b is not y
    for (w, b), (x, y) in zip(layers, copies, strict=True):
        np.testing.assert_array_equal(w, x)
        np.testing.assert_array_equal(b, y)


def test_single_layer_is_refused() -> None:
    with pytest.raises(LayerShapeError, match=r"1 layer\(s\) leave no activation"):
        sigmoid_to_tanh([(np.ones((2, 2)), np.ones(2))])


def test_unconnected_layers_are_refused() -> None:
    with pytest.raises(LayerShapeError, match="layer 0 has 3 outputs but layer 1 reads 2"):
        tanh_to_sigmoid([(np.ones((3, 2)), np.ones(3)), (np.ones((1, 2)), np.ones(1))])


def test_bias_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(LayerShapeError, match="no linear map"):
        fold_input(np.ones((3, 2)), np.ones(2))
