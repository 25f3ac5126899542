"""Numbers as people read them; what is not a number says so and never breaks a view."""

from __future__ import annotations

import math

UNKNOWN = "n/a"
"""Stands for None, NaN and whatever else is no number."""


def number(value: float | None, digits: int = 3) -> str:
    """A number to some significant digits: ``0.568``, ``1,234``, ``1.2e-14``.

    Example:
        >>> number(0.56789), number(1234567.0), number(1.2345e-14), number(None)
        ('0.568', '1.23e+06', '1.23e-14', 'n/a')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e6 else text


def decades(value: float | None, *, sign: bool = True) -> str:
    """Decades to as many places as are worth reading: ``-85.30``, ``+0.07``, ``0.00``."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "+inf" if value > 0 else "-inf"
    text = f"{value:+,.1f}" if abs(value) >= 1000 else f"{value:+.2f}"
    if text in ("+0.00", "-0.00"):
        return "0.00"
    return text if sign else text.lstrip("+-")


def factor(log10: float | None) -> str:
    """A ratio given by its logarithm: ``0.42``, ``12``, ``10^-85.3``."""
    if log10 is None or not math.isfinite(log10):
        return UNKNOWN
    return f"{10.0**log10:.2g}" if abs(log10) < 2 else f"10^{log10:.1f}"


def slope(value: float) -> str:
    """A slope as the field writes it: ``1/4`` for 0.25, else three digits."""
    for under in (2, 3, 4, 5, 6, 8, 10):
        if value > 0 and abs(value * under - 1) < 1e-9:
            return f"1/{under}"
    return number(value)


def with_unit(value: float | None, unit: str) -> str:
    """A number with its unit; a plain ratio has none, and shares are per cent.

    Example:
        >>> with_unit(0.501, "share"), with_unit(1.0, "share of steps"), with_unit(2.5, "1")
        ('50.1 %', '100 % of steps', '2.5')
    """
    if unit.split(" ")[0] == "share" and value is not None and math.isfinite(value):
        return f"{number(100 * value)} %{unit.removeprefix('share')}"
    text = number(value)
    return text if unit in ("", "1") or text == UNKNOWN else f"{text} {unit}"


def percent(value: float) -> str:
    """A fraction as per cent: 0.912 is ``91.2 %``."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else UNKNOWN


def seconds(value: float | None) -> str:
    """A duration: ``0.15 s``, ``42 s``, ``3 min 20 s``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(amount: int, thing: str, things: str | None = None) -> str:
    """``1 layer``, ``100 layers``; the plural is given where it is not an s."""
    return f"{amount:,} {thing if amount == 1 else things or thing + 's'}"


def bytes_words(amount: float) -> str:
    """``1.2 MB``: a size in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= size:
            return f"{number(amount / size, 2)} {unit}"
    return f"{amount:.0f} B"
