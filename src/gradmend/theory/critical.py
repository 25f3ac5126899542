"""Weight and bias scales at which gradients neither vanish nor explode.

At a given mean square q of the pre-activations, chi = 1 fixes sigma_w, and q being a fixed point
then fixes sigma_b. Two facts order what follows. By the Gaussian Poincare inequality,
Var[phi(z)] <= q E[phi'(z)^2] for z ~ N(0, q): with a *centred* bias the critical sigma_b^2 is
never negative, for any activation and any q, so a critical pair always exists. Without centring
the mean of phi enters the q map as well, and for sigmoid and softplus there is no room left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradmend.theory._roots import find_root
from gradmend.theory.activations import Activation
from gradmend.theory.initialisation import (
    TORCH_DEFAULT_SIGMA_W,
    he_gain,
    init_std,
    lecun_gain,
    xavier_gain,
)
from gradmend.theory.meanfield import (
    c_curvature,
    chi,
    mean_square_slope,
    output_mean_square,
    output_variance,
    q_slope,
)

__all__ = [
    "TORCH_DEFAULT_SIGMA_W",
    "CriticalPair",
    "DepthAwareGain",
    "critical_gain",
    "critical_pair",
    "depth_aware_gain",
    "depth_learning_rate_factor",
    "he_gain",
    "init_std",
    "lecun_gain",
    "plain_net_adam_rate",
    "xavier_gain",
]

# sigma_b^2 is a difference of two numbers of size q, so it carries their rounding.
_ROUNDING = 1e-12

# Searches over q run from here, where every activation is as good as linear, in factors of two.
_SMALLEST_Q = 1e-11
_LARGEST_Q = 1e4

# The mean square of standardised input: a plain network has no reason to hold more.
_UNIT_Q = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalPair:
    """A point of the critical line.

    Attributes:
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the bias, or of what centring leaves of it.
        q: Mean square of the pre-activation, a fixed point of the (centred) q map.
        centred: Whether the bias must also remove the mean of the incoming activation,
            b = b' - W E[phi].
        chi: Squared backward gain, one up to rounding.
        q_slope: dq'/dq at q; above one, q drifts away and the prediction with it.
    """

    sigma_w: float
    sigma_b: float
    q: float
    centred: bool
    chi: float
    q_slope: float


def _check_positive(q: float) -> None:
    if not (math.isfinite(q) and q > 0.0):
        raise ValueError(
            f"q = {q} carries no signal to be critical for; give a positive mean square, such as "
            "1 for unit variance."
        )


def _uncentred_bias_variance(phi: Activation, q: float) -> float:
    """sigma_b^2 that keeps q at chi = 1; negative where no bias of random sign can."""
    return q - output_mean_square(phi, q) / mean_square_slope(phi, q)


def _pair(phi: Activation, q: float, bias_variance: float, centred: bool) -> CriticalPair:
    sigma_w = 1.0 / math.sqrt(mean_square_slope(phi, q))
    return CriticalPair(
        sigma_w=sigma_w,
        sigma_b=math.sqrt(bias_variance) if bias_variance > _ROUNDING * q else 0.0,
        q=q,
        centred=centred,
        chi=chi(phi, q, sigma_w=sigma_w),
        q_slope=q_slope(phi, q, sigma_w=sigma_w, centred=centred),
    )


def critical_pair(phi: Activation, q: float) -> CriticalPair:
    """The (sigma_w, sigma_b) with chi = 1 and fixed point q.

    sigma_w^2 = 1 / E[phi'^2] and sigma_b^2 = q - sigma_w^2 E[phi^2] (Schoenholz et al. 2017).
    Where that sigma_b^2 is negative (sigmoid at every q below 45.6, softplus at every q), the
    centred bias is used instead: sigma_b^2 = q - sigma_w^2 Var[phi], which the Poincare
    inequality keeps from being negative.

    Args:
        phi: Activation.
        q: Wanted mean square of the pre-activation, positive.

    Returns:
        The critical pair; ``centred`` says which bias it needs.

    Raises:
        ValueError: If q is not positive, or phi has no slope where N(0, q) puts its mass.

    Example:
        >>> from gradmend.theory.activations import activation
        >>> round(critical_pair(activation("relu"), 1.0).sigma_w ** 2, 12)
        2.0
    """
    _check_positive(q)
    if mean_square_slope(phi, q) == 0.0:
        raise ValueError(
            f"{phi.name} is flat at q = {q}, so no weight scale makes chi = 1; choose another q."
        )
    bias_variance = _uncentred_bias_variance(phi, q)
    if bias_variance >= -_ROUNDING * q:
        return _pair(phi, q, bias_variance, centred=False)
    return _pair(phi, q, q - output_variance(phi, q) / mean_square_slope(phi, q), centred=True)


def _first_crossing(f: Callable[[float], float], largest_q: float) -> float | None:
    """Smallest q at which f changes from negative to positive, on a grid of factors of two."""
    low = _SMALLEST_Q
    if f(low) > 0.0:
        return None
    while low < largest_q:
        high = min(2.0 * low, largest_q)
        if f(high) > 0.0:
            return math.exp(
                find_root(lambda log_q: f(math.exp(log_q)), math.log(low), math.log(high))
            )
        low = high
    return None


def _slope_jumps_at_zero(phi: Activation) -> bool:
    if 0.0 not in phi.kinks:
        return False
    tiny = 1e-9
    left, right = phi.derivative(np.array([-tiny, tiny]))
    return bool(abs(right - left) > 1e-6)


def _passes_through_origin(phi: Activation) -> bool:
    """Whether phi(x) = slope * x + o(x) at zero, with a slope."""
    at_zero = float(phi.value(np.zeros(1))[0])
    return at_zero == 0.0 and phi.slope_at_zero != 0.0 and not _slope_jumps_at_zero(phi)


def critical_gain(phi: Activation, *, sigma_b: float) -> CriticalPair:
    """The point of the critical line with a given bias scale.

    Solves sigma_b^2 = q - E[phi^2] / E[phi'^2] for the smallest such q (Schoenholz et al. 2017,
    figure 1). Without bias that is q = 0 and sigma_w = 1 / phi'(0) for every phi that passes
    through the origin with a slope, and the deeply saturated q = 45.6 for the sigmoid.

    Args:
        phi: Activation.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        The uncentred critical pair.

    Raises:
        ValueError: If sigma_b is negative or not finite, or no q up to 10^4 is critical with it
            (a rectifier is critical without bias only, and there at every q).
    """
    if not (math.isfinite(sigma_b) and sigma_b >= 0.0):
        raise ValueError(f"sigma_b = {sigma_b} is not a standard deviation; give one >= 0.")
    wanted = sigma_b**2
    if wanted == 0.0 and _passes_through_origin(phi):
        return _pair(phi, 0.0, 0.0, centred=False)

    def surplus(q: float) -> float:
        # Measured in units of q, so that rounding does not pass for a root at small q.
        return (_uncentred_bias_variance(phi, q) - wanted) / q - _ROUNDING

    q = _first_crossing(surplus, _LARGEST_Q)
    if q is None:
        raise ValueError(
            f"{phi.name} has no critical point with sigma_b = {sigma_b} at any q up to "
            f"{_LARGEST_Q:g}; choose q instead and call critical_pair."
        )
    return _pair(phi, q, wanted, centred=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthAwareGain:
    """Scales at which a plain network of a given depth keeps both gradient and signal.

    Attributes:
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]); the gain of an orthogonal matrix.
        sigma_b: Standard deviation of the bias, or of what centring leaves of it.
        q: Mean square of the pre-activation, a fixed point of the (centred) q map.
        centred: Whether the bias must also remove the mean of the incoming activation.
        chi: Squared backward gain of one layer.
        q_slope: dq'/dq at q.
        depth: The depth it was made for, in layers.
    """

    sigma_w: float
    sigma_b: float
    q: float
    centred: bool
    chi: float
    q_slope: float
    depth: int

    @property
    def gradient_decades(self) -> float:
        """log10 of the factor by which the gradient norm changes over the whole depth."""
        return 0.5 * self.depth * math.log10(self.chi)


def _bias_free(phi: Activation, depth: int, *, centred: bool) -> DepthAwareGain | None:
    """The stable fixed point without bias at which depth * (chi - 1) = 1, if there is one."""
    spread = output_variance if centred else output_mean_square

    def excess(q: float) -> float:
        return q * mean_square_slope(phi, q) / spread(phi, q) - 1.0 - 1.0 / depth

    q = _first_crossing(excess, _LARGEST_Q)
    if q is None:
        return None
    sigma_w = math.sqrt(q / spread(phi, q))
    slope = q_slope(phi, q, sigma_w=sigma_w, centred=centred)
    if slope >= 1.0:
        return None
    return DepthAwareGain(
        sigma_w=sigma_w,
        sigma_b=0.0,
        q=q,
        centred=centred,
        chi=chi(phi, q, sigma_w=sigma_w),
        q_slope=slope,
        depth=depth,
    )


def _remembering_q(phi: Activation, depth: int) -> float:
    """The q at which depth * C''(1) = 1 on the critical line, at most one."""
    if _slope_jumps_at_zero(phi):
        return _UNIT_Q

    def excess(q: float) -> float:
        sigma_w = 1.0 / math.sqrt(mean_square_slope(phi, q))
        return depth * c_curvature(phi, q, sigma_w=sigma_w) - 1.0

    return _first_crossing(excess, _UNIT_Q) or _UNIT_Q


def depth_aware_gain(phi: Activation, depth: int) -> DepthAwareGain:
    """Scales for a plain network (no skip, no normalisation) of ``depth`` layers.

    A critical network at a large q still forgets its input, and one at q = 0 has no signal to
    forget; the right q falls with depth. Four cases, tried in this order:

    1. Positively homogeneous phi (ReLU, leaky ReLU): sigma_w^2 = 1 / E[phi'^2], the scale of
       He et al. 2015, exact at every q; q = 1 is reported.
    2. Odd phi (tanh, erf, sin, ...): no bias, and the stable fixed point with
       depth * (chi - 1) = 1, so the mean square of the gradient grows by about e over the whole
       depth and q never dies out. For tanh, q is near sqrt(0.75 / depth): the small q* of
       dynamical isometry (Pennington et al. 2017).
    3. Otherwise a point of the critical line, chi = 1, with the q at which depth * C''(1) = 1
       (``c_curvature``): inputs then keep their differences through the whole depth. TAT sets
       this product to 0.3 (Zhang, Botev and Martens 2022); case 2 amounts to 3. q is at most
       one, and is one where phi' jumps at zero (SELU, ReLU6), whose curvature at zero is infinite
       at every q. Smooth phi of this kind (GELU, SiLU, Mish) have dq'/dq above one by an amount
       of order 1 / depth there: a deviation of q grows by a factor of order one in all.
       (Tanhshrink, with no slope at zero, repels at any such q: read ``q_slope``.)
    4. Where case 3 needs a centred bias (sigmoid, softplus): the rule of case 2 on the centred
       map, if its fixed point is stable (sigmoid: exactly four times the tanh gain); else the
       centred critical pair of case 3.

    Args:
        phi: Activation.
        depth: Number of hidden layers, at least one.

    Returns:
        The scales, with the q, chi and slope that they imply.

    Raises:
        ValueError: If depth is below one.
    """
    if depth < 1:
        raise ValueError(f"a network of {depth} layers needs no gain; give a depth >= 1.")
    if phi.positively_homogeneous:
        return _on_critical_line(critical_pair(phi, _UNIT_Q), depth)
    if phi.odd:
        found = _bias_free(phi, depth, centred=False)
        if found is not None:
            return found
    pair = critical_pair(phi, _remembering_q(phi, depth))
    if pair.centred:
        found = _bias_free(phi, depth, centred=True)
        if found is not None:
            return found
    return _on_critical_line(pair, depth)


def _on_critical_line(pair: CriticalPair, depth: int) -> DepthAwareGain:
    return DepthAwareGain(
        sigma_w=pair.sigma_w,
        sigma_b=pair.sigma_b,
        q=pair.q,
        centred=pair.centred,
        chi=pair.chi,
        q_slope=pair.q_slope,
        depth=depth,
    )


def depth_learning_rate_factor(depth: int, *, reference_depth: int = 100) -> float:
    """reference_depth / depth: the best rate of a plain network falls like one over its depth.

    A step changes every layer's map by a relative amount proportional to the rate, and the
    changes add up along the depth. Best Adam rates measured on plain isometric networks: 2e-4 to
    1e-3 at 100 layers, 3e-5 at 1000, 3e-6 at 10,000.

    Args:
        depth: Number of layers to find a rate for, at least one.
        reference_depth: Number of layers for which a good rate is known, at least one.

    Returns:
        Factor for the known rate; above one for a shallower network, where other limits
        (width, batch noise) usually bind first.

    Raises:
        ValueError: If a depth is below one.
    """
    if depth < 1 or reference_depth < 1:
        raise ValueError(
            f"depth = {depth} and reference_depth = {reference_depth} must both be at least one "
            "for their ratio to be a learning-rate factor."
        )
    return reference_depth / depth


def plain_net_adam_rate(depth: int) -> float:
    """min(1e-3, 0.03 / depth): an Adam rate for a plain isometric network.

    The line through the rates of ``depth_learning_rate_factor``, cut at Adam's own default. Nets of
    rectifiers in mirrored pairs (width 32, digits, 600 steps) do best at 1e-3 with 30 layers, 3e-4
    with 100 and 300, 3e-5 to 1e-4 with 1,000: at the line they are within two points of that.

    Args:
        depth: Number of layers, at least one.

    Returns:
        Learning rate.

    Raises:
        ValueError: If depth is below one.
    """
    return min(1e-3, 3e-4 * depth_learning_rate_factor(depth, reference_depth=100))
