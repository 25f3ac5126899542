"""How good a trained model is, and what that makes of a repair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from planted.cells import LEARNS, WORSE
from planted.training import Training
from torch import Tensor, nn

Row = dict[str, Any]
Batch = tuple[Any, Any]

CLOSES = 0.9
"""Share of the gap to the healthy twin that a repair must close (mission, promise 2)."""
MARGIN = 0.02
"""Share of the healthy twin's progress below which two losses are alike (our choice)."""


def judged(model: nn.Module, batches: Sequence[Batch], healthy: Training) -> float:
    """The healthy loss on unseen batches, in units of the targets' spread for a regression.

    Outputs that are probabilities throughout may be meant as such: read both ways, the better
    reading counts, for the sick as for the repaired.
    """
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    outs, ys = [], []
    try:
        model.eval()
        kind = next(p.dtype for p in model.parameters() if p.is_floating_point())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for x, y in batches:
                out = model(x.to(kind) if torch.is_floating_point(x) else x.clone()).float()
                outs.append(_alike(out, y, healthy))
                ys.append(y)
            losses = [_mean(reading, ys, healthy) for reading in readings(outs, healthy)]
    except (RuntimeError, ValueError, IndexError):
        return math.inf
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode
    best = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
    if healthy.task in ("regress", "rebuild"):
        best /= max(float(torch.cat([y.flatten() for y in ys]).float().var()), 1e-12)
    return best if math.isfinite(best) else math.inf


def readings(outs: list[Tensor], healthy: Training) -> list[list[Tensor]]:
    """Outputs as they are, and as logits where they are probabilities throughout."""
    every = [outs]
    within = all(bool(((out >= 0) & (out <= 1)).all()) for out in outs)
    if healthy.task == "binary" and within:
        every.append([out.clamp(1e-6, 1 - 1e-6).logit() for out in outs])
    dim = 1 if healthy.task == "classify" else -1
    whole = within and all(bool(((out.sum(dim) - 1).abs() < 1e-3).all()) for out in outs)
    if healthy.task in ("classify", "language") and whole:
        every.append([out.clamp_min(1e-9).log() for out in outs])
    return every


def _alike(out: Tensor, y: Tensor, healthy: Training) -> Tensor:
    """Outputs in the targets' shape, where only that differs."""
    if healthy.task in ("regress", "rebuild", "binary") and out.numel() == y.numel():
        return out.reshape(y.shape)
    return out


def _mean(outs: list[Tensor], ys: list[Tensor], healthy: Training) -> float:
    """The healthy loss; targets that a fault turned into labels -1 and 1 are read as 0 and 1."""
    binary = healthy.task == "binary"
    ys = [(y > 0).to(y.dtype) if binary else y for y in ys]
    loss = healthy.loss_fn
    if type(healthy.loss_fn).__name__ == "function" and binary:
        loss = nn.functional.binary_cross_entropy_with_logits
    return statistics.fmean(float(loss(out, y)) for out, y in zip(outs, ys, strict=True))


def harm(before: float, healthy: float, sick: float) -> str:
    """``worse``, ``harmless``, or ``twin idle``: the limits of the confusion matrix."""
    if not healthy < (1 - LEARNS) * before:
        return "twin idle"
    return "worse" if not sick < healthy + WORSE * abs(before - healthy) else "harmless"


def capped(losses: Sequence[float], at: float) -> float:
    """A mean in which nothing counts as worse than to know nothing.

    So a gap is not made large, and easy to close, by how badly something diverged.
    """
    return statistics.fmean(min(loss, at) for loss in losses)


def verdict(row: Row) -> str:
    """``repaired``, ``improved``, ``unchanged``, ``advised``, ``worse`` or ``refused``."""
    if not row["remedies"]:
        if row["error"]:
            return "crashed" if row["crashed"] else "refused"
        return "advised" if row["advice"] else "unchanged"
    before, healthy = row["before"], capped(row["healthy"], row["before"])
    sick, fixed = capped(row["sick"], before), capped(row["fixed"], before)
    finite = [loss for loss in row["sick"] if math.isfinite(loss)]
    spread = max(finite) - min(finite) if len(finite) == len(row["sick"]) else 0.0
    if not all(map(math.isfinite, row["fixed"])) and len(finite) == len(row["sick"]):
        return "worse"
    if statistics.fmean(row["fixed"]) > statistics.fmean(row["sick"]) + max(
        spread, MARGIN * abs(before - healthy)
    ):
        return "worse"
    near = fixed <= max(*row["healthy"], healthy + MARGIN * abs(before - healthy))
    if near or (sick - healthy > 0 and sick - fixed >= CLOSES * (sick - healthy)):
        return "repaired"
    return "improved" if fixed < sick - MARGIN * abs(before - healthy) else "no better"
