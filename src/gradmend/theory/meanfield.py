"""The maps of mean-field theory: q, c and chi, their fixed points and depth scales.

Notation of Poole et al. 2016 and Schoenholz et al. 2017: z = W h + b with weights of variance
sigma_w^2 / fan_in and biases of variance sigma_b^2; q = E[z^2] is the mean square of the
pre-activation, c the correlation of two inputs, and chi the factor by which one layer multiplies
the mean square of the gradient. The norm of the gradient therefore changes by chi^(L / 2) over L
layers. Averages are over z ~ N(0, q), the limit of infinite width.

The *centred* maps are those of a bias that removes the mean of the incoming activation,
b = b' - W E[phi]: the variance of phi takes the place of its mean square, and sigma_b is the
standard deviation of what is left, b'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradmend.theory._roots import find_root
from gradmend.theory.activations import Activation
from gradmend.theory.quadrature import Array, gaussian_mean, gaussian_nodes, gaussian_pair_mean

# Schoenholz et al. 2017: networks train up to about six correlation depths.
TRAINABLE_DEPTHS_PER_XI_C = 6.0

# Where a formula divides by q, the value at zero is the limit from above, taken here.
_SMALLEST_Q = 1e-200

# Below this, q* counts as zero: the change of q in one step, of relative size q for a tanh at
# gain one, drowns in the rounding of the quadrature.
_COLLAPSED = 1e-12
_EXPLODED = 1e8
_FIXED_TOLERANCE = 1e-13
_MARCH = 1.5


def _check_scales(sigma_w: float, sigma_b: float) -> None:
    for name, scale in (("sigma_w", sigma_w), ("sigma_b", sigma_b)):
        if not (math.isfinite(scale) and scale >= 0.0):
            raise ValueError(
                f"{name} = {scale} is not a standard deviation; give a finite number that is not "
                "negative (a negative sigma_b^2 means that the bias must be centred instead)."
            )


def _nodes(phi: Activation, q: float) -> tuple[Array, Array]:
    return gaussian_nodes(q, kinks=phi.kinks)


def output_mean(phi: Activation, q: float) -> float:
    """m = E[phi(z)], z ~ N(0, q): the offset that every unit of the next layer sees.

    Args:
        phi: Activation.
        q: Mean square of the pre-activation, not negative.

    Returns:
        The mean of the activation.
    """
    return gaussian_mean(phi.value, q, kinks=phi.kinks)


def output_mean_square(phi: Activation, q: float) -> float:
    """E[phi(z)^2], z ~ N(0, q): what the q map multiplies by sigma_w^2.

    Args:
        phi: Activation.
        q: Mean square of the pre-activation, not negative.

    Returns:
        The mean square of the activation.
    """
    return gaussian_mean(lambda z: phi.value(z) ** 2, q, kinks=phi.kinks)


def output_variance(phi: Activation, q: float) -> float:
    """Var[phi(z)], z ~ N(0, q): the part of the mean square that can carry a signal.

    Args:
        phi: Activation.
        q: Mean square of the pre-activation, not negative.

    Returns:
        The variance of the activation.
    """
    z, weights = _nodes(phi, q)
    values = phi.value(z)
    # Subtracting the mean first keeps all digits of a small variance on a large offset.
    return float(weights @ (values - weights @ values) ** 2)


def q_map(phi: Activation, q: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """q' = sigma_w^2 E[phi(z)^2] + sigma_b^2, z ~ N(0, q) (Poole et al. 2016, eq. 3).

    Args:
        phi: Activation.
        q: Mean square of the pre-activation, not negative.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases.

    Returns:
        Mean square of the next pre-activation.

    Raises:
        ValueError: If q, sigma_w or sigma_b is negative or not finite.
    """
    _check_scales(sigma_w, sigma_b)
    return sigma_w**2 * output_mean_square(phi, q) + sigma_b**2


def centred_q_map(phi: Activation, q: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """q' = sigma_w^2 Var[phi(z)] + sigma_b^2: the q map where the bias removes the offset.

    Args:
        phi: Activation.
        q: Mean square of the pre-activation, not negative.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of b' = b + W E[phi].

    Returns:
        Mean square of the next pre-activation.

    Raises:
        ValueError: If q, sigma_w or sigma_b is negative or not finite.
    """
    _check_scales(sigma_w, sigma_b)
    return sigma_w**2 * output_variance(phi, q) + sigma_b**2


def q_slope(phi: Activation, q: float, *, sigma_w: float, centred: bool = False) -> float:
    """dq'/dq = sigma_w^2 E[phi(z) phi'(z) z] / q: above one, the fixed point repels.

    The derivative of E[phi(sqrt(q) u)^2], taken under the integral; it needs no phi''. The
    centred map replaces phi by phi - E[phi].

    Args:
        phi: Activation.
        q: Mean square of the pre-activation; zero means the limit from above.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        centred: Whether the bias removes the mean of the activation.

    Returns:
        Slope of the q map; predictions are unreliable at finite width where it exceeds one.

    Raises:
        ValueError: If q or sigma_w is negative or not finite.
    """
    _check_scales(sigma_w, 0.0)
    variance = max(q, _SMALLEST_Q) if q >= 0.0 else q
    z, weights = _nodes(phi, variance)
    values = phi.value(z)
    if centred:
        values = values - weights @ values
    return sigma_w**2 * float(weights @ (values * phi.derivative(z) * z)) / variance


def mean_square_slope(phi: Activation, q: float) -> float:
    """E[phi'(z)^2], z ~ N(0, q): the factor of chi that belongs to the activation.

    Args:
        phi: Activation.
        q: Mean square of the pre-activation; zero means the limit from above, which matters
            where phi has a kink at zero.

    Returns:
        The mean square of the slope.

    Raises:
        ValueError: If q is negative or not finite.
    """
    variance = max(q, _SMALLEST_Q) if q >= 0.0 else q
    return gaussian_mean(lambda z: phi.derivative(z) ** 2, variance, kinks=phi.kinks)


def chi(phi: Activation, q: float, *, sigma_w: float) -> float:
    """chi = sigma_w^2 E[phi'(z)^2], z ~ N(0, q) (Poole et al. 2016, eq. 6).

    The factor by which one layer multiplies the mean square of the gradient on its way back, and
    the slope of the c map at c = 1.

    Args:
        phi: Activation.
        q: Mean square of the pre-activation; zero means the limit from above.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).

    Returns:
        Squared backward gain of one layer: below one gradients vanish, above one they explode.

    Raises:
        ValueError: If q or sigma_w is negative or not finite.
    """
    _check_scales(sigma_w, 0.0)
    return sigma_w**2 * mean_square_slope(phi, q)


def c_map(phi: Activation, q: float, c: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """c' = (sigma_w^2 E[phi(z1) phi(z2)] + sigma_b^2) / q' (Poole et al. 2016, eq. 5).

    Divides by q' = q_map(q), which is q at the fixed point and keeps c'(1) = 1 everywhere else.

    Args:
        phi: Activation.
        q: Mean square of both pre-activations, positive.
        c: Their correlation, in [-1, 1].
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases.

    Returns:
        Correlation of the next pre-activations.

    Raises:
        ValueError: If an argument is outside its range, or the next layer is identically zero.
    """
    after = q_map(phi, q, sigma_w=sigma_w, sigma_b=sigma_b)
    _check_alive(after)
    product = gaussian_pair_mean(phi.value, q, c, kinks=phi.kinks)
    return (sigma_w**2 * product + sigma_b**2) / after


def c_slope(phi: Activation, q: float, c: float, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """dc'/dc = sigma_w^2 q E[phi'(z1) phi'(z2)] / q' (Schoenholz et al. 2017).

    Args:
        phi: Activation.
        q: Mean square of both pre-activations, positive.
        c: Their correlation, in [-1, 1].
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases.

    Returns:
        Slope of the c map; equal to chi at c = 1 where q is a fixed point.

    Raises:
        ValueError: If an argument is outside its range, or the next layer is identically zero.
    """
    after = q_map(phi, q, sigma_w=sigma_w, sigma_b=sigma_b)
    _check_alive(after)
    product = gaussian_pair_mean(phi.derivative, q, c, kinks=phi.kinks)
    return sigma_w**2 * q * product / after


def _check_alive(after: float) -> None:
    if after == 0.0:
        raise ValueError(
            "the next pre-activation is identically zero, so two inputs have no correlation "
            "there; give a positive q, and a positive sigma_w or sigma_b."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """Where repeated application of the q map leads.

    Attributes:
        q: The fixed point q*; zero where the signal dies out, infinity where it explodes.
        slope: dq'/dq there (the limit, where q is zero or infinite).
        chi: Squared backward gain there (the limit, where q is zero or infinite).
    """

    q: float
    slope: float
    chi: float

    @property
    def stable(self) -> bool:
        """Whether q returns after a disturbance; False also where it stays wherever it is put.

        ReLU at He scale has slope one and is the second case: every q is a fixed point.
        """
        return self.q < math.inf and self.slope < 1.0 - 1e-9


def fixed_point(
    phi: Activation,
    *,
    sigma_w: float,
    sigma_b: float = 0.0,
    centred: bool = False,
    start: float = 1.0,
) -> FixedPoint:
    """Follow the q map from ``start`` to its limit q* = q_map(q*).

    The map of one variable is increasing or has a slope above -1 for every activation known here,
    so the limit is the first root of q' - q in the direction in which q first moves; that root is
    bracketed and solved for, which is exact where iteration would creep.

    Args:
        phi: Activation.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases (of b' where centred).
        centred: Whether the bias removes the mean of the activation.
        start: Mean square of the first pre-activation, positive; one for standardised input.

    Returns:
        The fixed point, its stability and chi.

    Raises:
        ValueError: If sigma_w or sigma_b is negative or not finite, or start is not positive.
    """
    _check_scales(sigma_w, sigma_b)
    if not (math.isfinite(start) and start > 0.0):
        raise ValueError(f"start = {start} is no mean square to begin from; give a positive one.")
    one_layer = centred_q_map if centred else q_map

    def growth(log_q: float) -> float:
        q = math.exp(log_q)
        return one_layer(phi, q, sigma_w=sigma_w, sigma_b=sigma_b) / q - 1.0

    def at(q: float) -> FixedPoint:
        probe = min(q, _EXPLODED)
        slope = q_slope(phi, probe, sigma_w=sigma_w, centred=centred)
        return FixedPoint(q=q, slope=slope, chi=chi(phi, probe, sigma_w=sigma_w))

    here, change = math.log(start), growth(math.log(start))
    if abs(change) <= _FIXED_TOLERANCE:
        return at(start)
    upwards = change > 0.0
    # With a bias, q* is at least sigma_b^2, however small that is.
    floor = min(_COLLAPSED, 0.5 * sigma_b**2) if sigma_b > 0.0 else _COLLAPSED
    limit = math.log(max(_EXPLODED, start)) if upwards else math.log(min(floor, start))
    step = math.log(_MARCH) if upwards else -math.log(_MARCH)
    while (here < limit) if upwards else (here > limit):
        there = here + step
        change = growth(there)
        if abs(change) <= _FIXED_TOLERANCE:
            return at(math.exp(there))
        if (change > 0.0) is not upwards:
            return at(math.exp(find_root(growth, *sorted((here, there)))))
        here = there
    return at(math.inf if upwards else 0.0)


def depth_scale(slope: float) -> float:
    """xi = 1 / abs(ln slope): the number of layers in which slope^L changes by a factor e.

    Args:
        slope: Factor per layer, not negative.

    Returns:
        Depth in layers; infinity at criticality (slope one), zero at slope zero.

    Raises:
        ValueError: If the slope is negative or not a number.
    """
    if not slope >= 0.0:
        raise ValueError(f"a factor of {slope} per layer has no depth scale; give one >= 0.")
    if slope in (0.0, math.inf):
        return 0.0
    logarithm = abs(math.log(slope))
    return math.inf if logarithm == 0.0 else 1.0 / logarithm


def xi_grad(phi: Activation, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """xi_grad = 1 / abs(ln chi(q*)) (Schoenholz et al. 2017).

    Args:
        phi: Activation.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases.

    Returns:
        Depth, in layers, over which the mean square of the gradient changes by a factor e.
    """
    return depth_scale(fixed_point(phi, sigma_w=sigma_w, sigma_b=sigma_b).chi)


def correlation_fixed_point(
    phi: Activation, q: float, *, sigma_w: float, sigma_b: float = 0.0
) -> float:
    """c*, the correlation that every pair of different inputs approaches.

    The c map is a power series with coefficients that are not negative, hence convex on [0, 1]:
    c* = 1 where its slope at one is at most one, and the single other root where it is above
    (Poole et al. 2016).

    Args:
        phi: Activation.
        q: Fixed point of the q map, positive.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases.

    Returns:
        The stable fixed point of the c map, in [0, 1].
    """

    def drift(c: float) -> float:
        return c_map(phi, q, c, sigma_w=sigma_w, sigma_b=sigma_b) - c

    excess = c_slope(phi, q, 1.0, sigma_w=sigma_w, sigma_b=sigma_b) - 1.0
    if excess <= 1e-9:
        return 1.0
    if drift(0.0) <= 1e-14:
        return 0.0
    # Just below one the drift is -excess (1 - c): close enough to one to be past the other root.
    gap = 0.5
    while drift(1.0 - gap) >= 0.0:
        gap *= 0.5
        if gap < 1e-9:
            return 1.0
    return find_root(drift, 0.0, 1.0 - gap, tolerance=1e-12)


def xi_c(phi: Activation, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """xi_c = 1 / abs(ln dc'/dc(c*)) (Schoenholz et al. 2017).

    Args:
        phi: Activation.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases.

    Returns:
        Depth, in layers, over which the difference between two inputs' correlation and c* falls
        by a factor e: how far a signal travels.

    Raises:
        ValueError: If the q map has no finite fixed point.
    """
    point = fixed_point(phi, sigma_w=sigma_w, sigma_b=sigma_b)
    if point.q == math.inf:
        raise ValueError(
            f"the q map of {phi.name} at sigma_w = {sigma_w} has no finite fixed point: the "
            "forward signal explodes and its correlation length is undefined; lower sigma_w."
        )
    if point.q == 0.0:
        return depth_scale(point.chi)
    c = correlation_fixed_point(phi, point.q, sigma_w=sigma_w, sigma_b=sigma_b)
    return depth_scale(c_slope(phi, point.q, c, sigma_w=sigma_w, sigma_b=sigma_b))


def trainable_depth(phi: Activation, *, sigma_w: float, sigma_b: float = 0.0) -> float:
    """6 xi_c: the depth up to which plain networks were seen to train (Schoenholz et al. 2017).

    Args:
        phi: Activation.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).
        sigma_b: Standard deviation of the biases.

    Returns:
        Depth in layers; infinity on the critical line.

    Raises:
        ValueError: If the q map has no finite fixed point.
    """
    return TRAINABLE_DEPTHS_PER_XI_C * xi_c(phi, sigma_w=sigma_w, sigma_b=sigma_b)


def c_curvature(phi: Activation, q: float, *, sigma_w: float) -> float:
    """C''(1) = sigma_w^2 q E[phi''(z)^2] at a fixed point q: how fast a critical net forgets.

    Where chi = 1, two nearby inputs approach each other as 1 - c_L = 2 / (2 / (1 - c_0) +
    C''(1) L), so a signal survives while L C''(1) is of order one; this is the quantity that TAT
    holds at tau = 0.3 for a whole network (Zhang, Botev and Martens 2022). phi'' is
    the central difference of phi'; nodes within a step of a kink are left out, so a jump of phi'
    (whose curvature is infinite) does not count.

    Args:
        phi: Activation.
        q: Fixed point of the q map, positive.
        sigma_w: Weight scale, sqrt(fan_in * E[w^2]).

    Returns:
        Second derivative of the c map at c = 1, to about six digits.

    Raises:
        ValueError: If q is not positive.
    """
    if not q > 0.0:
        raise ValueError(f"q = {q} has no c map; give a positive fixed point.")
    z, weights = _nodes(phi, q)
    # phi varies over distances of order one, or sqrt(q) next to a kink at zero.
    h = 1e-4 * min(1.0, math.sqrt(q))
    second = (phi.derivative(z + h) - phi.derivative(z - h)) / (2.0 * h)
    for kink in phi.kinks:
        second = np.where(np.abs(z - kink) <= h, 0.0, second)
    return sigma_w**2 * q * float(weights @ second**2)
