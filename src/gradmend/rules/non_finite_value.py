"""NUM101: NaN or infinity, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import badvalues, windows

_EXPLAINS = (
    "vanishing-gradient",
    "exploding-gradient",
    "collapsed-signal",
    "dead-relu",
    "saturated-activation",
    "detached-parameters",
    "gain-unlike-theory",
    "stalled-layers",
    "loss-plateau",
    "diverging-loss",
    "loss-spike",
)


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    scaled = bool(np.isfinite(windows.recent(history["step"], "loss_scale", 1)).any())
    events = [
        event
        for event in history.of_kind("non-finite")
        # A loss scaler looks for its scale by overflowing: that is what loss-scale-collapse judges.
        if not (scaled and event.facts.get("direction") == "backward")
    ]
    if not events or not badvalues.lasts(history, events[-1]):
        return
    first = badvalues.first_of_the_last_row(events)
    direction = str(first.facts.get("direction", "forward"))
    operation = str(first.facts.get("operation") or "")
    good = first.facts.get("last_good")
    what = {
        "forward": "the first is the output of",
        "backward": "the loss is finite and its gradient is not: the first is at",
        "loss": "the loss itself, after",
        "weights": "they are in the weights of",
        "input": "they were in the data that went into",
    }.get(direction, "the first is at")
    yield Finding(
        code="NUM101",
        name="non-finite-value",
        severity=Severity.ERROR,
        modules=(first.where,) if first.where else (),
        source=first.facts.get("source"),
        summary=(
            f"NaN or infinity since step {first.step}: {what}"
            f" {' in '.join(filter(None, (operation, first.where))) or 'the model'}"
            + ("" if good is None else _after(int(good)))
        ),
        evidence=(
            Evidence(
                quantity="bad values seen", observed=float(len(events)), limit=0.0, step=first.step
            ),
        ),
        weight=1000.0,
        explains=_EXPLAINS,
        exculpation="finite numbers throughout",
    )


def _after(good: int) -> str:
    """What was before; a run whose first step is bad has no good one."""
    return f"; step {good} was the last good one" if good >= 0 else "; no step before was good"


@rule(
    code="NUM101",
    fires_on=[
        Case.of("overflowing", where="forward"),
        Case.of("overflowing", where="backward"),
    ],
    silent_on=[
        Case.of("overflowing", where="nowhere"),
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0),
        Case.of("transformer"),
    ],
    live=_live,
    live_fires_on=[Case.of("breaking", at=12)],
    live_silent_on=[
        Case.of("breaking"),
        Case.of("relu_stack", gain=10.0),
        Case.of("scaled"),
    ],
)
def non_finite_value(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """NaN or infinity in the weights, on the forward pass, in the loss or in the gradient.

    What it finds:
        Weights that hold NaN or infinity; the first operation, in forward order, whose output
        does; a loss that is not a number; a gradient that is not finite although the loss is.

    Why it matters:
        One NaN in a gradient makes every weight NaN at the next step, and comparisons with NaN
        are false, so that thresholds say nothing about it.

    How it is measured:
        Loss and gradient of one pass in the model's own number format; where one of them is not
        finite, every call of that pass. Exact, no threshold; infinities of a mask are none. Over a
        run: the step, module and operation that
        the watcher caught, forward or backward.

    Silent when:
        Loss, gradient and weights are finite; a loss scaler looks for its scale, or a run has
        recovered. NaN in the batch itself is refused before anything is run.

    References:
        pytorch/pytorch#2421 (sqrt at zero); huggingface/transformers#5651 (overflow in fp16).
    """
    del limits  # unused: a number is finite or not
    sick = [p for p in trace.parameters if p.stats.non_finite]
    loss, bad, source = trace.run.loss, trace.bad, None
    if sick:
        where, module = f"{sick[0].name} holds {sick[0].stats.non_finite} of them", sick[0].module
    elif bad is not None:
        module, source = next(iter(bad.modules), ""), bad.source
        where = {
            "input": f"{bad.operand().name or 'the batch'} holds {bad.bad} of them, read by",
            "backward": "the loss is finite and its gradient is not: the first is at",
        }.get(bad.direction, "the first is the output of")
        where = f"{where} {badvalues.place(bad)}"
    elif trace.sound:
        return  # what the books met in float64, the model's own pass does not
    elif loss is not None and not abs(loss) < float("inf"):
        where, module = f"the loss is {loss}", ""
        if trace.non_finite not in (None, "loss"):
            where = f"the first is the output of {trace.non_finite}"
            module = str(trace.non_finite).rpartition(" in ")[2] if " in " in where else ""
    elif trace.not_finite:
        module = (trace.ledger.blocked_by if trace.ledger else None) or ""
        where = "the loss is finite and its gradient is not"
    else:
        return
    yield Finding(
        code="NUM101",
        name="non-finite-value",
        severity=Severity.ERROR,
        modules=(module,) if module else (),
        source=source
        or next((op.source for op in trace.operations if module and op.module == module), None),
        summary=f"NaN or infinity: {where}",
        evidence=(
            Evidence(
                quantity="parameters that are not finite", observed=float(len(sick)), limit=0.0
            ),
        ),
        weight=1000.0,
        explains=_EXPLAINS,
        exculpation="finite numbers throughout",
    )
