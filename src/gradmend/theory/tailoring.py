"""Constants of transformed activations: TAT (Zhang et al. 2022) and DKS (Martens et al. 2021).

Both bend an activation into phi_hat(x) = gamma (phi(alpha x + beta) + delta) so that a network
without skips or norms, of a given depth, keeps the size of its signal and how alike two samples
are. Leaky rectifiers have a closed form; the others solve two or three equations in expectations
over a Gaussian. The authors' package ``dks`` finds the same constants, by sums over 100,000 nodes
in place of 120, and is what the tests compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from gradmend.theory._roots import find_root
from gradmend.theory.activations import Array, activation

ETA = 0.9
"""C(0) of the whole network under leaky TAT: Zhang et al. 2022, their default."""

TAU = 0.3
"""C''(1) of the whole network under smooth TAT: their default."""

ZETA = 1.5
"""C'(1) of the whole network under DKS: Martens et al. 2021, their default."""

SMOOTH = ("erf", "gelu", "gelu_tanh", "sigmoid", "silu", "softplus", "tanh")
"""Activations with the two derivatives that the equations ask for."""

_STEEPEST = 2.0
"""Steepest slope of a transformed activation from which a TAT is rejected: its q map is unstable
(the authors' package asks the same of alpha gamma, which it is for tanh)."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(120)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True, slots=True)
class Constants:
    """gamma (phi(alpha x + beta) + delta)."""

    function: str
    input_scale: float = 1.0
    input_shift: float = 0.0
    output_scale: float = 1.0
    output_shift: float = 0.0
    negative_slope: float = 0.0


def leaky_correlation(c: float, slope: float) -> float:
    """The C map of sqrt(2 / (1 + a^2)) LeakyReLU_a: how alike two samples are one layer on.

    Args:
        c: Correlation before it, in [-1, 1].
        slope: a, in [0, 1].
    """
    bent = (1.0 - slope) ** 2 / (math.pi * (1.0 + slope**2))
    return c + bent * (math.sqrt(max(0.0, 1.0 - c * c)) - c * math.acos(max(-1.0, min(1.0, c))))


@cache
def leaky_tat(depth: int) -> Constants | None:
    """The leaky ReLU under which two unlike samples end at a correlation of 0.9.

    Args:
        depth: Layers in a row, at least 1.

    Returns:
        Its constants; ``None`` where even a ReLU leaves them less alike, so that there is
        nothing to bend.
    """

    def excess(slope: float) -> float:
        c = 0.0
        for _ in range(depth):
            c = leaky_correlation(c, slope)
        return c - ETA

    if excess(0.0) <= 0.0:
        return None
    slope = find_root(excess, 0.0, 1.0)
    return Constants(
        "leaky_relu", output_scale=math.sqrt(2.0 / (1.0 + slope**2)), negative_slope=slope
    )


@cache
def solved(function: str, method: str, depth: int) -> Constants | None:
    """TAT's or DKS's constants for a smooth activation in a plain chain.

    Both ask for Q(1) = 1 and Q'(1) = 1 at every layer. DKS adds C(0) = 0 and C'(1) = zeta^(1/L);
    TAT C'(1) = 1 and C''(1) = tau / L. With z standard normal, C'(1) = E[phi_hat'(z)^2],
    C''(1) = E[phi_hat''(z)^2] and Q'(1) = E[z phi_hat(z) phi_hat'(z)].

    Args:
        function: One of ``SMOOTH``.
        method: ``TAT`` or ``DKS``.
        depth: Activations in a row, L.

    Returns:
        The constants; ``None`` where the equations have no solution that was found.
    """
    if function not in SMOOTH:
        return None
    shaped = method == "DKS"
    phi = activation(function)

    def transformed(point: Array) -> tuple[Constants, Array]:
        """The constants at a point, and how far they are from what is asked."""
        scale, shift = float(point[0]), float(point[1])
        x = scale * _NODES + shift
        value, slope = phi.value(x), scale * phi.derivative(x)
        bend = scale**2 * (phi.derivative(x + _STEP) - phi.derivative(x - _STEP)) / (2.0 * _STEP)
        moved = -float(_WEIGHTS @ value) if shaped else float(point[2])
        value = value + moved
        gamma = 1.0 / math.sqrt(float(_WEIGHTS @ value**2))
        asked = [
            gamma**2 * float(_WEIGHTS @ (_NODES * value * slope)) - 1.0,
            gamma**2 * float(_WEIGHTS @ slope**2) - (ZETA ** (1.0 / depth) if shaped else 1.0),
        ]
        if not shaped:
            # In units of its target, or this equation would hardly count.
            asked.append(gamma**2 * float(_WEIGHTS @ bend**2) * depth / TAU - 1.0)
        return Constants(function, scale, shift, gamma, moved), np.array(asked)

    for start in product((1.0, 0.1), (0.0, 1.0, -1.0), (0.0,) if shaped else (0.0, 1.0, -1.0)):
        point = _newton(lambda at: transformed(at)[1], np.array(start[: 2 if shaped else 3]))
        if point is None or point[0] <= 0.0:
            continue
        found = transformed(point)[0]
        steepest = found.input_scale * found.output_scale * phi.max_slope
        if shaped or steepest < _STEEPEST:
            return found
    return None


_STEP = 1e-5
"""Half the distance of the central difference by which phi'' is taken."""


def _newton(f: Callable[[Array], Array], point: Array) -> Array | None:
    """Damped Newton with differences for the Jacobian; ``None`` where it does not converge."""
    with np.errstate(all="ignore"):
        try:
            here = f(point)
            for _ in range(60):
                if float(np.abs(here).max()) < 1e-9:
                    return point
                steps = 1e-6 * np.maximum(1e-2, np.abs(point))
                columns = [
                    (f(point + h) - f(point - h)) / (2.0 * float(h.sum())) for h in np.diag(steps)
                ]
                step = np.linalg.solve(np.stack(columns, axis=1), here)
                damping = 1.0
                while damping > 1e-3:
                    there = f(point - damping * step)
                    if np.isfinite(there).all() and np.abs(there).sum() < np.abs(here).sum():
                        break
                    damping *= 0.5
                else:
                    return None
                point, here = point - damping * step, there
        except (ArithmeticError, ValueError, np.linalg.LinAlgError):
            return None
    return None
