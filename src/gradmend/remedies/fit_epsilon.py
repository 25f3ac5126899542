"""Give Adam an eps that its gradients and its number format can bear."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.formats import UnknownNumberFormat, number_format

HALF = 1e-4
"""In float16, whose smallest normal number is 6e-5: where users ended (pytorch/pytorch#40497)."""
BELOW = 1e-3
"""Times the typical gradient: eps then takes a thousandth off the step."""
LEAST = 1e-18
"""Below it eps does nothing in float32: sqrt(v) of its smallest normal v is 1e-19."""


@remedy(treats=["unsuited-epsilon"], changes=[Change.OPTIMIZER])
def fit_epsilon(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Set eps between the smallest number of the format and the gradients.

    What it does:
        Raises eps to 1e-4 where the parameters are float16, in which the usual 1e-8 is zero; or
        lowers it to a thousandth of the typical gradient where that lies below eps.

    Why it should work:
        A step is m / (sqrt(v) + eps). With eps and v both zero it is 0 / 0; with eps far above
        sqrt(v) it shrinks with the gradient, and Adam no longer adapts to its size.

    What it predicts:
        Nothing that one look can check: the look takes no step of this optimizer.

    When it refuses:
        The optimizer has no eps of one number, or the gradient is so small that its format cannot
        hold its square: then the loss is to be scaled.

    What it costs:
        A larger eps damps the entries with small gradients; a smaller one lets entries whose
        gradient is noise take full steps.

    References:
        Kingma and Ba 2015; google-deepmind/optax#1754; pytorch/pytorch#40497.
    """
    first = findings[0].name if findings else ""
    optimizer = trace.optimizer
    eps = optimizer.groups[0].options.get("eps") if optimizer and optimizer.groups else None
    if not isinstance(eps, float):
        yield Refusal(
            remedy="fit-epsilon", finding=first, reason="the optimizer has no eps of one number"
        )
        return
    new, why = _fitting(findings, trace)
    if new is None or (new > eps) is not (why == "format"):
        yield Refusal(
            remedy="fit-epsilon",
            finding=first,
            reason=f"no other eps than {eps:g} would help: the gradients' squares are beyond what"
            f" {trace.run.dtype} can hold",
        )
        return
    yield Prescription(
        edits=(Edit(kind="set_epsilon", args={"eps": new}),),
        changes=(Change.OPTIMIZER,),
        reason=f"eps {eps:g} -> {new:.2g}, "
        + (
            f"a number that {trace.run.dtype} can hold"
            if why == "format"
            else "a thousandth of the typical gradient"
        ),
        keeps_function=True,
    )


def _fitting(findings: tuple[Finding, ...], trace: Trace) -> tuple[float | None, str]:
    """An eps and what it follows from."""
    for finding in findings:
        for row in finding.evidence:
            if row.quantity == "eps":
                return HALF if _is_half(trace.run.dtype) else None, "format"
            if row.quantity == "gradient" and row.observed > 0.0:
                new = BELOW * row.observed
                return (new if new >= _least(trace.run.dtype) else None), "gradient"
    return None, ""


def _least(dtype: str) -> float:
    """The smallest eps that the format can hold with all its digits."""
    try:
        return max(LEAST, number_format(dtype).min_normal)
    except UnknownNumberFormat:
        return LEAST


def _is_half(dtype: str) -> bool:
    try:
        return number_format(dtype).max < 1e5
    except UnknownNumberFormat:
        return False
