"""Keep the norm of the gradient below a limit."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import (
    ABOVE,
    clipped_at,
    norm_limit,
    usual_norm,
    vary,
    why_not_clip,
)

_BROKE = frozenset({"non-finite-value"})
"""What steps that grow and grow end in, beside its other causes."""


@remedy(
    treats=[
        "exploding-gradient",
        "gradient-grown-through-time",
        "diverging-loss",
        "loss-spike",
        "outlier-batch",
        "update-norm-spike",
        *sorted(_BROKE),
    ],
    changes=[Change.OPTIMIZER],
)
def clip_by_norm(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Scale the whole gradient down where its norm is above a limit.

    What it does:
        g becomes g min(1, limit / |g|) before each step. The limit is twice the median norm of
        the steps rehearsed, or less where the step it allows would change the weights by a tenth.
        A step whose gradient is not finite is left out and counted.

    Why it should work:
        Near a cliff the gradient's direction is right and its length is not: one step of that
        length undoes a thousand. The first choice among the ways to clip: it keeps the direction,
        and most steps pass it untouched.

    What it predicts:
        Nothing that one look can check: it acts at the step. The reason tells how many of the
        rehearsed steps it would cut.

    When it refuses:
        Where the gradient vanishes; where no norm is known; for Adam and its kin where it is
        too large at every step alike, since they divide by its size; and where all that is found
        is a value that is no number, unless the gradient had grown tenfold before it.

    What it costs:
        One pass over the gradients. A limit that every step runs into is a smaller learning rate;
        the shares are told.

    References:
        Pascanu, Mikolov, Bengio 2013; Zhang et al. 2020 (why clipping accelerates training).
    """
    reason = why_not_clip(findings, trace)
    if not reason and {finding.name for finding in findings} <= _BROKE and not vary(trace):
        reason = "the gradient had not grown before the first value that is no number"
    limit = norm_limit(trace)
    usual = usual_norm(trace)
    if reason or limit is None or usual is None:
        yield Refusal(
            remedy="clip-by-norm", finding=findings[0].name if findings else "", reason=reason
        )
        return
    whence = (
        f"{ABOVE:g} times the usual norm of {usual:.2g}"
        if limit >= ABOVE * usual
        else f"where a step is a tenth of the weights; the usual norm is {usual:.2g}"
    )
    yield Prescription(
        edits=(Edit(kind="clip_gradients", args={"method": "norm", "limit": limit}),),
        changes=(Change.OPTIMIZER,),
        reason=f"norm clipped at {limit:.2g}, {whence}: {clipped_at(trace, limit)}",
        keeps_function=True,
    )
