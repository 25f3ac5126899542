"""Closed-form weight scales of the standard initialisations.

``std`` is the standard deviation of one weight; ``sigma_w = std * sqrt(fan_in)`` is the scale
that the maps of mean-field theory take, and the *gain* of the literature where fan_in = fan_out.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

Scheme: TypeAlias = Literal["xavier", "he", "lecun", "torch_default"]

SCHEMES: tuple[str, ...] = get_args(Scheme)

# torch.nn.Linear draws U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), of variance 1 / (3 fan_in)
# (kaiming_uniform_ with a = sqrt(5)); its biases follow the same distribution.
TORCH_DEFAULT_SIGMA_W = 1.0 / math.sqrt(3.0)


def xavier_gain(fan_in: int, fan_out: int) -> float:
    """sigma_w = sqrt(2 fan_in / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 12).

    Args:
        fan_in: Inputs of the layer.
        fan_out: Outputs of the layer.

    Returns:
        Weight scale; one for a square layer.

    Raises:
        ValueError: If a fan is not positive.
    """
    _check_fans(fan_in, fan_out)
    return math.sqrt(2.0 * fan_in / (fan_in + fan_out))


def he_gain(negative_slope: float = 0.0) -> float:
    """sigma_w = sqrt(2 / (1 + a^2)) (He et al. 2015, eq. 15).

    Args:
        negative_slope: a, the slope of the rectifier for negative inputs; zero for ReLU.

    Returns:
        Weight scale at which chi = 1 for a (leaky) ReLU, at every q.
    """
    return math.sqrt(2.0 / (1.0 + negative_slope**2))


def lecun_gain() -> float:
    """sigma_w = 1 (LeCun et al. 1998, section 4.6; used by SELU)."""
    return 1.0


def init_std(fan_in: int, fan_out: int, scheme: Scheme, *, negative_slope: float = 0.0) -> float:
    """Standard deviation of one weight under a standard initialisation.

    Args:
        fan_in: Inputs of the layer.
        fan_out: Outputs of the layer.
        scheme: ``"xavier"``, ``"he"``, ``"lecun"`` or ``"torch_default"`` (``nn.Linear`` as it
            is built).
        negative_slope: Slope of a leaky rectifier; read by ``"he"`` only.

    Returns:
        sigma_w / sqrt(fan_in).

    Raises:
        ValueError: If a fan is not positive or the scheme is not one of ``SCHEMES``.

    Example:
        >>> init_std(200, 50, "he")
        0.1
    """
    _check_fans(fan_in, fan_out)
    if scheme == "xavier":
        sigma_w = xavier_gain(fan_in, fan_out)
    elif scheme == "he":
        sigma_w = he_gain(negative_slope)
    elif scheme == "lecun":
        sigma_w = lecun_gain()
    elif scheme == "torch_default":
        sigma_w = TORCH_DEFAULT_SIGMA_W
    else:
        raise ValueError(
            f"no initialisation is called {scheme!r}, so its scale is unknown; "
            f"choose one of {', '.join(SCHEMES)}."
        )
    return sigma_w / math.sqrt(fan_in)


def _check_fans(fan_in: int, fan_out: int) -> None:
    if fan_in < 1 or fan_out < 1:
        raise ValueError(
            f"a layer with fan_in = {fan_in} and fan_out = {fan_out} has no weights to scale; "
            "both must be at least one."
        )
