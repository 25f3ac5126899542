"""Which cause a value that is not finite has: exactly one of the rules answers for each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.theory.windows import RECENT

EXPLAINS = (
    "non-finite-value", "vanishing-gradient", "exploding-gradient", "collapsed-signal",
    "dead-relu", "saturated-activation", "saturated-attention", "detached-parameters",
    "gain-unlike-theory", "stalled-layers", "loss-plateau", "diverging-loss", "loss-spike",
    "update-norm-spike", "loss-scale-collapse", "attention-logit-growth", "unsuited-epsilon",
    "weight-collapse",
)  # fmt: skip
"""What NaN brings about, whatever its cause."""

LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.4028e38, "float64": 1.797e308}
"""The largest number of each format."""

_LOGARITHMS = frozenset({"log", "log2", "log10", "log1p", "logit", "xlogy", "logsumexp"})
_EXPONENTIALS = frozenset({"exp", "exp2", "expm1", "sinh", "cosh", "logcumsumexp"})
_ROOTS = frozenset({"sqrt", "norm", "std", "var_mean", "std_mean", "cdist", "dist", "hypot"})
_INVERSES = frozenset({"acos", "asin", "acosh", "atanh", "arccos", "arcsin"})
_ATTENTION = frozenset(
    {"softmax", "log_softmax", "scaled_dot_product_attention", "multi_head_attention_forward"}
    | {"_softmax", "masked_softmax", "softmin"}
)
_MEANS = frozenset(
    {"mean", "nanmean", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "cross_entropy"}
    | {"nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "std", "var"}
    | {"kl_div", "median", "nll_loss2d", "nll_loss_nd"}
)
_SUMS = frozenset({"sum", "count_nonzero", "nansum", "numel", "len"})
_COUNTED = _SUMS | frozenset({"clamp", "to", "float", "unsqueeze", "view", "expand"})
HALF = ("float16", "half")


def cause_of(bad: BadValue) -> str:
    """Name of the rule that answers for a bad value; empty where none of them does."""
    if bad.direction == "backward":
        return _backward(bad)
    if bad.direction != "forward":
        return ""  # weights and data that were bad before: no operation's fault
    if bad.operation == "ctc_loss":
        return "infeasible-ctc" if bad.target_lengths or not bad.confirmed else ""
    if bad.ignored == 1.0 or _of_nothing(bad):
        return "empty-reduction"
    if bad.operation in _ATTENTION and bad.value == "nan" and _nothing_to_see(bad):
        return "fully-masked-row"
    if _overflows_half(bad):
        return "half-precision-overflow"
    first = bad.operand()
    if bad.operation in _LOGARITHMS and (first.zeros or first.negative):
        return "exponential-overflow" if _underflown(bad, 0) else "logarithm-of-zero"
    if bad.operation in ("std", "var", "std_mean", "var_mean") and bad.value == "nan":
        return "division-by-zero"
    if bad.operation == "div" and bad.operand(1).zeros:
        return "exponential-overflow" if _underflown(bad, 1) else "division-by-zero"
    if bad.operation == "rsqrt" and (first.zeros or first.negative):
        return "division-by-zero" if first.zeros else "square-root-at-zero"
    if bad.operation == "pow":
        return _power(bad)
    if bad.operation in _EXPONENTIALS and "inf" in bad.value:
        return "exponential-overflow"
    if bad.operation in _ROOTS and bad.value == "nan" and first.negative:
        return "square-root-at-zero"
    return ""


def _power(bad: BadValue) -> str:
    base, exponent = bad.operand(), bad.operand(1)
    if exponent.least < 0 and base.zeros:
        return "division-by-zero"
    if base.negative and bad.value == "nan":
        return "square-root-at-zero"
    return "exponential-overflow" if "inf" in bad.value else ""


def _backward(bad: BadValue) -> str:
    if bad.operation in _ATTENTION and _nothing_to_see(bad):
        return "fully-masked-row"
    if bad.received_zero and bad.behind:
        return "hidden-branch-nan"
    first = bad.operand()
    root = bad.operation in _ROOTS or (
        bad.operation == "pow" and (not bad.confirmed or 0 < bad.operand(1).largest < 1)
    )
    if root and (not bad.confirmed or first.zeros or bad.operation not in ("sqrt", "pow")):
        return "square-root-at-zero"
    if bad.operation in ("rsqrt", "hypot", "atan2"):
        return "division-by-zero"
    if bad.operation in _INVERSES:
        return "square-root-at-zero"  # their slope is 1 / sqrt(1 - x^2)
    if bad.operation in _LOGARITHMS and (first.zeros or first.negative or not bad.confirmed):
        return "logarithm-of-zero"
    if bad.operation == "div" and bad.operand(1).zeros:
        return "division-by-zero"
    if bad.dtype in HALF and bad.value != "nan":
        return "half-precision-overflow"
    return ""


def _of_nothing(bad: BadValue) -> bool:
    """A mean over no elements: of an empty tensor, or a sum over a mask that picks none."""
    if bad.operation in _MEANS and bad.operands and bad.value == "nan":
        first = bad.operand()
        return first.entries == 0 and bool(first.dtype)
    if bad.operation != "div" or bad.value != "nan" or not bad.operand(1).zeros:
        return False
    above, below = bad.operand(), bad.operand(1)
    counted = bool(below.lineage) and any(name in _SUMS for name in below.lineage[:4])
    counted = counted and below.lineage[0] in _COUNTED and not below.negative
    summed = any(name in _SUMS for name in above.lineage[:2])
    number = below.name == "number"  # loss.sum() / len(kept)
    return summed and (counted or number)


def _nothing_to_see(bad: BadValue) -> bool:
    """A row of logits that are all minus infinity, or a mask that covers one."""
    if any(item.masked_rows for item in bad.operands):
        return True
    masks = [item for item in bad.operands if item.dtype == "bool" and item.entries]
    clean = not any(item.nan or item.infinite for item in bad.operands)
    return clean and (
        bool(masks) or not bad.confirmed or any(i.minus_infinite for i in bad.operands)
    )


def _overflows_half(bad: BadValue) -> bool:
    if bad.dtype not in HALF or bad.operation in _LOGARITHMS:
        return False
    if any(item.bad for item in bad.operands):
        return False
    if bad.wide_largest is not None:
        return bad.wide_largest > LARGEST["float16"]
    largest = max((max(abs(i.largest), abs(i.least)) for i in bad.operands), default=0.0)
    return "inf" in bad.value and largest > 1.0 and bad.operation not in ("div", "rsqrt")


def _underflown(bad: BadValue, at: int) -> bool:
    """Whether a zero operand comes from an exponential, which is never zero but by rounding."""
    lineage = bad.operand(at).lineage
    return any(name in ("exp", "exp2") for name in lineage)


def of_trace(trace: Trace, name: str) -> BadValue | None:
    """The bad value of a look, where it is this rule's cause."""
    bad = trace.bad
    if bad is None or any(p.stats.non_finite for p in trace.parameters):
        return None
    return bad if cause_of(bad) == name else None


def of_run(history: History, name: str) -> Iterator[tuple[Event, BadValue, bool]]:
    """The first bad value of a run that has this cause, with its event and whether it lasts.

    The first one of the present trouble decides; what came before and was recovered from counts
    where nothing came after it.
    """
    events = list(history.of_kind("non-finite"))
    if not events:
        return
    present = lasts(history, events[-1])
    first = first_of_the_last_row(events) if present else events[0]
    bad = BadValue.of(first.facts.get("bad"))
    if bad is not None and cause_of(bad) == name:
        yield first, bad, present


def lasts(history: History, newest: Event) -> bool:
    """It happened in the recent window, or gradients or losses are still bad."""
    table = history["step"]
    since = int(table.steps[-RECENT]) if len(table) >= RECENT else 0
    if newest.step >= since or bool((history["gradient"].last("state") == 3).any()):
        return True
    given = ~np.isnan(table["backwards"][-3:])
    return bool(given.any()) and not bool(np.isfinite(table["loss"][-3:][given]).any())


def first_of_the_last_row(events: list[Event]) -> Event:
    """Where the present trouble began: earlier ones that were recovered from are over."""
    first = events[-1]
    for event in reversed(events):
        if first.step - event.step > RECENT:
            break
        first = event
    return first


def found(
    bad: BadValue,
    *,
    code: str,
    name: str,
    summary: str,
    quantity: str,
    observed: float,
    limit: float | None,
    exculpation: str,
    unit: str = "1",
    event: Event | None = None,
    present: bool = True,
    explains: tuple[str, ...] = (),
    **more: Any,
) -> Finding:
    """A finding on a bad value: an error while it lasts, a warning where the run got over it."""
    step = 0 if event is None else event.step
    when = "" if event is None else f"step {step}: "
    if not present:
        when = f"step {step}, and not lately: "
    told = (
        Evidence(
            quantity=quantity,
            observed=observed if math.isfinite(observed) else math.nan,
            limit=limit,
            unit=unit,
            module=next(iter(bad.modules), None),
            step=step,
        ),
    )
    return Finding(
        code=code,
        name=name,
        severity=Severity.ERROR if present else Severity.WARNING,
        modules=bad.modules,
        source=bad.source,
        summary=f"{when}{summary}",
        evidence=told,
        confidence=1.0 if bad.confirmed else 0.7,
        weight=1010.0 if bad.confirmed else 1005.0,
        explains=(*EXPLAINS, *explains),
        exculpation=exculpation,
        **more,
    )


def place(bad: BadValue) -> str:
    """``sqrt in encoder (model.py:12)``, ``log in the loss (train.py:3)``, for a sentence."""
    inside = bad.module or (f"the forward pass behind {bad.near}" if bad.near else "the model")
    where = inside if bad.inside else "the loss or plain code"
    found = f"{bad.operation} in {where}"
    return f"{found} ({bad.source})" if bad.source else found
