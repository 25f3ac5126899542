"""The norms that a run's gradient had, and what a limit would make of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from gradmend.records.finding import Finding
from gradmend.records.trace import Trace
from gradmend.theory.step_size import GRADIENT_STEP, momentum
from gradmend.theory.windows import SCALE_FREE

RARE = frozenset({"loss-spike", "outlier-batch", "update-norm-spike"})
"""Findings of single steps that stand out; the others are of gradients too large at each step."""
ABOVE = 2.0
"""Times the usual norm that may pass: noise of a batch stays below it in all but a few steps. Our
choice; Pascanu et al. 2013 take half to ten times the mean norm and find training robust to it."""
VANISHED = 4.0
"""Decades lost from outputs to inputs from which there is nothing to clip, as the limit of
vanishing-gradient."""
SPREAD = 2.0
"""Decades between the weights' gradients from which one limit for all leaves some of them nothing.
Our choice."""


@dataclass(frozen=True, slots=True)
class Clipped:
    """A limit and what it does to the norms that were seen."""

    limit: float
    share: float
    """Of the steps, that it would have cut."""
    factor: float
    """Mean factor over all of them: what is left of the learning rate."""

    def __str__(self) -> str:
        return (
            f"of the steps rehearsed {self.share:.0%} would be cut, which leaves"
            f" {self.factor:.2g} of the learning rate on average"
        )


def usual_norm(trace: Trace) -> float | None:
    """The median norm of the run while it was sound; that of the look where none was rehearsed."""
    rehearsed = trace.rehearsed
    if rehearsed is not None and rehearsed.log10_norms:
        first = next((loss for loss in rehearsed.losses if math.isfinite(loss)), math.inf)
        # Steps of a loss that has left its beginning tell of the divergence, not of the gradient.
        known = [
            norm
            for norm, loss in zip(rehearsed.log10_norms, rehearsed.losses, strict=False)
            if math.isfinite(norm) and loss <= 2.0 * abs(first)
        ]
        if known:
            return _power(statistics.median(known))
    sizes = [p.log10_grad for p in trace.parameters if p.log10_grad is not None]
    finite = [_power(size) for size in sizes if math.isfinite(size)]
    total = math.hypot(*finite) if finite else 0.0
    return total if 0.0 < total < math.inf else None


def clipped_at(trace: Trace, limit: float) -> Clipped:
    """What a limit would have done to the rehearsed steps."""
    known = trace.rehearsed.log10_norms if trace.rehearsed is not None else ()
    norms = [_power(norm) for norm in known if math.isfinite(norm)]
    if not norms:
        norm = usual_norm(trace)
        norms = [norm] if norm is not None else [limit]
    factors = [min(1.0, limit / norm) if norm > 0.0 else 1.0 for norm in norms]
    return Clipped(
        limit=limit,
        share=sum(factor < 1.0 for factor in factors) / len(factors),
        factor=statistics.fmean(factors),
    )


def norm_limit(trace: Trace) -> float | None:
    """Twice the usual norm, or less where the step it allows would be a tenth of the weights."""
    usual = usual_norm(trace)
    if usual is None:
        return None
    limit = ABOVE * usual
    optimizer = trace.optimizer
    if optimizer is None or scale_free(trace) or not optimizer.learning_rate:
        return limit
    weights = math.hypot(*(math.sqrt(p.stats.sum_of_squares) for p in trace.parameters))
    bearable = GRADIENT_STEP * (1.0 - momentum(optimizer.groups[0])) / optimizer.learning_rate
    return min(limit, bearable * weights) if weights > 0.0 else limit


def scale_free(trace: Trace) -> bool:
    """Whether the optimizer divides by the gradient's size: a lasting factor is nothing to it."""
    optimizer = trace.optimizer
    return optimizer is not None and (optimizer.adaptive or optimizer.name in SCALE_FREE)


def vary(trace: Trace) -> bool:
    """Whether the rehearsed norms differ by a decade and more from step to step."""
    known = trace.rehearsed.log10_norms if trace.rehearsed is not None else ()
    finite = [norm for norm in known if math.isfinite(norm)]
    return len(finite) > 1 and max(finite) - statistics.median(finite) >= 1.0


def spread_over_layers(trace: Trace) -> float:
    """Decades between the largest and the smallest gradient of the weights, per entry."""
    sizes = _entries(trace)
    return max(sizes) - min(sizes) if sizes else 0.0


def typical_entry(trace: Trace) -> float | None:
    """Rms entry of the median weight's gradient."""
    sizes = _entries(trace)
    return _power(statistics.median(sizes)) if sizes else None


def _entries(trace: Trace) -> list[float]:
    """log10 of the rms entry of each weight's gradient."""
    return [
        p.log10_grad - 0.5 * math.log10(max(1, p.stats.count))
        for p in trace.parameters
        if p.log10_grad is not None and math.isfinite(p.log10_grad) and len(p.shape) > 1
    ]


def why_not_clip(findings: Iterable[Finding], trace: Trace) -> str:
    """Why no clipping of any kind can help; empty where it can."""
    rare = any(finding.name in RARE for finding in findings)
    total = trace.total_decades
    if total is not None and total <= -VANISHED and not (rare and vary(trace)):
        return (
            f"the gradient loses {-total:.1f} decades on its way back: a limit from above cannot"
            " give back what has vanished"
        )
    if usual_norm(trace) is None:
        return "no norm of the gradient is known, and a limit is a multiple of it"
    if scale_free(trace) and not rare and not vary(trace):
        name = trace.optimizer.name if trace.optimizer else "the optimizer"
        return (
            f"{name} divides by the gradient's size, which is too large at every step alike: a"
            " limit would change nothing"
        )
    return ""


def _power(exponent: float) -> float:
    return float(10.0 ** min(max(exponent, -300.0), 300.0))
