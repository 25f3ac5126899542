"""Range-free histograms: how many numbers lie in each power of two.

No range is chosen beforehand, so nothing falls outside, whatever the loss scale or the depth; and
histograms of steps, shards and number formats merge without loss by adding bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponents:
    """Counts of finite non-zero numbers by ``floor(log2 |x|)``."""

    counts: Mapping[int, int] = field(default_factory=dict)
    """Exponent e to the count of numbers with 2^e <= |x| < 2^(e+1)."""
    stride: int = 1
    """Every how many numbers one was counted; 1 is all of them."""

    def merge(self, other: Exponents) -> Exponents:
        """Add two histograms; associative. Counts taken at different strides are weighted."""
        if not self.counts:
            return other
        if not other.counts:
            return self
        summed = {e: n * self.stride for e, n in self.counts.items()}
        for e, n in other.counts.items():
            summed[e] = summed.get(e, 0) + n * other.stride
        return Exponents(counts=dict(sorted(summed.items())))

    @property
    def total(self) -> int:
        """Numbers counted."""
        return sum(self.counts.values())

    def share_below(self, exponent: int) -> float:
        """Share of the counted numbers with |x| < 2^exponent; NaN when none was counted.

        ``share_below(-24)`` is what fp16 rounds to zero or to its last subnormal, and
        ``share_below(-14)`` what it holds with less than full precision.
        """
        if not self.counts:
            return math.nan
        return sum(n for e, n in self.counts.items() if e < exponent) / self.total
