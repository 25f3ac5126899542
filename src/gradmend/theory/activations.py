"""Scalar activations phi with their derivatives, as the mean-field maps need them.

Every entry follows the definition of the torch function of the same name, so a prediction made
here is a prediction about that module. Values and derivatives act elementwise on float64 arrays
of any shape. At a kink the derivative takes torch's one-sided value; the quadrature of this
package never evaluates there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
RealFunction: TypeAlias = Callable[[Array], Array]

# Klambauer et al. 2017, eq. 14: the pair for which (mean, variance) = (0, 1) is a fixed point.
SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717

# He et al. 2015: the initial slope of PReLU, which is also torch's default.
PRELU_SLOPE = 0.25

_SQRT_2 = math.sqrt(2.0)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715  # Hendrycks and Gimpel 2016: coefficient of the tanh approximation


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A scalar nonlinearity and the facts about it that the theory uses.

    Attributes:
        name: Canonical name, one of ``KNOWN``.
        value: phi, elementwise.
        derivative: phi', elementwise; at a kink the one-sided value that torch uses.
        kinks: Points where phi or one of its first two derivatives jumps, ascending. Quadrature
            splits its interval there.
        bounded: Whether phi stays in a finite interval.
        max_slope: sup of abs(phi') over the real line.
        slope_at_zero: phi'(0), in torch's convention where 0 is a kink.
        odd: Whether phi(-x) = -phi(x).
        positively_homogeneous: Whether phi(s x) = s phi(x) for every s > 0, in which case the
            backward gain chi does not depend on q.
    """

    name: str
    value: RealFunction = field(repr=False)
    derivative: RealFunction = field(repr=False)
    kinks: tuple[float, ...] = ()
    bounded: bool
    max_slope: float
    slope_at_zero: float
    odd: bool = False
    positively_homogeneous: bool = False

    @property
    def smooth(self) -> bool:
        """Whether phi is analytic on the real line, hence free of kinks."""
        return not self.kinks


class UnknownActivation(ValueError):
    """A name that no activation of this package bears."""


class ActivationParameterError(ValueError):
    """A parameter that the named activation does not have, or a value outside its domain."""


# math.erf is accurate to one unit in the last place; NumPy itself offers no error function.
_erf_object = np.frompyfunc(math.erf, 1, 1)
_erfc_object = np.frompyfunc(math.erfc, 1, 1)


def erf(x: Array) -> Array:
    """erf(x) = 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x, elementwise.

    Args:
        x: Real numbers [...].

    Returns:
        Values in (-1, 1) [...].
    """
    return np.asarray(_erf_object(x), dtype=np.float64)


def _normal_cdf(x: Array) -> Array:
    # erfc keeps its relative precision in the lower tail, where (1 + erf) / 2 would cancel.
    return 0.5 * np.asarray(_erfc_object(-x / _SQRT_2), dtype=np.float64)


def _normal_pdf(x: Array) -> Array:
    return np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _identity(x: Array) -> Array:
    return np.array(x, dtype=np.float64)


def _identity_slope(x: Array) -> Array:
    return np.ones_like(x, dtype=np.float64)


def _sigmoid(x: Array) -> Array:
    # logaddexp neither overflows nor loses the lower tail, as 1 / (1 + exp(-x)) would.
    return np.exp(-np.logaddexp(0.0, -x))


def _sigmoid_slope(x: Array) -> Array:
    return _sigmoid(x) * _sigmoid(-x)


def _tanh_slope(x: Array) -> Array:
    # 4 sigma(2x) sigma(-2x) equals 1 - tanh(x)^2 without its cancellation for large abs(x).
    return 4.0 * _sigmoid_slope(2.0 * x)


def _centred_sigmoid(x: Array) -> Array:
    return 2.0 * _sigmoid(2.0 * x) - 1.0


def _leaky_relu(x: Array, *, negative_slope: float) -> Array:
    return np.where(x > 0.0, x, negative_slope * x)


def _leaky_relu_slope(x: Array, *, negative_slope: float) -> Array:
    return np.where(x > 0.0, 1.0, negative_slope)


def _elu(x: Array, *, alpha: float, scale: float) -> Array:
    return scale * np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _elu_slope(x: Array, *, alpha: float, scale: float) -> Array:
    return scale * np.where(x > 0.0, 1.0, alpha * np.exp(np.minimum(x, 0.0)))


def _celu(x: Array, *, alpha: float) -> Array:
    return np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


def _celu_slope(x: Array, *, alpha: float) -> Array:
    return np.where(x > 0.0, 1.0, np.exp(np.minimum(x, 0.0) / alpha))


def _gelu(x: Array) -> Array:
    return x * _normal_cdf(x)


def _gelu_slope(x: Array) -> Array:
    return _normal_cdf(x) + x * _normal_pdf(x)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x**3)))


def _gelu_tanh_slope(x: Array) -> Array:
    inner = _SQRT_2_OVER_PI * (x + _GELU_CUBIC * x**3)
    inner_slope = _SQRT_2_OVER_PI * (1.0 + 3.0 * _GELU_CUBIC * x * x)
    return 0.5 * (1.0 + np.tanh(inner)) + 0.5 * x * _tanh_slope(inner) * inner_slope


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _silu_slope(x: Array) -> Array:
    return _sigmoid(x) + x * _sigmoid_slope(x)


def _mish(x: Array) -> Array:
    return x * np.tanh(np.logaddexp(0.0, x))


def _mish_slope(x: Array) -> Array:
    softplus = np.logaddexp(0.0, x)
    return np.tanh(softplus) + x * _sigmoid(x) * _tanh_slope(softplus)


def _softplus(x: Array, *, beta: float) -> Array:
    return np.logaddexp(0.0, beta * x) / beta


def _softplus_slope(x: Array, *, beta: float) -> Array:
    return _sigmoid(beta * x)


def _softsign(x: Array) -> Array:
    return x / (1.0 + np.abs(x))


def _softsign_slope(x: Array) -> Array:
    return 1.0 / (1.0 + np.abs(x)) ** 2


def _erf_slope(x: Array) -> Array:
    return 2.0 / math.sqrt(math.pi) * np.exp(-x * x)


def _hardtanh(x: Array) -> Array:
    return np.clip(x, -1.0, 1.0)


def _hardtanh_slope(x: Array) -> Array:
    return np.where((x > -1.0) & (x < 1.0), 1.0, 0.0)


def _relu6(x: Array) -> Array:
    return np.clip(x, 0.0, 6.0)


def _relu6_slope(x: Array) -> Array:
    return np.where((x > 0.0) & (x < 6.0), 1.0, 0.0)


def _hardsigmoid(x: Array) -> Array:
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


def _hardsigmoid_slope(x: Array) -> Array:
    return np.where((x > -3.0) & (x < 3.0), 1.0 / 6.0, 0.0)


def _hardswish(x: Array) -> Array:
    return x * _hardsigmoid(x)


def _hardswish_slope(x: Array) -> Array:
    return np.where(x <= -3.0, 0.0, np.where(x >= 3.0, 1.0, x / 3.0 + 0.5))


def _logsigmoid(x: Array) -> Array:
    return -np.logaddexp(0.0, -x)


def _logsigmoid_slope(x: Array) -> Array:
    return _sigmoid(-x)


def _tanhshrink(x: Array) -> Array:
    return x - np.tanh(x)


def _tanhshrink_slope(x: Array) -> Array:
    return np.tanh(x) ** 2


def _leaky(name: str, negative_slope: float) -> Activation:
    return Activation(
        name=name,
        value=partial(_leaky_relu, negative_slope=negative_slope),
        derivative=partial(_leaky_relu_slope, negative_slope=negative_slope),
        kinks=(0.0,),
        bounded=False,
        max_slope=max(1.0, abs(negative_slope)),
        slope_at_zero=negative_slope,
        odd=negative_slope == 1.0,
        positively_homogeneous=True,
    )


def _exponential_linear(name: str, alpha: float, scale: float = 1.0) -> Activation:
    return Activation(
        name=name,
        value=partial(_elu, alpha=alpha, scale=scale),
        derivative=partial(_elu_slope, alpha=alpha, scale=scale),
        kinks=(0.0,),
        bounded=False,
        max_slope=scale * max(1.0, alpha),
        slope_at_zero=scale * alpha,
    )


def _continuous_exponential_linear(alpha: float) -> Activation:
    return Activation(
        name="celu",
        value=partial(_celu, alpha=alpha),
        derivative=partial(_celu_slope, alpha=alpha),
        kinks=(0.0,),
        bounded=False,
        max_slope=1.0,
        slope_at_zero=1.0,
    )


def _softplus_of(beta: float) -> Activation:
    return Activation(
        name="softplus",
        value=partial(_softplus, beta=beta),
        derivative=partial(_softplus_slope, beta=beta),
        bounded=False,
        max_slope=1.0,
        slope_at_zero=0.5,
    )


# The parameter each family takes, with torch's default value and the builder that receives it.
_FAMILIES: dict[str, tuple[str, float, Callable[[float], Activation]]] = {
    "leaky_relu": ("negative_slope", 0.01, partial(_leaky, "leaky_relu")),
    "prelu": ("negative_slope", PRELU_SLOPE, partial(_leaky, "prelu")),
    "elu": ("alpha", 1.0, partial(_exponential_linear, "elu")),
    "celu": ("alpha", 1.0, _continuous_exponential_linear),
    "softplus": ("beta", 1.0, _softplus_of),
}

_FIXED: dict[str, Activation] = {
    phi.name: phi
    for phi in (
        Activation(
            name="identity",
            value=_identity,
            derivative=_identity_slope,
            bounded=False,
            max_slope=1.0,
            slope_at_zero=1.0,
            odd=True,
            positively_homogeneous=True,
        ),
        Activation(
            name="sigmoid",
            value=_sigmoid,
            derivative=_sigmoid_slope,
            bounded=True,
            max_slope=0.25,
            slope_at_zero=0.25,
        ),
        Activation(
            name="tanh",
            value=np.tanh,
            derivative=_tanh_slope,
            bounded=True,
            max_slope=1.0,
            slope_at_zero=1.0,
            odd=True,
        ),
        _leaky("relu", 0.0),
        _exponential_linear("selu", SELU_ALPHA, SELU_SCALE),
        Activation(
            name="gelu",
            value=_gelu,
            derivative=_gelu_slope,
            bounded=False,
            # phi'' = (2 - x^2) * density vanishes at x = sqrt(2), so the maximum is phi'(sqrt 2).
            max_slope=0.5 * math.erfc(-1.0) + math.exp(-1.0) / math.sqrt(math.pi),
            slope_at_zero=0.5,
        ),
        Activation(
            name="gelu_tanh",
            value=_gelu_tanh,
            derivative=_gelu_tanh_slope,
            bounded=False,
            max_slope=1.128993068658772,  # numerical maximum, no closed form
            slope_at_zero=0.5,
        ),
        Activation(
            name="silu",
            value=_silu,
            derivative=_silu_slope,
            bounded=False,
            max_slope=1.099839320128867,  # numerical maximum, no closed form
            slope_at_zero=0.5,
        ),
        Activation(
            name="mish",
            value=_mish,
            derivative=_mish_slope,
            bounded=False,
            max_slope=1.088498161251728,  # numerical maximum, no closed form
            slope_at_zero=0.6,  # tanh(ln 2)
        ),
        Activation(
            name="softsign",
            value=_softsign,
            derivative=_softsign_slope,
            kinks=(0.0,),  # phi'' jumps from +2 to -2
            bounded=True,
            max_slope=1.0,
            slope_at_zero=1.0,
            odd=True,
        ),
        Activation(
            name="erf",
            value=erf,
            derivative=_erf_slope,
            bounded=True,
            max_slope=2.0 / math.sqrt(math.pi),
            slope_at_zero=2.0 / math.sqrt(math.pi),
            odd=True,
        ),
        Activation(
            name="sin",
            value=np.sin,
            derivative=np.cos,
            bounded=True,
            max_slope=1.0,
            slope_at_zero=1.0,
            odd=True,
        ),
        Activation(
            name="hardtanh",
            value=_hardtanh,
            derivative=_hardtanh_slope,
            kinks=(-1.0, 1.0),
            bounded=True,
            max_slope=1.0,
            slope_at_zero=1.0,
            odd=True,
        ),
        Activation(
            name="relu6",
            value=_relu6,
            derivative=_relu6_slope,
            kinks=(0.0, 6.0),
            bounded=True,
            max_slope=1.0,
            slope_at_zero=0.0,
        ),
        Activation(
            name="hardsigmoid",
            value=_hardsigmoid,
            derivative=_hardsigmoid_slope,
            kinks=(-3.0, 3.0),
            bounded=True,
            max_slope=1.0 / 6.0,
            slope_at_zero=1.0 / 6.0,
        ),
        Activation(
            name="hardswish",
            value=_hardswish,
            derivative=_hardswish_slope,
            kinks=(-3.0, 3.0),
            bounded=False,
            max_slope=1.5,  # approached from below at x = 3
            slope_at_zero=0.5,
        ),
        Activation(
            name="logsigmoid",
            value=_logsigmoid,
            derivative=_logsigmoid_slope,
            bounded=False,
            max_slope=1.0,
            slope_at_zero=0.5,
        ),
        Activation(
            name="tanhshrink",
            value=_tanhshrink,
            derivative=_tanhshrink_slope,
            bounded=False,
            max_slope=1.0,
            slope_at_zero=0.0,
            odd=True,
        ),
        Activation(
            name="centred_sigmoid",
            value=_centred_sigmoid,
            derivative=_tanh_slope,
            bounded=True,
            max_slope=1.0,
            slope_at_zero=1.0,
            odd=True,
        ),
    )
}

KNOWN: tuple[str, ...] = (
    "identity",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "prelu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "erf",
    "sin",
    "hardtanh",
    "relu6",
    "hardsigmoid",
    "hardswish",
    "logsigmoid",
    "tanhshrink",
    "centred_sigmoid",
)


def _squash(name: str) -> str:
    """Lower case without separators or module path: ``torch.nn.LeakyReLU`` -> ``leakyrelu``."""
    return name.rsplit(".", 1)[-1].lower().replace("_", "").replace("-", "")


_SPELLINGS: dict[str, str] = {_squash(name): name for name in KNOWN} | {
    "linear": "identity",
    "swish": "silu",
    "centeredsigmoid": "centred_sigmoid",
}


def _canonical(name: str) -> str:
    squashed = _squash(name)
    if squashed in _SPELLINGS:
        return _SPELLINGS[squashed]
    close = difflib.get_close_matches(squashed, _SPELLINGS, n=1)
    hint = f"did you mean {_SPELLINGS[close[0]]!r}? " if close else ""
    raise UnknownActivation(
        f"no activation is called {name!r}, so its gain cannot be predicted; "
        f"{hint}The known names are {', '.join(KNOWN)}."
    )


@lru_cache(maxsize=256)
def _member(family: str, number: float) -> Activation:
    """One object for each set of parameters, so that activations compare and hash by value."""
    return _FAMILIES[family][2](number)


def activation(
    name: str,
    *,
    negative_slope: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> Activation:
    """Look up an activation by name, with torch's default where a parameter is not given.

    Args:
        name: One of ``KNOWN``; capitals, separators and a module path do not matter, so a torch
            class name such as ``"torch.nn.LeakyReLU"`` works.
        negative_slope: Slope for x < 0 of ``leaky_relu`` (default 0.01) and ``prelu`` (0.25).
        alpha: Depth of the negative branch of ``elu`` and ``celu`` (default 1), positive.
        beta: Sharpness of ``softplus`` (default 1), positive.

    Returns:
        The activation; equal arguments return the same object.

    Raises:
        UnknownActivation: If no activation bears the name.
        ActivationParameterError: If the activation does not take a given parameter, or the value
            is not finite, or alpha or beta is not positive.

    Example:
        >>> activation("LeakyReLU", negative_slope=0.2).max_slope
        1.0
    """
    canonical = _canonical(name)
    given = {"negative_slope": negative_slope, "alpha": alpha, "beta": beta}
    parameter, default, _ = _FAMILIES.get(canonical, ("", 0.0, None))
    for key, number in given.items():
        if number is None:
            continue
        if key != parameter:
            raise ActivationParameterError(
                f"{canonical} takes no {key} (got {number}), and ignoring it would predict a "
                f"different network; leave it out{f' or give {parameter}' if parameter else ''}."
            )
        if not math.isfinite(number) or (key != "negative_slope" and number <= 0.0):
            raise ActivationParameterError(
                f"{key} = {number} makes {canonical} undefined; give a finite"
                f"{'' if key == 'negative_slope' else ' positive'} number."
            )
    if canonical in _FIXED:
        return _FIXED[canonical]
    chosen = given[parameter]
    return _member(canonical, default if chosen is None else float(chosen))
