"""What a layer that is normalised does to the gradient, whatever its weights are.

A norm sets the mean square of what an activation reads to one, and divides the gradient by what
it divided the signal by. With z standard normal, a linear layer of weight scale sigma_w, the norm
and the activation together change the mean square of the gradient by

    batch norm          E[phi'(z)^2] / Var phi(z)     (the batch's mean is taken off)
    layer, RMS, group   E[phi'(z)^2] / E[phi(z)^2]

where sigma_w has dropped out. For ReLU the first is pi / (pi - 1) = 1.467 (Yang et al. 2019) and
the second one; for the sigmoid the second is 0.153, so that a layer norm in a sigmoid net loses
0.41 decades of gradient at every layer: it scales, but what drowns the signal is its offset.
"""

from __future__ import annotations

import math
from functools import cache

from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.meanfield import mean_square_slope, output_mean_square, output_variance


@cache
def decades_per_norm(function: str, norm: str) -> float | None:
    """log10 of the factor by which the gradient's norm changes in one normalised layer.

    Args:
        function: Name of the activation behind the norm.
        norm: ``BatchNorm``, or any other kind, which does not average over the batch.

    Returns:
        Decades, positive where it grows on its way back; ``None`` for an unknown activation.
    """
    if function not in KNOWN:
        return None
    phi = activation(function)
    size = output_variance(phi, 1.0) if norm == "BatchNorm" else output_mean_square(phi, 1.0)
    slope = mean_square_slope(phi, 1.0)
    return 0.5 * math.log10(slope / size) if slope > 0 and size > 0 else None
