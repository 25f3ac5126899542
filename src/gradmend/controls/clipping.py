"""What all controls that scale gradients share: one look at the norms, one scaling, one skip."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.control import Control
from gradmend.controls.gradients import Hidden, gradients_of, norms_of, scale, total_of


class Clipping(Control):
    """Scales each gradient by a factor that its kind of clipping finds from the norms.

    A step whose gradient is not finite is left out and counted (``skipped``): no factor makes a
    direction of infinity, infinity times zero is NaN, and a zero gradient would still move the
    weights by momentum and decay. The norms are read on the host once a step, as a gradient
    scaler does; on a GPU that is one wait.
    """

    leaves_out = True
    """Whether a step whose gradient is not finite is left out."""

    def __init__(self) -> None:
        self._hidden = Hidden()

    def factors(self, optimizer: Optimizer, norms: Sequence[float], total: float) -> list[float]:
        """One factor for each gradient, in the optimizer's order.

        Args:
            optimizer: Whose memory may be read and written.
            norms: Of each gradient; finite where such steps are left out.
            total: Of all together.
        """
        raise NotImplementedError

    @override
    def before(self, optimizer: Optimizer) -> None:
        tensors = gradients_of(optimizer)
        if not tensors:
            return
        norms = norms_of(tensors)
        total = total_of(norms)
        seen = self.memory(optimizer)
        if self.leaves_out and not math.isfinite(total):
            self.remember(optimizer, skipped=seen.get("skipped", 0) + 1)
            self._hidden.hide(optimizer)
            return
        factors = self.factors(optimizer, norms, total)
        clipped = any(factor != 1.0 for factor in factors)
        self.remember(
            optimizer,
            steps=seen.get("steps", 0) + 1,
            clipped=seen.get("clipped", 0) + int(clipped),
        )
        if clipped:
            scale(tensors, factors)

    @override
    def after(self, optimizer: Optimizer) -> None:
        self._hidden.show()


def factor_to(limit: float, norm: float) -> float:
    """What brings a norm down to a limit; one where it is there already."""
    return limit / norm if norm > limit else 1.0
