"""Each tensor's gradient, kept near its own moving norm."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from gradmend.controls.clipping import Clipping, factor_to


class ClipPerTensor(Clipping):
    """AdaGC: g_i <- g_i min(1, relative gamma_i / |g_i|), gamma_i the moving norm let through.

    In the first ``begin`` steps the whole gradient is clipped to ``limit`` and gamma_i is the
    least norm seen, so that a spike at the beginning does not set it. A tensor whose gamma is
    still zero (its gradient was) is let through and begins to count.

    Args:
        relative: Times its moving norm that a tensor's gradient may have.
        beta: Share of the past in the moving norm.
        limit: Of the whole gradient, in the first steps.
        begin: Number of those.
    """

    name = "clip-per-tensor"

    def __init__(self, relative: float, beta: float, limit: float, begin: int) -> None:
        super().__init__()
        self.relative, self.beta, self.limit, self.begin = relative, beta, limit, begin

    @override
    def factors(self, optimizer: Optimizer, norms: Sequence[float], total: float) -> list[float]:
        # Gradients may come and go between steps (None): one gamma for each parameter there is.
        places = [
            at
            for at, p in enumerate(p for g in optimizer.param_groups for p in g["params"])
            if p.grad is not None
        ]
        seen = self.memory(optimizer)
        most = sum(len(group["params"]) for group in optimizer.param_groups)
        gammas = list(seen.get("gammas", ()))
        gammas += [0.0] * (most - len(gammas))
        steps = int(seen.get("seen", 0))
        whole = factor_to(self.limit, total)
        found = []
        for at, norm in zip(places, norms, strict=True):
            gamma = gammas[at]
            if steps < self.begin:
                factor = whole
                let = norm * factor
                gammas[at] = min(gamma, let) if gamma > 0.0 else let
            else:
                factor = factor_to(self.relative * gamma, norm) if gamma > 0.0 else 1.0
                let = norm * factor
                gammas[at] = self.beta * gamma + (1.0 - self.beta) * let if gamma > 0.0 else let
            found.append(factor)
        self.remember(optimizer, gammas=gammas, seen=steps + 1)
        return found
