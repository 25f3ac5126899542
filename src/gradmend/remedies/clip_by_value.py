"""Keep every entry of the gradient between two limits."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import norm_limit, why_not_clip

TIMES = 5.0
"""Times the rms entry of a gradient at the limit of its norm: of normal entries one in two million
is larger, so that only what stands out is cut. Our choice."""


@remedy(treats=["gradient-grown-through-time"], changes=[Change.OPTIMIZER])
def clip_by_value(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Cut every entry of the gradient at a lower and an upper limit.

    What it does:
        g becomes min(max(g, lower), upper), entry by entry. The limits are five times the rms
        entry of a gradient of twice the usual norm. Infinity becomes a limit; NaN stays NaN.

    Why it should work:
        In a recurrent net few entries hold nearly all of a gradient that has grown through time.
        Cut by themselves they leave the others their step, where a limit on the norm would take it
        from all; and infinity, of which no norm can be made, becomes a number.

    What it predicts:
        Nothing that one look can check: it acts at the step.

    When it refuses:
        Where the gradient vanishes or no norm is known, and for Adam and its kin where it is too
        large at every step alike.

    What it costs:
        The direction changes: the cut entries are no longer in proportion.

    References:
        Mikolov 2012 (thesis); Graves 2013 (generating sequences, section 2.1).
    """
    reason = why_not_clip(findings, trace)
    norm = norm_limit(trace)
    entries = sum(p.stats.count for p in trace.parameters if p.trainable and p.reached)
    if reason or norm is None or not entries:
        yield Refusal(
            remedy="clip-by-value", finding=findings[0].name if findings else "", reason=reason
        )
        return
    limit = TIMES * norm / math.sqrt(entries)
    yield Prescription(
        edits=(
            Edit(
                kind="clip_gradients",
                args={"method": "value", "lower": -limit, "upper": limit},
            ),
        ),
        changes=(Change.OPTIMIZER,),
        reason=f"entries clipped at {limit:.2g}: right where few entries hold the gradient, as in"
        " recurrent nets",
        keeps_function=True,
    )
