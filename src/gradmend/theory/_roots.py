"""One bracketing root finder, so that the room needs no SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable

# Chandrupatla converges superlinearly; bisection alone needs 60 halvings to exhaust a float64.
_MAX_STEPS = 120


def find_root(
    f: Callable[[float], float], lower: float, upper: float, *, tolerance: float = 1e-14
) -> float:
    """Solve f(x) = 0 between two points where f has opposite signs.

    Chandrupatla (1997): inverse quadratic interpolation wherever it is safe, bisection elsewhere.

    Args:
        f: Continuous function.
        lower: One end of the bracket.
        upper: The other end.
        tolerance: Width of the final bracket, relative to 1 + abs(x).

    Returns:
        A root.

    Raises:
        ValueError: If f has the same sign at both ends.
    """
    a, b = upper, lower
    fa, fb = f(a), f(b)
    if fa == 0.0:
        return a
    if fb == 0.0:
        return b
    if math.copysign(1.0, fa) == math.copysign(1.0, fb):
        raise ValueError(
            f"f({lower:.6g}) = {fb:.3g} and f({upper:.6g}) = {fa:.3g} have the same sign, so no "
            "root is known to lie between; widen the bracket."
        )
    share = 0.5  # where in the bracket to look next, as a share of the way from a to b
    for _ in range(_MAX_STEPS):
        x = a + share * (b - a)
        fx = f(x)
        if math.copysign(1.0, fx) == math.copysign(1.0, fa):
            c, fc = a, fa
        else:
            c, fc = b, fb
            b, fb = a, fa
        a, fa = x, fx
        best = a if abs(fa) < abs(fb) else b
        resolution = tolerance * (1.0 + abs(best)) / abs(b - a)
        if fa == 0.0 or resolution > 0.5:
            return best
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        share = 0.5
        if phi * phi < xi and (1.0 - phi) ** 2 < 1.0 - xi:
            share = (fa / (fb - fa)) * (fc / (fb - fc))
            share += (c - a) / (b - a) * (fa / (fc - fa)) * (fb / (fc - fb))
        share = min(1.0 - resolution, max(resolution, share))
    return best
