# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""One module's output, compiled by numba: its statistics in one call, some microseconds each.

Three loops over numbers that stay in the cache, each vectorised at its own width: on the bits
(largest, zeros), in float64 (sums), and against bounds (units). Importing this module loads numba
and compiles, or reads from numba's cache. For float32, bfloat16 and float16, whose squares float64
holds.
"""

from __future__ import annotations

import numpy as np

from gradmend.probe.kernels._bits import (
    as_bfloat16,
    as_float16,
    as_float32,
    decode,
    infinity,
    jit,
    jit_sums,
    magnitude,
    tally,
)
from gradmend.probe.kernels._table import BFLOAT16, FLOAT32

COUNTED = 1024
"""Entries after which a count of 16 bits is read off."""


@jit
def _extremes(bits, zero):
    """Largest magnitude and count of zeros; of at most 1024."""
    top, zeros = zero, zero
    for i in range(bits.size):
        size = magnitude(bits[i])
        if size > top:
            top = size
        zeros = tally(zeros, size == zero)
    return top, zeros


@jit
def _non_finite(bits, zero):
    infinite = infinity(zero)
    bad = 0
    for i in range(bits.size):
        if magnitude(bits[i]) >= infinite:
            bad += 1
    return bad


@jit_sums
def _add_row(bits, sums):
    """Add one sample to the sums; the sum of its squares."""
    squares = 0.0
    for i in range(bits.size):
        x = decode(bits[i])
        sums[i] += x
        squares += x * x
    return squares


@jit_sums
def _squares(bits):
    squares = 0.0
    for i in range(bits.size):
        x = decode(bits[i])
        squares += x * x
    return squares


@jit_sums
def _energy_of(sums):
    squares = 0.0
    for i in range(sums.size):
        squares += sums[i] * sums[i]
    return squares


@jit
def _flat(bits, low, high):
    """Count of entries at or beyond the bounds; NaN is neither."""
    flat = 0
    for i in range(bits.size):
        x = decode(bits[i])
        flat += (x <= low) | (x >= high)
    return flat


@jit
def _wake_each(bits, low, high, alive):
    """Mark the units, one entry each, that are not at or beyond the bounds."""
    for i in range(bits.size):
        x = decode(bits[i])
        alive[i] |= not ((x <= low) | (x >= high))


@jit
def _measure(bits, zero, samples, inner, bounds, alive):
    top, zeros = zero, 0
    for start in range(0, bits.size, COUNTED):
        highest, none = _extremes(bits[start : start + COUNTED], zero)
        top = max(top, highest)
        zeros += none
    bad = _non_finite(bits, zero) if top >= infinity(zero) else 0
    row = bits.size // samples
    sums = np.zeros(row)
    energy = 0.0
    for sample in range(samples):
        energy += _add_row(bits[sample * row : (sample + 1) * row], sums)
    flat, units = 0, alive.size
    if units > 0:
        low, high, dead_low, dead_high = bounds
        flat = _flat(bits, low, high)
        if inner == 1:
            for start in range(0, bits.size, units):
                _wake_each(bits[start : start + units], dead_low, dead_high, alive)
        else:
            for place in range(bits.size // inner):
                part = bits[place * inner : (place + 1) * inner]
                if _flat(part, dead_low, dead_high) < inner:
                    alive[place % units] = True
    return energy, _energy_of(sums) / samples, decode(top), bits.size - zeros, bad, flat


@jit
def measure(address, entries, format, samples, inner, bounds, alive):
    """Statistics of a contiguous tensor [samples, ..., units, inner].

    Args:
        address: Where it begins.
        entries: How many it has.
        format: As in `_table.FORMATS`; not float64.
        samples: Size of dimension 0.
        inner: Entries of one unit that lie next to one another.
        bounds: Entries at or beyond the first two are flat, at or beyond the others have no
            slope.
        alive: Takes whether units have a slope anywhere, bool [units]; empty if nobody asks.

    Returns:
        Energy, energy of the mean over samples, largest magnitude, entries but zero, entries that
        are not finite (the first three mean nothing if there are), flat ones.
    """
    if format == FLOAT32:
        bits = as_float32(address, entries)
        return _measure(bits, np.int32(0), samples, inner, bounds, alive)
    if format == BFLOAT16:
        bits = as_bfloat16(address, entries)
        return _measure(bits, np.int16(0), samples, inner, bounds, alive)
    return _measure(as_float16(address, entries), np.uint16(0), samples, inner, bounds, alive)


@jit
def norm(address, entries, format):
    """Euclidean norm of a contiguous tensor; not for float64."""
    if format == FLOAT32:
        return np.sqrt(_squares(as_float32(address, entries)))
    if format == BFLOAT16:
        return np.sqrt(_squares(as_bfloat16(address, entries)))
    return np.sqrt(_squares(as_float16(address, entries)))
