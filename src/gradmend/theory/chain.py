"""Predict a plain chain of linear layers and activations before running it.

Everything follows from the mean square of the weights and biases of each layer and from phi; the
network itself is never evaluated. Gains are in decades (log10 of a factor), so they add up along
the chain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gradmend.theory.activations import Activation, activation
from gradmend.theory.quadrature import gaussian_nodes

# Far beyond these the mean squares of a dying or exploding chain leave float64; phi has long
# reached its behaviour at zero or at infinity, so the gains no longer change.
_SMALLEST_Q = 1e-200
_LARGEST_Q = 1e200

# Hanin and Nica 2018: variance of ln ||J u||^2 is BETA_RELU * sum of 1 / n_l. One layer adds the
# variance of the mean of n_l terms 2 w^2 1{z > 0}: E[(2 w^2 1)^2] - 1 = 4 * 3 / 2 - 1 = 5.
BETA_RELU = 5.0
# The same for a linear layer, E[w^4] - 1 = 3 - 1: the limit of tanh near the origin.
BETA_LINEAR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What the prediction needs to know of one linear layer and the activation after it.

    Attributes:
        fan_in: Inputs of one unit (input channels times kernel size for a convolution).
        fan_out: Units.
        weight_mean_square: E[w^2] over the entries, ||W||_F^2 / (fan_in * fan_out).
        bias_mean_square: E[b^2] over the units; zero without a bias.
        activation: Name of the activation that follows, or None for a linear output.
        centred: Whether the bias removes the mean of the incoming activation,
            b = b' - W E[phi]; ``bias_mean_square`` is then that of b'.
        negative_slope: Parameter of ``leaky_relu`` and ``prelu``.
        alpha: Parameter of ``elu`` and ``celu``.
        beta: Parameter of ``softplus``.

    Raises:
        ValueError: If a fan is not positive or a mean square is negative or not finite.
        UnknownActivation: If no activation bears the name.
    """

    fan_in: int
    fan_out: int
    weight_mean_square: float
    bias_mean_square: float = 0.0
    activation: str | None = None
    centred: bool = False
    negative_slope: float | None = None
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no layer has."""
        if self.fan_in < 1 or self.fan_out < 1:
            raise ValueError(
                f"a layer with fan_in = {self.fan_in} and fan_out = {self.fan_out} has no weights "
                "to predict from; both must be at least one."
            )
        for name in ("weight_mean_square", "bias_mean_square"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number >= 0.0):
                raise ValueError(
                    f"{name} = {number} is no mean of squares, so the layer has no gain; check "
                    "the parameters for NaN and infinity."
                )
        if self.activation is not None:
            self.resolve()

    @property
    def sigma_w(self) -> float:
        """sqrt(fan_in * E[w^2])."""
        return math.sqrt(self.fan_in * self.weight_mean_square)

    def resolve(self) -> Activation:
        """The activation after the layer; the identity where there is none."""
        return activation(
            self.activation or "identity",
            negative_slope=self.negative_slope,
            alpha=self.alpha,
            beta=self.beta,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrediction:
    """What one layer and its activation are expected to do at infinite width.

    Attributes:
        q: Mean square of the pre-activation.
        offset_share: E[phi]^2 / E[phi^2] of the output, in [0, 1]: the share of its power that is
            the same for every input and carries no signal. One half of a sigmoid's range is this.
        signal_gain_decades: log10 of the factor by which the rms difference between two close
            inputs changes on its way through the layer, weight and activation together.
        weight_decades: 0.5 log10(fan_in E[w^2]), the backward gain |W^T g| / |g| of the weight
            for a gradient g independent of it.
        activation_decades: 0.5 log10 E[phi'(z)^2], z ~ N(0, q), the backward gain of phi.
    """

    q: float
    offset_share: float
    signal_gain_decades: float
    weight_decades: float
    activation_decades: float

    @property
    def gradient_gain_decades(self) -> float:
        """log10 of the factor from the gradient at the layer's output to that at its input."""
        return self.weight_decades + self.activation_decades


@dataclass(frozen=True, slots=True)
class _Moments:
    mean: float
    mean_square: float
    variance: float
    mean_square_slope: float


# Known exactly, so that a linear layer adds no rounding to the sum of decades.
_UNIT_LINEAR = _Moments(mean=0.0, mean_square=1.0, variance=1.0, mean_square_slope=1.0)


def _half_log10(mean_square: float) -> float:
    return 0.5 * math.log10(mean_square) if mean_square > 0.0 else -math.inf


def _share(moments: _Moments) -> float:
    if moments.mean_square == 0.0:
        return 0.0
    return min(1.0, moments.mean**2 / moments.mean_square)  # rounding may exceed one


@lru_cache(maxsize=4096)
def _moments(phi: Activation, q: float) -> _Moments:
    z, weights = gaussian_nodes(q, kinks=phi.kinks)
    values = phi.value(z)
    mean = float(weights @ values)
    return _Moments(
        mean=mean,
        mean_square=float(weights @ values**2),
        variance=float(weights @ (values - mean) ** 2),
        mean_square_slope=float(weights @ phi.derivative(z) ** 2),
    )


def _moments_at(phi: Activation, q: float) -> _Moments:
    if phi.positively_homogeneous:
        # phi(sqrt(q) u) = sqrt(q) phi(u): one quadrature serves every layer.
        unit = _UNIT_LINEAR if phi.name == "identity" else _moments(phi, 1.0)
        return _Moments(
            mean=math.sqrt(q) * unit.mean,
            mean_square=q * unit.mean_square,
            variance=q * unit.variance,
            mean_square_slope=unit.mean_square_slope,
        )
    return _moments(phi, q)


def predict_chain(
    layers: Sequence[LayerSpec], input_mean_square: float
) -> tuple[LayerPrediction, ...]:
    """Follow q = fan_in E[w^2] E[h^2] + E[b^2] through a plain chain, from input to output.

    The maps of Poole et al. 2016 (eqs. 3 and 6) with each layer's
    own, measured mean squares. The gradient at the input of the chain over the gradient at its
    output is 10 to the sum of ``gradient_gain_decades``.

    Args:
        layers: The layers in forward order.
        input_mean_square: E[x^2] over the entries of the input; one for standardised data.

    Returns:
        One prediction for each layer, in the same order.

    Raises:
        ValueError: If the input mean square is negative or not finite, or a layer's fan_in is
            not a multiple of the fan_out before it (the kernel size of a convolution is allowed).
    """
    if not (math.isfinite(input_mean_square) and input_mean_square >= 0.0):
        raise ValueError(
            f"input_mean_square = {input_mean_square} is no mean of squares, so nothing can be "
            "predicted from it; check the input for NaN and infinity."
        )
    predictions: list[LayerPrediction] = []
    incoming, incoming_variance = input_mean_square, input_mean_square
    units = layers[0].fan_in if layers else 0
    for i, layer in enumerate(layers):
        if layer.fan_in % units:
            raise ValueError(
                f"layer {i} has fan_in = {layer.fan_in} but {units} units come in, so this is no "
                "plain chain; give the layers in forward order."
            )
        units = layer.fan_out
        weight_gain = layer.fan_in * layer.weight_mean_square
        power = incoming_variance if layer.centred else incoming
        q = weight_gain * power + layer.bias_mean_square
        q_inside = min(max(q, _SMALLEST_Q), _LARGEST_Q)
        phi = layer.resolve()
        moments = _moments_at(phi, q_inside)
        weight_decades = _half_log10(weight_gain)
        activation_decades = _half_log10(moments.mean_square_slope)
        predictions.append(
            LayerPrediction(
                q=q,
                offset_share=_share(moments),
                signal_gain_decades=weight_decades + activation_decades,
                weight_decades=weight_decades,
                activation_decades=activation_decades,
            )
        )
        incoming, incoming_variance = moments.mean_square, moments.variance
    return tuple(predictions)


def finite_width_band(widths: Iterable[int], *, beta: float = BETA_RELU) -> float:
    """One standard deviation, in decades, of the gradient norm around its prediction.

    Over random draws of Gaussian weights, ln ||g_first||^2 - ln ||g_last||^2 is close to normal
    with variance beta * sum of 1 / n_l, beta = 5 for ReLU (Hanin and Nica 2018, theorem 1; Hanin
    2018). In decades of the norm that is 0.5 log10(e) sqrt(beta sum 1 / n_l). The distribution
    is also shifted down by half its variance, which the prediction (of the mean square) does not
    show; orthogonal weights remove most of both.

    Args:
        widths: Widths of the hidden layers.
        beta: Variance of one layer times its width: ``BETA_RELU`` or ``BETA_LINEAR``.

    Returns:
        The half-width of the band, in decades; zero for no layers.

    Raises:
        ValueError: If a width is below one.
    """
    total = 0.0
    for width in widths:
        if width < 1:
            raise ValueError(f"a layer of width {width} has no gradient; give widths >= 1.")
        total += 1.0 / width
    return 0.5 * float(np.log10(np.e)) * math.sqrt(beta * total)
