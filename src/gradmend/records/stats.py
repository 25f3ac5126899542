"""Sufficient statistics of a set of numbers, mergeable without loss."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Sufficient statistics of the finite entries of a tensor, plus what was not finite.

    Ratios are properties, computed last, so that parts of one tensor merge exactly.
    An empty ``Stats()`` is the identity of :meth:`merge_parts`.
    """

    count: int = 0
    """Finite entries."""
    total: float = 0.0
    """Sum of the finite entries."""
    sum_of_squares: float = 0.0
    max_abs: float = 0.0
    min_abs_nonzero: float = math.inf
    zeros: int = 0
    non_finite: int = 0
    """NaN and infinite entries, counted and left out of everything else."""

    def merge_parts(self, other: Stats) -> Stats:
        """Combine disjoint parts of one tensor (not replicas, not steps); associative."""
        return Stats(
            count=self.count + other.count,
            total=self.total + other.total,
            sum_of_squares=self.sum_of_squares + other.sum_of_squares,
            max_abs=max(self.max_abs, other.max_abs),
            min_abs_nonzero=min(self.min_abs_nonzero, other.min_abs_nonzero),
            zeros=self.zeros + other.zeros,
            non_finite=self.non_finite + other.non_finite,
        )

    @property
    def mean(self) -> float:
        """Mean of the finite entries; NaN when there are none."""
        return self.total / self.count if self.count else math.nan

    @property
    def mean_square(self) -> float:
        """E[x^2] over the finite entries; NaN when there are none."""
        return self.sum_of_squares / self.count if self.count else math.nan

    @property
    def rms(self) -> float:
        """Root mean square of the finite entries."""
        return math.sqrt(self.mean_square) if self.count else math.nan

    @property
    def std(self) -> float:
        """Population standard deviation of the finite entries."""
        return (
            math.sqrt(max(0.0, self.mean_square - self.mean * self.mean))
            if self.count
            else math.nan
        )
