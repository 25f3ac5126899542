"""The kernels compiled by numba: one call for all tensors, one thread, no temporaries.

What made them fast, each measured: two plain loops over a block that stays in the first cache, the
one on the bits (largest, smallest, zeros), the other for the sums, so that each is vectorised at
its own width; no test for NaN in either, since a magnitude at or above that of infinity tells that
the block needs the careful loops. Sums are in float64 throughout.

Importing this module loads numba and compiles, or reads from numba's cache.
"""

from __future__ import annotations

import numpy as np

from gradmend.probe.kernels._bits import (
    as_bfloat16,
    as_float16,
    as_float32,
    as_float64,
    bit_length,
    decode,
    infinity,
    jit,
    jit_sums,
    magnitude,
    shifted,
    tally,
)
from gradmend.probe.kernels._table import (
    ADDRESS,
    BFLOAT16,
    ENTRIES,
    FLOAT16,
    FLOAT32,
    FORMAT,
    OFFSET,
    PERIOD,
)

# Squares of float64 are taken of scaled numbers beyond these bounds (J. L. Blue, A Portable Fortran
# Program to Find the Euclidean Norm of a Vector, 1978: three accumulators).
SMALL, LARGE = 2.0**-400, 2.0**400
UP, DOWN = 2.0**600, 2.0**-600


@jit
def _extremes(bits, zero):
    """Largest magnitude, smallest but zero, count of zeros; of at most 1024, counted in 16 bits."""
    infinite = infinity(zero)
    top, low, zeros = zero, infinite, zero
    for i in range(bits.size):
        size = magnitude(bits[i])
        if size > top:
            top = size
        nonzero = size if size > zero else infinite
        if nonzero < low:
            low = nonzero
        zeros = tally(zeros, size == zero)
    return top, low, zeros


@jit
def _finite_extremes(bits, zero):
    """Largest finite magnitude, and count of what is not finite."""
    infinite = infinity(zero)
    top, bad = zero, zero
    for i in range(bits.size):
        size = magnitude(bits[i])
        finite = size if size < infinite else zero
        if finite > top:
            top = finite
        bad = tally(bad, size >= infinite)
    return top, bad


@jit_sums
def _sums(bits):
    """Sum, and sum of squares."""
    total, squares = 0.0, 0.0
    for i in range(bits.size):
        x = decode(bits[i])
        total += x
        squares += x * x
    return total, squares


@jit_sums
def _careful_sums(bits, zero, scale):
    """Sum of the finite entries, and of the squares of them times ``scale``."""
    infinite = infinity(zero)
    total, squares = 0.0, 0.0
    for i in range(bits.size):
        value = bits[i]
        x = decode(value if magnitude(value) < infinite else zero)
        total += x
        x *= scale
        squares += x * x
    return total, squares


@jit
def _sweep(bits, zero, block, period, offset, row):
    """Write one row."""
    total, plain, small, large = 0.0, 0.0, 0.0, 0.0
    top, low = zero, infinity(zero)
    looked, zeros, bad = 0, 0, 0
    for start in range(offset * block, bits.size, period * block):
        part = bits[start : min(start + block, bits.size)]
        looked += part.size
        highest, lowest, none = _extremes(part, zero)
        zeros += none
        low = min(low, lowest)
        spoilt = highest >= infinity(zero)
        if spoilt:
            highest, wrong = _finite_extremes(part, zero)
            bad += wrong
        top = max(top, highest)
        most = decode(highest)
        if most > LARGE:
            added, squares = _careful_sums(part, zero, DOWN)
            large += squares
        elif most < SMALL:
            added, squares = _careful_sums(part, zero, UP)
            small += squares
        elif spoilt:
            added, squares = _careful_sums(part, zero, 1.0)
            plain += squares
        else:
            added, squares = _sums(part)
            plain += squares
        total += added
    most = decode(top)
    relative = 0.0
    # Where a larger block was met, most * UP may be infinite: what is small does not count then.
    if small > 0.0:
        relative += small / (most * UP) / (most * UP)
    if plain > 0.0:
        relative += plain / most / most
    if large > 0.0:
        relative += large / (most * DOWN) / (most * DOWN)
    row[0], row[1], row[2], row[3] = looked - bad, total, relative, most
    row[4], row[5], row[6] = decode(low), zeros, bad


@jit
def sweep(table, block, rows):
    """Write the rows of the tensors in a table, shape [tensors, 7]."""
    for i in range(len(table)):
        at, size = table[i, ADDRESS], table[i, ENTRIES]
        period, offset = table[i, PERIOD], table[i, OFFSET]
        if table[i, FORMAT] == FLOAT32:
            _sweep(as_float32(at, size), np.int32(0), block, period, offset, rows[i])
        elif table[i, FORMAT] == BFLOAT16:
            _sweep(as_bfloat16(at, size), np.int16(0), block, period, offset, rows[i])
        elif table[i, FORMAT] == FLOAT16:
            _sweep(as_float16(at, size), np.uint16(0), block, period, offset, rows[i])
        else:
            _sweep(as_float64(at, size), np.int64(0), block, period, offset, rows[i])


@jit
def _exponents(bits, zero, fraction, block, period, offset, counts):
    """Count one tensor; ``counts`` begins with the exponent of the least subnormal."""
    infinite = infinity(zero)
    fields = np.int64(shifted(infinite, fraction)) + 1
    # Four counters side by side: neighbours of equal exponent would wait for one another.
    bins = np.zeros(4 * fields, np.int64)
    a, b, c, d = bins[:fields], bins[fields:], bins[2 * fields :], bins[3 * fields :]
    for start in range(offset * block, bits.size, period * block):
        part = bits[start : min(start + block, bits.size)]
        whole = part.size // 4
        for i in range(whole):
            a[shifted(magnitude(part[4 * i]), fraction)] += 1
            b[shifted(magnitude(part[4 * i + 1]), fraction)] += 1
            c[shifted(magnitude(part[4 * i + 2]), fraction)] += 1
            d[shifted(magnitude(part[4 * i + 3]), fraction)] += 1
        for i in range(4 * whole, part.size):
            a[shifted(magnitude(part[i]), fraction)] += 1
    for field in range(1, fields - 1):
        counts[field + fraction - 1] += a[field] + b[field] + c[field] + d[field]
    if a[0] + b[0] + c[0] + d[0] == 0:
        return
    for start in range(offset * block, bits.size, period * block):
        for i in range(start, min(start + block, bits.size)):
            size = shifted(magnitude(bits[i]), 0)
            if size != 0 and shifted(magnitude(bits[i]), fraction) == 0:
                counts[bit_length(size) - 1] += 1


@jit
def exponents(table, block, counts):
    """Count the exponents of the tensors in a table.

    Shape [tensors, 2098]: the first bin is the exponent of the format's least subnormal number.
    """
    for i in range(len(table)):
        at, size = table[i, ADDRESS], table[i, ENTRIES]
        period, offset = table[i, PERIOD], table[i, OFFSET]
        if table[i, FORMAT] == FLOAT32:
            _exponents(as_float32(at, size), np.int32(0), 23, block, period, offset, counts[i])
        elif table[i, FORMAT] == BFLOAT16:
            _exponents(as_bfloat16(at, size), np.int16(0), 7, block, period, offset, counts[i])
        elif table[i, FORMAT] == FLOAT16:
            _exponents(as_float16(at, size), np.uint16(0), 10, block, period, offset, counts[i])
        else:
            _exponents(as_float64(at, size), np.int64(0), 52, block, period, offset, counts[i])
