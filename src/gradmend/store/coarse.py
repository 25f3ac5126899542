"""What is left of rows that are too many to keep: mean, lowest and highest of each column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmend.store.encoding import Cells, pack, rounded, unpack

_MEAN_BITS, _ENVELOPE_BITS = 16, 12
"""Significant bits kept: means to 1e-5, envelopes to 1e-4 of their size."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A quantity's columns over the rows of a bucket; each array has shape [columns]."""

    mean: Cells
    """Over the finite values. Where none is finite: infinity, or NaN if nothing was measured."""
    low: Cells
    """Lowest, -inf included; NaN if nothing was measured."""
    high: Cells
    known: Cells
    """Count of finite values, the weight of the mean."""

    def packed(self) -> tuple[bytes, bytes, bytes, bytes]:
        """As bytes, rounded."""
        return (
            pack(rounded(self.mean, _MEAN_BITS)),
            pack(rounded(self.low, _ENVELOPE_BITS)),
            pack(rounded(self.high, _ENVELOPE_BITS)),
            pack(self.known),
        )


def unpacked(columns: int, mean: bytes, low: bytes, high: bytes, known: bytes) -> Summary:
    """A summary from its bytes."""
    return Summary(
        unpack(mean, columns), unpack(low, columns), unpack(high, columns), unpack(known, columns)
    )


def summarise(values: Cells) -> Summary:
    """Summary of rows, shape [rows, columns]."""
    finite = np.isfinite(values)
    known = finite.sum(axis=0)
    total = np.where(finite, values, 0).sum(axis=0, dtype=np.float64)
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    mean = np.where(known > 0, total / np.maximum(known, 1), high)
    return Summary(_narrow(mean), low, high, _narrow(known))


def merge(left: Summary, right: Summary) -> Summary:
    """Summary of both buckets' rows; the one with fewer columns had fewer then."""
    columns = max(len(left.mean), len(right.mean))
    left, right = _wide(left, columns), _wide(right, columns)
    known = left.known + right.known
    total = sum(
        np.where(side.known > 0, side.mean, 0).astype(np.float64) * side.known
        for side in (left, right)
    )
    low, high = np.fmin(left.low, right.low), np.fmax(left.high, right.high)
    mean = np.where(known > 0, total / np.maximum(known, 1), high)
    return Summary(_narrow(mean), low, high, known)


def _wide(summary: Summary, columns: int) -> Summary:
    more = columns - len(summary.mean)
    if not more:
        return summary
    unknown = np.full(more, np.nan, dtype=np.float32)
    return Summary(
        mean=np.concatenate([summary.mean, unknown]),
        low=np.concatenate([summary.low, unknown]),
        high=np.concatenate([summary.high, unknown]),
        known=np.concatenate([summary.known, np.zeros_like(unknown)]),
    )


def _narrow(values: NDArray[Any]) -> Cells:
    return values.astype(np.float32)
