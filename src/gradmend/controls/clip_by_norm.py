"""The gradient's norm, kept below a limit."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.clipping import Clipping, factor_to


class ClipByNorm(Clipping):
    """g <- g min(1, limit / |g|) over all parameters together (Pascanu, Mikolov, Bengio 2013).

    Args:
        limit: Largest norm that passes.
    """

    name = "clip-by-norm"

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    @override
    def factors(self, optimizer: Optimizer, norms: Sequence[float], total: float) -> list[float]:
        return [factor_to(self.limit, total)] * len(norms)
