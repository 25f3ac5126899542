"""Numbers to bytes and back; bytes from elsewhere are measured before they are believed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmend.records.exponents import Exponents
from gradmend.store.errors import Damaged

Cells = NDArray[np.float32]
Steps = NDArray[np.int64]

_WHOLE, _SPLIT = 0, 1
_MOST_BINS = 2200
"""Powers of two between the smallest and the largest float64 number, rounded up."""


def pack(values: Cells) -> bytes:
    """Numbers of any shape as bytes: float32, byte planes apart, deflated at level 1.

    The two lower planes are the mantissa's end. They are noise unless the numbers repeat or are
    rounded, and noise is stored as it is: deflating it takes half the time and saves nothing.
    """
    flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    planes = np.ascontiguousarray(flat.view(np.uint8).reshape(-1, 4).T)
    low = planes[:2]
    if 4 * np.count_nonzero(low[:, 1:] == low[:, :-1]) > low.size:
        return bytes([_WHOLE]) + zlib.compress(planes.tobytes(), 1)
    return bytes([_SPLIT]) + low.tobytes() + zlib.compress(planes[2:].tobytes(), 1)


def unpack(blob: Any, count: int) -> Cells:
    """``count`` numbers from bytes, shape [count].

    Raises:
        Damaged: If the bytes hold anything else than that many numbers.
    """
    if not isinstance(blob, bytes) or not blob:
        raise Damaged("numbers are missing")
    if blob[0] == _WHOLE:
        data = inflate(blob[1:], 4 * count)
    elif blob[0] == _SPLIT and len(blob) > 2 * count:
        data = blob[1 : 1 + 2 * count] + inflate(blob[1 + 2 * count :], 2 * count)
    else:
        raise Damaged("numbers in an unknown form")
    planes = np.frombuffer(data, dtype=np.uint8).reshape(4, count)
    return _together(planes).view("<f4")


def rounded(values: Cells, bits: int) -> Cells:
    """Numbers rounded to so many significant bits (of 24), which compress better.

    Monotone, so that low <= mean <= high stays true; infinities and NaN are kept.
    """
    drop = 24 - bits
    raw = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    with np.errstate(over="ignore"):
        near = (raw + np.uint32(1 << (drop - 1))) & np.uint32(0x1_0000_0000 - (1 << drop))
    cut = near.view("<f4")
    return np.where(np.isfinite(cut) & np.isfinite(values), cut, values)


def pack_steps(steps: Steps) -> bytes:
    """Steps of a piece's rows."""
    return np.ascontiguousarray(steps, dtype="<i8").tobytes()


def unpack_steps(blob: Any, count: int) -> Steps:
    """The steps of ``count`` rows, shape [count].

    Raises:
        Damaged: If there are more or fewer.
    """
    if not isinstance(blob, bytes) or len(blob) != 8 * count:
        raise Damaged("steps do not match their rows")
    return np.frombuffer(blob, dtype="<i8").astype(np.int64)


def pack_histograms(histograms: Mapping[int, Exponents]) -> tuple[int, bytes]:
    """Histograms by column: the count of integers, and their bytes."""
    numbers: list[int] = []
    for column, histogram in histograms.items():
        numbers += [column, histogram.stride, len(histogram.counts)]
        for exponent, count in histogram.counts.items():
            numbers += [exponent, count]
    cells = np.array(numbers, dtype="<i8")
    planes = np.ascontiguousarray(cells.view(np.uint8).reshape(-1, 8).T)
    return len(numbers), zlib.compress(planes.tobytes(), 1)


def unpack_histograms(
    blob: Any, count: int, columns: int, *, only: int | None = None
) -> dict[int, Exponents]:
    """Histograms by column, of at most ``columns`` columns; ``only`` of one of them.

    Raises:
        Damaged: If the bytes hold anything else.
    """
    if not isinstance(blob, bytes) or not 0 <= count <= columns * (3 + 2 * _MOST_BINS):
        raise Damaged("a histogram of an impossible size")
    planes = np.frombuffer(inflate(blob, 8 * count), dtype=np.uint8).reshape(8, count)
    numbers = _together(planes).view("<i8").tolist()
    histograms: dict[int, Exponents] = {}
    at = 0
    while at < len(numbers):
        column, stride, bins = numbers[at : at + 3] if at + 3 <= len(numbers) else (-1, -1, -1)
        end = at + 3 + 2 * bins
        if bins < 0 or stride < 1 or end > len(numbers):
            raise Damaged("a histogram is cut off")
        if only in (None, column):
            counts = dict(zip(numbers[at + 3 : end : 2], numbers[at + 4 : end : 2], strict=True))
            histograms[column] = Exponents(counts=counts, stride=stride)
        at = end
    return histograms


def _together(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Byte planes, shape [bytes, count], woven into numbers, shape [bytes * count]."""
    woven = np.empty(planes.shape[::-1], dtype=np.uint8)
    for byte, plane in enumerate(planes):  # four times as fast as copying the transpose
        woven[:, byte] = plane
    return woven.reshape(-1)


def inflate(data: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes; never makes more than one byte more, whatever the data claim."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise Damaged(str(error)) from None
    if len(out) != size or not stream.eof or stream.unused_data:
        raise Damaged("numbers of an unexpected size")
    return out
