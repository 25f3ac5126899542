"""Arrays as JSON values that a page decodes at once: raw little-endian bytes in base64.

Digits as text are four times as many bytes and take a browser ten times as long.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Floats

MISSING, NEGATIVE, POSITIVE = 65535, 65534, 65533
"""Codes of a quantised array: not measured or NaN, minus infinity, infinity."""
LEVELS = 65532
"""Codes 0 to this are numbers, from ``lo`` to ``hi``."""


def exact(values: NDArray[Any]) -> dict[str, Any]:
    """An array as it is: ``i4`` for whole numbers (``f8`` where they are too large), else ``f4``.

    NaN and infinities go along. Single precision has seven digits, more than a figure shows.

    Args:
        values: Of any shape.
    """
    values = np.asarray(values)
    kind = "f4"
    if values.dtype.kind in "iub":
        kind = "i4" if not values.size or np.abs(values).max() < 2**31 else "f8"
    with np.errstate(over="ignore"):
        return _packed(values.astype(f"<{kind}"), kind)


def quantised(values: Floats) -> dict[str, Any]:
    """A matrix in 16 bits a cell: 65,533 levels between its smallest and largest number.

    A heat map needs 256 of them; the rest is so that a cell can be read out to four digits.

    Args:
        values: Of any shape; NaN and infinities keep codes of their own.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    low = float(values[finite].min()) if finite.any() else 0.0
    high = float(values[finite].max()) if finite.any() else 1.0
    span = high - low or 1.0
    codes = np.full(values.shape, MISSING, dtype=np.uint16)
    codes[finite] = np.rint((values[finite] - low) / span * LEVELS).astype(np.uint16)
    codes[values == np.inf] = POSITIVE
    codes[values == -np.inf] = NEGATIVE
    return {**_packed(codes.astype("<u2"), "u2"), "lo": low, "hi": low + span}


def decoded(packed: dict[str, Any]) -> NDArray[Any]:
    """What a page makes of it; the twin of ``gm.array`` in ``core.js``."""
    raw = np.frombuffer(base64.b64decode(packed["b64"]), dtype=f"<{packed['dtype']}")
    raw = raw.reshape(packed["shape"])
    if "lo" not in packed:
        return raw
    values = packed["lo"] + raw.astype(np.float64) / LEVELS * (packed["hi"] - packed["lo"])
    values[raw == MISSING] = np.nan
    values[raw == POSITIVE] = np.inf
    values[raw == NEGATIVE] = -np.inf
    return np.asarray(values)


def _packed(values: NDArray[Any], kind: str) -> dict[str, Any]:
    text = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
    return {"b64": text, "dtype": kind, "shape": list(values.shape)}
