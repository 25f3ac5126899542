"""Norms that stand out from a moving mean, brought back to it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.clipping import Clipping, factor_to


class ClipByZScore(Clipping):
    """ZClip: a norm more than ``z`` deviations above its moving mean is cut, the more the farther.

    The first ``begin`` norms are gathered, and cut at ``limit`` alone. After that, with z_t the
    deviations of this norm, one above ``z`` is brought to mean + z^2 / z_t deviations, and mean
    and variance move on with what was let through.

    Args:
        alpha: Share of the past in the moving mean and variance.
        z: Deviations that pass.
        begin: Norms gathered first.
        limit: Of those; a spike among them would pass, and be taken for what is usual.
    """

    name = "clip-by-z-score"

    def __init__(self, alpha: float, z: float, begin: int, limit: float = math.inf) -> None:
        super().__init__()
        self.alpha, self.z, self.begin, self.limit = alpha, z, begin, limit

    @override
    def factors(self, optimizer: Optimizer, norms: Sequence[float], total: float) -> list[float]:
        seen = self.memory(optimizer)
        gathered = list(seen.get("norms", ()))
        if "mean" not in seen:
            gathered.append(min(total, self.limit))
            if len(gathered) < self.begin:
                self.remember(optimizer, norms=gathered)
            else:
                self.remember(
                    optimizer,
                    norms=[],
                    mean=statistics.fmean(gathered),
                    variance=statistics.pvariance(gathered),
                )
            return [factor_to(self.limit, total)] * len(norms)
        mean, variance = float(seen["mean"]), float(seen["variance"])
        deviation = variance**0.5
        limit = total
        if deviation > 0.0 and total > mean + self.z * deviation:
            limit = mean + self.z**2 * deviation**2 / (total - mean)
        mean = self.alpha * mean + (1.0 - self.alpha) * limit
        variance = self.alpha * variance + (1.0 - self.alpha) * (limit - mean) ** 2
        self.remember(optimizer, mean=mean, variance=variance)
        return [factor_to(limit, total)] * len(norms)
