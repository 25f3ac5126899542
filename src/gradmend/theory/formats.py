"""Range and resolution of the floating-point formats that hold gradients."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFormat:
    """A binary floating-point format.

    Attributes:
        name: torch's name for the dtype, without ``torch.``.
        bits: Size of one number.
        max: Largest finite number; beyond it gradients overflow.
        min_normal: Smallest positive number with full precision.
        min_subnormal: Smallest positive number; below half of it gradients are exactly zero.
        epsilon: Distance from one to the next number.
    """

    name: str
    bits: int
    max: float
    min_normal: float
    min_subnormal: float
    epsilon: float

    @property
    def decades(self) -> float:
        """log10(max / min_subnormal): the range that non-zero numbers span."""
        # The quotient itself overflows for float64.
        return math.log10(self.max) - math.log10(self.min_subnormal)


class UnknownNumberFormat(ValueError):
    """A dtype name for which this package holds no range."""


def _ieee_like(name: str, exponent_bits: int, mantissa_bits: int) -> NumberFormat:
    """A format whose highest exponent is reserved for infinity and NaN (IEEE 754-2019, 3.3)."""
    bias = 2 ** (exponent_bits - 1) - 1
    return NumberFormat(
        name=name,
        bits=1 + exponent_bits + mantissa_bits,
        max=(2.0 - 2.0**-mantissa_bits) * 2.0**bias,
        min_normal=2.0 ** (1 - bias),
        min_subnormal=2.0 ** (1 - bias - mantissa_bits),
        epsilon=2.0**-mantissa_bits,
    )


_FORMATS: dict[str, NumberFormat] = {
    number.name: number
    for number in (
        _ieee_like("float16", 5, 10),
        _ieee_like("bfloat16", 8, 7),
        _ieee_like("float32", 8, 23),
        _ieee_like("float64", 11, 52),
        _ieee_like("float8_e5m2", 5, 2),
        # Micikevicius et al. 2022, table 1: E4M3 has no infinity and keeps its highest exponent
        # for numbers up to 1.75 * 2^8, with NaN as the one pattern above.
        NumberFormat(
            name="float8_e4m3fn",
            bits=8,
            max=448.0,
            min_normal=2.0**-6,
            min_subnormal=2.0**-9,
            epsilon=2.0**-3,
        ),
    )
}

FORMATS: tuple[str, ...] = tuple(_FORMATS)

_ALIASES = {"half": "float16", "float": "float32", "double": "float64"}


def number_format(name: str) -> NumberFormat:
    """Look up a format by the name of its dtype.

    Args:
        name: Such as ``"float16"`` or ``"torch.float16"`` (``str(tensor.dtype)``).

    Returns:
        The format.

    Raises:
        UnknownNumberFormat: If the name is not one of ``FORMATS``.

    Example:
        >>> number_format("torch.float16").max
        65504.0
    """
    bare = name.rsplit(".", 1)[-1].lower()
    bare = _ALIASES.get(bare, bare)
    if bare in _FORMATS:
        return _FORMATS[bare]
    close = difflib.get_close_matches(bare, FORMATS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UnknownNumberFormat(
        f"no number format is called {name!r}, so its underflow and overflow are unknown; "
        f"{hint}The known formats are {', '.join(FORMATS)}."
    )
