"""The exact change of coordinates between plain sigmoid and plain tanh networks.

From sigma(z) = (1 + tanh(z / 2)) / 2, put u = z / 2 and t = tanh(u). A sigmoid layer
z' = W sigma(z) + b then reads u' = (W / 4) t + (b + W 1 / 2) / 2, a tanh layer with weight
V = W / 4 and bias c = (b + W 1 / 2) / 2. Solved for the sigmoid side, with V for hidden weights,
A for the output weight and 1 for the vector of ones:

    first layer    W = 2 V,   b = 2 c
    hidden layer   W = 4 V,   b = 2 c - 2 V 1
    output layer   W = 2 A,   b = a - A 1

Both networks are the same function. All factors are powers of two, so the weights survive the
round trip bit for bit, and the biases to the rounding of one sum.

Shapes: each layer is (weight [n_out, n_in], bias [n_out]), as torch stores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Layer: TypeAlias = tuple[Array, Array]


class LayerShapeError(ValueError):
    """Layers that do not form a plain multi-layer perceptron."""


def _checked_layer(weight: Array, bias: Array, where: str) -> Layer:
    weight, bias = np.asarray(weight, dtype=np.float64), np.asarray(bias, dtype=np.float64)
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise LayerShapeError(
            f"{where} has a weight of shape {weight.shape} and a bias of shape {bias.shape}, which "
            "is no linear map; give weight [n_out, n_in] and bias [n_out]."
        )
    return weight, bias


def _checked(layers: Sequence[Layer]) -> list[Layer]:
    if len(layers) < 2:
        raise LayerShapeError(
            f"{len(layers)} layer(s) leave no activation between them to change; give the hidden "
            "layers and the linear output layer."
        )
    checked = [_checked_layer(*layer, f"layer {i}") for i, layer in enumerate(layers)]
    for i, ((before, _), (after, _)) in enumerate(pairwise(checked)):
        if after.shape[1] != before.shape[0]:
            raise LayerShapeError(
                f"layer {i} has {before.shape[0]} outputs but layer {i + 1} reads "
                f"{after.shape[1]} inputs, so they do not connect; give the layers in forward "
                "order, with weights [n_out, n_in]."
            )
    return checked


def sigmoid_to_tanh(layers: Sequence[Layer]) -> list[Layer]:
    """Rewrite a plain sigmoid network as the tanh network that is the same function.

    Args:
        layers: Hidden sigmoid layers and then the linear output layer, in forward order, each
            (weight [n_out, n_in], bias [n_out]).

    Returns:
        Layers of the tanh network, new float64 arrays of the same shapes.

    Raises:
        LayerShapeError: If there are fewer than two layers or shapes do not connect.
    """
    (first, first_bias), *hidden, (last, last_bias) = _checked(layers)
    return [
        (first / 2.0, first_bias / 2.0),
        *((w / 4.0, (b + w.sum(axis=1) / 2.0) / 2.0) for w, b in hidden),
        (last / 2.0, last_bias + last.sum(axis=1) / 2.0),
    ]


def tanh_to_sigmoid(layers: Sequence[Layer]) -> list[Layer]:
    """Rewrite a plain tanh network as the sigmoid network that is the same function.

    Training in tanh coordinates and exporting with this map keeps the sigmoid architecture and
    avoids its common-mode offset of one half.

    Args:
        layers: Hidden tanh layers and then the linear output layer, in forward order, each
            (weight [n_out, n_in], bias [n_out]).

    Returns:
        Layers of the sigmoid network, new float64 arrays of the same shapes.

    Raises:
        LayerShapeError: If there are fewer than two layers or shapes do not connect.
    """
    (first, first_bias), *hidden, (last, last_bias) = _checked(layers)
    return [
        (2.0 * first, 2.0 * first_bias),
        *((4.0 * v, 2.0 * c - 2.0 * v.sum(axis=1)) for v, c in hidden),
        (2.0 * last, last_bias - last.sum(axis=1)),
    ]


def fold_input(weight: Array, bias: Array) -> Layer:
    """Prepare the layer feeding a centred sigmoid for a plain sigmoid: (2 W, 2 b).

    One half of replacing s(x) = 2 sigma(2 x) - 1 by sigma(x); ``fold_output`` is the other, and
    only both together preserve the function.

    Args:
        weight: Weight of the layer whose output s reads [n_out, n_in].
        bias: Its bias [n_out].

    Returns:
        The new weight and bias, same shapes.

    Raises:
        LayerShapeError: If the shapes are not those of a linear layer.
    """
    weight, bias = _checked_layer(weight, bias, "the layer feeding the activation")
    return 2.0 * weight, 2.0 * bias


def fold_output(weight: Array, bias: Array) -> Layer:
    """Prepare the layer reading a centred sigmoid for a plain sigmoid: (2 W, b - W 1).

    W s(x) + b = W (2 sigma(2 x) - 1) + b = 2 W sigma(2 x) + (b - W 1). A layer between two
    centred sigmoids takes ``fold_output`` first and ``fold_input`` second, which together are the
    hidden-layer rule W = 4 V, b = 2 c - 2 V 1.

    Args:
        weight: Weight of the layer that reads s [n_out, n_in].
        bias: Its bias [n_out]; zeros where the layer has none, since the folded one needs it.

    Returns:
        The new weight and bias, same shapes.

    Raises:
        LayerShapeError: If the shapes are not those of a linear layer.
    """
    weight, bias = _checked_layer(weight, bias, "the layer reading the activation")
    return 2.0 * weight, bias - weight.sum(axis=1)
