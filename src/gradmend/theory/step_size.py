"""How large an optimizer's step is for the weights it changes, before any is taken."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from gradmend.records.layout import GroupFacts, OptimizerFacts
from gradmend.records.trace import Parameter, Trace
from gradmend.theory.critical import plain_net_adam_rate
from gradmend.theory.windows import SCALE_FREE

GRADIENT_STEP = 0.1
"""First step over weight, at the largest, that plain descent takes well: no layer changes by more
than a tenth of its size. The best rates of nine small networks (MLP, CNN, GRU, transformer; mean,
summed and unscaled losses; 150 steps, rates by half decades) lie between 0.04 and 0.4, with
momentum 0.9 between 0.07 and 0.8 of it over 1 - 0.9."""
UNIT_STEP = 0.03
"""Rate over the typical weight's rms for Adam and its kin, whose first step is the rate at every
entry. Of the same networks seven are best between 0.04 and 0.06, and two at ten times that; 1e-3
and weights of fan-in 256 give 0.03."""
SIGN_SHARE = 0.2
"""Of Adam's rate for optimizers that step by the sign (Lion): Chen et al. 2023 say 3 to 10 times
less."""
DEEP = 16
"""Layers one after the other from which Adam's rate falls with depth (gradmend.theory.critical)."""
LEAST_WEIGHT = 0.1
"""Of the usual rms 1 / sqrt(fan-in): smaller weights, as of a head that begins near zero, count as
that; they are to grow, and their own size is no measure of a step. Our choice."""
_UNKNOWN = frozenset({"Adadelta", "Rprop", "Adafactor", "Muon", "LBFGS"})
"""Whose rate is no size of a step."""


def rate_factor(trace: Trace, *, instead_of_zero: float = 0.0) -> float | None:
    """The factor that brings the learning rate to what the weights can bear; ``None``: unknown.

    From the look alone: weights, their gradients at this point, and the optimizer's options.

    Args:
        trace: Of the model with its optimizer.
        instead_of_zero: Taken for the rate of groups whose rate is zero.
    """
    optimizer = trace.optimizer
    if optimizer is None or optimizer.name in _UNKNOWN:
        return None
    if optimizer.name in SCALE_FREE or optimizer.adaptive:
        steps = [
            rate / weights.stats.rms
            for weights, rate in _matrices(trace, optimizer, instead_of_zero)
            if weights.stats.rms > 0.0
        ]
        if not steps:
            return None
        usual = UNIT_STEP * (SIGN_SHARE if "lion" in optimizer.name.lower() else 1.0)
        factor = usual / statistics.median(steps)
        rate = optimizer.learning_rate or instead_of_zero
        if trace.chain_depth >= DEEP and rate > 0.0:
            factor = min(factor, plain_net_adam_rate(trace.chain_depth) / rate)
        return factor
    steps = [
        rate
        * 10.0 ** min(weights.log10_grad, 300.0)
        / max(math.sqrt(weights.stats.sum_of_squares), LEAST_WEIGHT * math.sqrt(weights.shape[0]))
        for weights, rate in _matrices(trace, optimizer, instead_of_zero)
        if weights.log10_grad is not None and weights.log10_grad > -300.0 and weights.shape[0] > 0
    ]
    largest = max(steps, default=0.0)
    if not 0.0 < largest < math.inf:
        return None
    return GRADIENT_STEP * (1.0 - momentum(optimizer.groups[0])) / largest


def momentum(group: GroupFacts) -> float:
    """A group's momentum, in [0, 1)."""
    value = group.options.get("momentum")
    return min(max(float(value), 0.0), 0.99) if isinstance(value, int | float) else 0.0


def _matrices(
    trace: Trace, optimizer: OptimizerFacts, instead_of_zero: float
) -> Iterator[tuple[Parameter, float]]:
    """(weight, its rate) of each trained weight of two and more dimensions."""
    at = {p.name: p for p in trace.parameters if p.trainable and p.reached and len(p.shape) > 1}
    for group in optimizer.groups:
        rate = group.options.get("lr")
        if not isinstance(rate, int | float):
            continue
        rate = rate or instead_of_zero
        if not rate > 0.0:
            continue
        for name in group.parameters:
            if name in at:
                yield at[name], float(rate)
