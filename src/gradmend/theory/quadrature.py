"""Gaussian expectations E[f(z)] and E[f(z1) f(z2)] to near machine precision.

Gauss-Hermite is wrong in the third digit at a kink and slow to converge once a saturating f is
steep against the Gaussian (sigmoid at a variance of 45). Composite Gauss-Legendre has neither
fault: the interval is cut at every kink, and into panels narrow enough both for the density and
for f, whose own features are assumed to be of order one and to lie near zero, as those of every
activation do. One rule then serves smooth and kinked functions at any variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# exp(-12^2 / 2) = 5e-32 and exp(-9^2 / 2) = 3e-18 are the densities neglected outside.
_REACH = 12.0
_PAIR_REACH = 9.0

# 16 points on a panel of width 2 integrate tanh (nearest pole at pi / 2) to 1e-16.
_POINTS = 16
_PANEL_WIDTH = 2.0

# A thousand panels resolve oscillations up to a standard deviation of about 300; saturating
# functions need no resolution out there, only around zero, where the panels are graded.
_MAX_PANELS = 1024
_GRADED = 2.0 ** np.arange(-6, 9)

# A function with kinks at unnamed places: the error of a panel with a jump falls as its width.
_ROUGH_REFINEMENT = 64

Array = NDArray[np.float64]


@lru_cache(maxsize=4)
def _legendre(points: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return 0.5 * (nodes + 1.0), 0.5 * weights


def _check_variance(variance: float) -> None:
    if not (math.isfinite(variance) and variance >= 0.0):
        raise ValueError(
            f"a variance of {variance} has no Gaussian; give a finite number that is not negative "
            "(an overflowing q map means that the forward signal explodes)."
        )


def _breakpoints(deviation: float, mean: float, kinks: Sequence[float], refinement: int) -> Array:
    """Panel boundaries in units of the standard deviation, ascending [panels + 1]."""
    panels = 2.0 * _REACH * max(1.0, deviation / _PANEL_WIDTH)
    uniform = np.linspace(
        -_REACH, _REACH, refinement * min(_MAX_PANELS, 2 * math.ceil(panels / 2.0)) + 1
    )
    places = np.concatenate((-_GRADED, _GRADED, [0.0], np.asarray(kinks, dtype=np.float64)))
    # A place far outside overflows to infinity at tiny deviations, and is dropped just the same.
    with np.errstate(over="ignore"):
        inner = (places - mean) / deviation
    return np.unique(np.concatenate((uniform, inner[np.abs(inner) < _REACH])))


def gaussian_nodes(
    variance: float, *, mean: float = 0.0, kinks: Sequence[float] = (), smooth: bool = True
) -> tuple[Array, Array]:
    """Nodes and weights with sum(weights * f(nodes)) = E[f(z)], z ~ N(mean, variance).

    Useful where several moments of the same Gaussian are wanted.

    Args:
        variance: Variance of z, not negative.
        mean: Mean of z.
        kinks: Points at which f or its derivative jumps.
        smooth: False where f has kinks that ``kinks`` does not name: the panels get much finer.

    Returns:
        Nodes [n] and weights [n]; the weights sum to one.

    Raises:
        ValueError: If the variance is negative or not finite.
    """
    _check_variance(variance)
    if variance == 0.0:
        return np.array([mean]), np.array([1.0])
    deviation = math.sqrt(variance)
    refinement = 1 if smooth or kinks else _ROUGH_REFINEMENT
    edges = _breakpoints(deviation, mean, kinks, refinement)
    points, shares = _legendre(_POINTS)
    widths = np.diff(edges)
    u = (edges[:-1, None] + widths[:, None] * points).ravel()
    weights = (widths[:, None] * shares).ravel() * np.exp(-0.5 * u * u)
    return mean + deviation * u, weights / weights.sum()


def gaussian_mean(
    f: Callable[[Array], Array],
    variance: float,
    *,
    mean: float = 0.0,
    smooth: bool = True,
    kinks: Sequence[float] = (),
) -> float:
    """E[f(z)] for z ~ N(mean, variance), by composite Gauss-Legendre quadrature.

    Args:
        f: Function of an array [n], elementwise, growing slower than a Gaussian.
        variance: Variance of z, not negative; at zero the answer is f(mean).
        mean: Mean of z.
        smooth: False where f has kinks that ``kinks`` does not name; the result is then good to
            about four digits at a jump of f and to seven at a jump of its slope.
        kinks: Points at which f or a derivative of it jumps; naming them restores full precision.

    Returns:
        The expectation, to about 1e-14 relative to E[abs(f)].

    Raises:
        ValueError: If the variance is negative or not finite.

    Example:
        >>> round(gaussian_mean(lambda z: np.maximum(z, 0.0) ** 2, 3.0), 12)
        1.5
    """
    nodes, weights = gaussian_nodes(variance, mean=mean, kinks=kinks, smooth=smooth)
    return float(weights @ f(nodes))


def _outer_edges(deviation: float, c: float, spread: float, kinks: Sequence[float]) -> Array:
    """Boundaries for z1: its own kinks, and the kinks of z2 as E[f(z2) | z1] smears them."""
    count = min(_MAX_PANELS, 2 * math.ceil(_PAIR_REACH * max(1.0, deviation / _PANEL_WIDTH)))
    pieces = [np.linspace(-_PAIR_REACH, _PAIR_REACH, count + 1), np.asarray(kinks) / deviation]
    if c != 0.0:
        steps = np.array([-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0]) * spread / abs(c)
        pieces += [kink / (deviation * c) + steps for kink in kinks]
    edges = np.concatenate(pieces)
    return np.unique(edges[np.abs(edges) <= _PAIR_REACH])


def gaussian_pair_mean(
    f: Callable[[Array], Array], variance: float, c: float, *, kinks: Sequence[float] = ()
) -> float:
    """E[f(z1) f(z2)] for centred Gaussians of one variance and correlation c.

    With standard normal u, v: z1 = sqrt(variance) u, z2 = sqrt(variance) (c u + sqrt(1 - c^2) v)
    (Poole et al. 2016, eq. 5). The inner panels are cut at the kinks as seen from each u.

    Args:
        f: Function of an array, elementwise.
        variance: Common variance of z1 and z2, not negative.
        c: Correlation, in [-1, 1].
        kinks: Points at which f or a derivative of it jumps.

    Returns:
        The expectation, to about 1e-12 relative to E[f^2].

    Raises:
        ValueError: If the variance is negative or not finite, or c is outside [-1, 1].
    """
    _check_variance(variance)
    if not -1.0 <= c <= 1.0:
        raise ValueError(f"a correlation of {c} is impossible; give a number in [-1, 1].")
    if variance == 0.0:
        return float(f(np.zeros(1))[0]) ** 2
    if abs(c) == 1.0:
        both = (*kinks, *(-kink for kink in kinks))
        return gaussian_mean(lambda z: f(z) * f(c * z), variance, kinks=both)
    deviation, spread = math.sqrt(variance), math.sqrt((1.0 - c) * (1.0 + c))
    points, shares = _legendre(_POINTS)

    edges = _outer_edges(deviation, c, spread, kinks)
    widths = np.diff(edges)
    u = (edges[:-1, None] + widths[:, None] * points).ravel()
    outer = (widths[:, None] * shares).ravel() * np.exp(-0.5 * u * u)

    reach = max(1.0, deviation * spread / _PANEL_WIDTH)
    panels = min(_MAX_PANELS, 2 * math.ceil(_PAIR_REACH * reach))
    uniform = np.linspace(-_PAIR_REACH, _PAIR_REACH, panels + 1)
    moving = (np.asarray(kinks)[None, :] / deviation - c * u[:, None]) / spread
    inner_edges = np.concatenate(
        (
            np.broadcast_to(uniform, (u.size, uniform.size)),
            np.clip(moving, -_PAIR_REACH, _PAIR_REACH),
        ),
        axis=1,
    )
    inner_edges.sort(axis=1)
    inner_widths = np.diff(inner_edges, axis=1)
    v = (inner_edges[:, :-1, None] + inner_widths[:, :, None] * points).reshape(u.size, -1)
    inner = (inner_widths[:, :, None] * shares).reshape(u.size, -1) * np.exp(-0.5 * v * v)
    conditional = np.sum(inner * f(deviation * (c * u[:, None] + spread * v)), axis=1)
    return float(outer @ (f(deviation * u) * conditional)) / (2.0 * math.pi)
