"""Let weights keep what they have learned."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy

USUAL = 1e-4
"""Of decay that is part of the gradient: He et al. 2016."""
DECOUPLED = 1e-2
"""Of AdamW: torch's default."""
SLOW = 1e4
"""Steps in which decay alone may take a weight to 1/e: rate times decay is 1e-4 at most. Our
choice; AdamW's defaults take 1e5."""


@remedy(treats=["weight-collapse"], changes=[Change.OPTIMIZER])
def reduce_weight_decay(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Multiply the weight decay of every group by a factor below one, or take it away.

    What it does:
        Brings decay to a usual size (1e-4; 1e-2 where it is decoupled from the gradient), and no
        more than lets a weight fall to 1/e in ten thousand steps. A second proposal is none.

    Why it should work:
        Decay takes rate times decay of each weight at each step, whatever the gradient says. Where
        that is more than the gradient gives, all weights end at zero, and layer after layer the
        signal with them.

    What it predicts:
        Nothing that one look can check: weights shrink over many steps.

    When it refuses:
        There is no decay, or it is so slow already that something else shrinks the weights.

    What it costs:
        Less regularisation, where it was wanted.

    References:
        Loshchilov and Hutter 2019; BVLC/caffe#1396.
    """
    first = findings[0].name if findings else ""
    optimizer = trace.optimizer
    groups = optimizer.groups if optimizer is not None else ()
    decays = [
        (float(decay), float(rate))
        for group in groups
        if isinstance(decay := group.options.get("weight_decay"), int | float)
        and isinstance(rate := group.options.get("lr"), int | float)
        and decay > 0.0
    ]
    if optimizer is None or not decays:
        yield Refusal(
            remedy="reduce-weight-decay", finding=first, reason="the optimizer has no weight decay"
        )
        return
    decay, rate = max(decays, key=lambda pair: pair[0] * pair[1])
    decoupled = optimizer.name.endswith("W") or bool(
        groups[0].options.get("decoupled_weight_decay")
    )
    wanted = min(DECOUPLED if decoupled else USUAL, 1.0 / (SLOW * rate) if rate > 0.0 else 1.0)
    if wanted >= 0.5 * decay:
        yield Refusal(
            remedy="reduce-weight-decay",
            finding=first,
            reason=f"a decay of {decay:g} is slow already: something else shrinks the weights",
        )
        return
    for factor in (wanted / decay, 0.0):
        yield Prescription(
            edits=(Edit(kind="scale_weight_decay", args={"factor": factor}),),
            changes=(Change.OPTIMIZER,),
            reason=f"weight decay {decay:g} -> {decay * factor:.2g}"
            f" (at a rate of {rate:g} it takes {min(rate * decay, 1.0):.1e} of a weight per step)",
            keeps_function=True,
        )
