"""Small gradients, lifted to a least norm."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.clipping import Clipping


class LiftSmallGradients(Clipping):
    """g_i <- g_i max(1, floor / |g_i|) for each tensor whose gradient is not zero.

    Its direction is kept. A gradient of zero has none and is left alone; so is one so small that
    the factor would not be finite, and one that is not finite itself.

    Args:
        floor: Least norm of each tensor's gradient.
    """

    name = "lift-small-gradients"
    leaves_out = False

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    @override
    def factors(self, optimizer: Optimizer, norms: Sequence[float], total: float) -> list[float]:
        return [_lift(self.floor, norm) for norm in norms]


def _lift(floor: float, norm: float) -> float:
    if not 0.0 < norm < floor:
        return 1.0
    factor = floor / norm
    # Beyond float32's range the factor itself would be infinity, and infinity times zero NaN.
    return factor if factor < 1e38 else 1.0
