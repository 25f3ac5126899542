"""Samples of tensors and their comparison, compiled by numba; see `_table`."""

from __future__ import annotations

import numpy as np
from numba import carray

from gradmend.probe.kernels._bits import (
    as_bfloat16,
    as_float16,
    as_float32,
    as_float64,
    decode,
    infinity,
    jit,
    magnitude,
    pointer,
)
from gradmend.probe.kernels._table import (
    ADDRESS,
    BFLOAT16,
    ENTRIES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    FORMAT,
    OFFSET,
    PERIOD,
    START,
)


@jit
def gather(table, block, sample):
    """Copy the chosen blocks of the tensors in a table into ``sample``, shape [bytes]."""
    for i in range(len(table)):
        width = 4
        if table[i, FORMAT] == FLOAT64:
            width = 8
        elif table[i, FORMAT] != FLOAT32:
            width = 2
        size, chunk, to = table[i, ENTRIES] * width, block * width, table[i, START]
        source = carray(pointer(table[i, ADDRESS], np.uint8(0)), (size,))
        for start in range(table[i, OFFSET] * chunk, size, table[i, PERIOD] * chunk):
            part = source[start : min(start + chunk, size)]
            target = sample[to : to + part.size]
            for k in range(part.size):
                target[k] = part[k]
            to += part.size


@jit
def _nonzero(bits, zero, block, period, offset, flags):
    to = 0
    for start in range(offset * block, bits.size, period * block):
        part = bits[start : min(start + block, bits.size)]
        target = flags[to : to + part.size]
        for k in range(part.size):
            size = magnitude(part[k])
            target[k] = size > zero and size < infinity(zero)
        to += part.size


@jit
def nonzero(table, block, flags):
    """Flag, from ``START`` on, the entries of a sample that are finite and not zero."""
    for i in range(len(table)):
        at, size = table[i, ADDRESS], table[i, ENTRIES]
        period, offset, to = table[i, PERIOD], table[i, OFFSET], flags[table[i, START] :]
        if table[i, FORMAT] == FLOAT32:
            _nonzero(as_float32(at, size), np.int32(0), block, period, offset, to)
        elif table[i, FORMAT] == BFLOAT16:
            _nonzero(as_bfloat16(at, size), np.int16(0), block, period, offset, to)
        elif table[i, FORMAT] == FLOAT16:
            _nonzero(as_float16(at, size), np.uint16(0), block, period, offset, to)
        else:
            _nonzero(as_float64(at, size), np.int64(0), block, period, offset, to)


@jit
def _compare(before, bits, zero, block, period, offset, flags, row):
    infinite = infinity(zero)
    at, finite, unchanged, lost, bad = 0, 0, 0, 0, 0
    squares, moved = 0.0, 0.0
    for start in range(offset * block, bits.size, period * block):
        part = bits[start : min(start + block, bits.size)]
        old = before[at : at + part.size]
        moving = flags[at : at + part.size]
        for k in range(part.size):
            if part[k] == old[k]:
                unchanged += 1
                lost += moving[k]
            if magnitude(part[k]) >= infinite:
                bad += 1
            elif magnitude(old[k]) < infinite:
                x = decode(old[k])
                change = decode(part[k]) - x
                finite += 1
                squares += x * x
                moved += change * change
        at += part.size
    row[0], row[1], row[2], row[3] = at, finite, squares, moved
    row[4], row[5], row[6] = unchanged, lost, bad


@jit
def compare(table, block, sample, flags, rows):
    """Write the rows of the tensors in a table against their sample, shape [tensors, 7]."""
    base = sample.ctypes.data
    for i in range(len(table)):
        at, size, start = table[i, ADDRESS], table[i, ENTRIES], table[i, START]
        period, offset, moving = table[i, PERIOD], table[i, OFFSET], flags[start:]
        # A sample has at most as many entries as its tensor.
        if table[i, FORMAT] == FLOAT32:
            old = as_float32(base + start, size)
            now = as_float32(at, size)
            _compare(old, now, np.int32(0), block, period, offset, moving, rows[i])
        elif table[i, FORMAT] == BFLOAT16:
            old16 = as_bfloat16(base + start, size)
            now16 = as_bfloat16(at, size)
            _compare(old16, now16, np.int16(0), block, period, offset, moving, rows[i])
        elif table[i, FORMAT] == FLOAT16:
            old_half = as_float16(base + start, size)
            now_half = as_float16(at, size)
            _compare(old_half, now_half, np.uint16(0), block, period, offset, moving, rows[i])
        else:
            old64 = as_float64(base + start, size)
            now64 = as_float64(at, size)
            _compare(old64, now64, np.int64(0), block, period, offset, moving, rows[i])
