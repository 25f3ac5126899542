"""Numbers by their bits, for numba: what it has no words for, as intrinsics.

Formats are told apart by the integer type under which their bits are read: int32 is float32, int64
float64, int16 bfloat16 and uint16 float16. Magnitudes of IEEE numbers are ordered like integers,
subnormal ones too and whatever the processor's flush-to-zero state; everything at or above the
bits of infinity is not finite. numba widens small integers to 64 bits as soon as it computes with
them, which stops vectorising: hence these.

Compiled code is cached by the file of the kernel that uses them: who changes this one must touch
that one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic


def _example() -> None:
    pass


def _can_cache() -> bool:
    """Whether numba finds a folder to keep compiled code in; without one it refuses to try."""
    try:
        njit(cache=True)(_example)
    except RuntimeError:
        return False
    return True


CACHED = _can_cache()
"""Whether compiled code outlives the process."""

jit = partial(njit, nogil=True, error_model="numpy", cache=CACHED)
"""Compile; one thread, and the interpreter's lock is free meanwhile."""

# Sums may be reordered, which lets them be vectorised; infinities and NaN keep their meaning.
jit_sums = partial(jit, fastmath={"reassoc", "contract", "nsz"})
"""The same for loops that sum."""


@intrinsic
def pointer(context: Any, address: Any, like: Any) -> Any:
    """An address as a pointer to numbers of the type of ``like``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), codegen


@intrinsic
def infinity(context: Any, like: Any) -> Any:
    """The bits of infinity in the format of ``like``."""
    of_format = {
        types.int16: 0x7F80,
        types.uint16: 0x7C00,
        types.int32: 0x7F800000,
        types.int64: 0x7FF0000000000000,
    }

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, of_format[like])

    return like(like), codegen


@intrinsic
def magnitude(context: Any, bits: Any) -> Any:
    """Bits without the sign."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(args[0], ir.Constant(args[0].type, (1 << (bits.bitwidth - 1)) - 1))

    return bits(bits), codegen


@intrinsic
def tally(context: Any, count: Any, condition: Any) -> Any:
    """``count + condition`` in the width of ``count``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        truth = args[1]
        if truth.type.width > 1:
            truth = builder.trunc(truth, ir.IntType(1))
        return builder.add(args[0], builder.zext(truth, args[0].type))

    return count(count, condition), codegen


@intrinsic
def decode(context: Any, bits: Any) -> Any:
    """Bits to the number they mean, as float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (value,) = args
        double, single, word = ir.DoubleType(), ir.FloatType(), ir.IntType(32)
        if bits.bitwidth == 64:
            return builder.bitcast(value, double)
        if bits.bitwidth == 32:
            return builder.fpext(builder.bitcast(value, single), double)
        if bits.signed:
            value = builder.shl(builder.zext(value, word), ir.Constant(word, 16))
            return builder.fpext(builder.bitcast(value, single), double)
        return builder.fpext(builder.bitcast(value, ir.HalfType()), double)

    return types.float64(bits), codegen


@intrinsic
def shifted(context: Any, bits: Any, shift: Any) -> Any:
    """``bits >> shift``, unsigned: as an index it needs no test for counting from the end."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        value = args[0] if args[0].type.width == 64 else builder.zext(args[0], word)
        return builder.lshr(value, args[1])

    return types.uint64(bits, types.int64), codegen


@intrinsic
def bit_length(context: Any, number: Any) -> Any:
    """Bits of a positive integer below 2^53: the exponent it has as float64, plus one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        bits = builder.bitcast(builder.uitofp(args[0], ir.DoubleType()), word)
        return builder.sub(builder.lshr(bits, ir.Constant(word, 52)), ir.Constant(word, 1022))

    return types.int64(types.uint64), codegen


@jit
def as_float32(address, entries):
    """Bits of float32 numbers at an address."""
    return carray(pointer(address, np.int32(0)), (entries,))


@jit
def as_bfloat16(address, entries):
    """Bits of bfloat16 numbers at an address."""
    return carray(pointer(address, np.int16(0)), (entries,))


@jit
def as_float16(address, entries):
    """Bits of float16 numbers at an address."""
    return carray(pointer(address, np.uint16(0)), (entries,))


@jit
def as_float64(address, entries):
    """Bits of float64 numbers at an address."""
    return carray(pointer(address, np.int64(0)), (entries,))
