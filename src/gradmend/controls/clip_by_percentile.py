"""The gradient's norm, kept below a percentile of the norms so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.clipping import Clipping, factor_to

LONGEST = 1000
"""Norms that are remembered: the paper keeps all of a run. Our choice; it bounds the checkpoint."""


class ClipByPercentile(Clipping):
    """AutoClip: the limit is a percentile of all norms so far, this step's own among them.

    Args:
        percentile: In (0, 100].
    """

    name = "clip-by-percentile"

    def __init__(self, percentile: float) -> None:
        super().__init__()
        self.percentile = percentile

    @override
    def factors(self, optimizer: Optimizer, norms: Sequence[float], total: float) -> list[float]:
        seen = [*self.memory(optimizer).get("norms", []), total][-LONGEST:]
        self.remember(optimizer, norms=seen)
        return [factor_to(percentile(seen, self.percentile), total)] * len(norms)


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile, linear between the two nearest values."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100.0
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
