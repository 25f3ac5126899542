"""Lift small gradients to a least norm."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Parameter, Trace
from gradmend.registry import remedy
from gradmend.theory.formats import UnknownNumberFormat, number_format
from gradmend.theory.gradient_norms import SPREAD, scale_free, spread_over_layers

DIGITS = 2.0
"""Of the format's decimal digits that must be left of the signal across samples where it comes out:
below them what the last layers read, and so the gradient that comes back, is the same for all
samples up to rounding. Our choice; in float32 4.9 decades may be lost, and nets of tanh, ReLU and
sigmoid that lost 2.5 to 4.1 of them learned when lifted, while one that lost 5.1 hardly did."""
STEP = 1e-2
"""Step over weight that the floor allows: a tenth of what the largest layer may have
(gradmend.theory.step_size), as the direction is less certain."""


@remedy(treats=["vanishing-gradient", "stalled-layers"], changes=[Change.OPTIMIZER])
def lift_small_gradients(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Give each tensor's gradient a least norm, keeping its direction.

    What it does:
        Before each step a gradient that is not zero and has a norm below the floor is scaled up
        to it. The floor makes a step of a hundredth of the typical weight's size.

    Why it should work:
        A gradient that has shrunk by decades on its way back still points downhill, as long as
        it is not rounding noise. Lifted, the first layers move as the last ones do.

    What it predicts:
        Nothing that one look can check: it acts at the step.

    When it refuses:
        Where the small gradient carries nothing: it is exactly zero; it lies below the rounding
        of the pass that made it; the signal across samples has collapsed, so that every sample
        gives the same one. Where no layer's gradient is small at the first look. And for Adam and
        its kin, which lift every gradient anyway.

    What it costs:
        Near a minimum gradients are small because nothing is left to do: the floor keeps the
        weights moving there, so the rate must come down in the end. It heals the symptom: where
        an initialisation or a residual heals the cause, that is better.

    References:
        You et al. 2017 (LARS: steps in proportion to the weights), of which this is a bound from
        below; Hochreiter 1991 (what vanishes).
    """
    first = findings[0].name if findings else ""
    reason = _nothing_to_lift(trace)
    optimizer = trace.optimizer
    floor = None
    if not reason and optimizer is not None and optimizer.learning_rate:
        sizes = sorted(math.sqrt(p.stats.sum_of_squares) for p in _weights(trace))
        floor = STEP * sizes[len(sizes) // 2] / optimizer.learning_rate
    if reason or not floor:
        yield Refusal(
            remedy="lift-small-gradients",
            finding=first,
            reason=reason or "the learning rate is not known",
        )
        return
    yield Prescription(
        edits=(Edit(kind="clip_gradients", args={"method": "lift", "floor": floor}),),
        changes=(Change.OPTIMIZER,),
        reason=f"every gradient has a norm of {floor:.2g} at least, a step of {STEP:g} of the"
        " typical weight",
        keeps_function=True,
    )


def _weights(trace: Trace) -> list[Parameter]:
    return [
        p
        for p in trace.parameters
        if p.trainable and p.reached and len(p.shape) > 1 and p.stats.sum_of_squares > 0.0
    ]


def _nothing_to_lift(trace: Trace) -> str:
    """Why no small gradient is worth lifting; empty where one is."""
    weights = _weights(trace)
    if not weights:
        return "no weight has a gradient"
    if scale_free(trace):
        return "the optimizer divides by the gradient's size: it lifts every small one already"
    if all(p.exact_zero for p in weights) or any(p.exact_zero for p in weights[:1]):
        return "the first layers' gradient is exactly zero: it has no direction to keep"
    total = trace.total_decades
    if spread_over_layers(trace) < SPREAD and not (total is not None and total < -SPREAD):
        return "at the first look no layer's gradient is small: what is lost later, training lost"
    try:
        form = number_format(trace.run.dtype)
    except UnknownNumberFormat:
        return f"what {trace.run.dtype} can hold is not known"
    lost = trace.signal_lost
    if lost is not None and lost > -math.log10(form.epsilon) - DIGITS:
        return (
            f"the signal across samples loses {lost:.1f} decades on its way through: every sample"
            " gives the same gradient, which carries nothing"
        )
    known = [p.log10_grad for p in weights if p.log10_grad is not None]
    if not known:
        return "no weight has a gradient"
    if min(known) < math.log10(form.min_normal):
        return f"the smallest gradients lie below what {trace.run.dtype} can hold: rounding noise"
    return ""
