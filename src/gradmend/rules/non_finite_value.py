"""NUM101: NaN or infinity, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule


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
        Non-finite entries counted in every operation's output, every parameter and the
        gradient of one pass; exact, no threshold.

    Silent when:
        Everything is finite. NaN in the batch itself is refused before anything is run.

    References:
        pytorch/pytorch#2421 (sqrt at zero); huggingface/transformers#5651 (overflow in fp16).
    """
    del limits  # unused: a number is finite or not
    sick = [p for p in trace.parameters if p.stats.non_finite]
    loss = trace.run.loss
    loss_is_sick = loss is not None and not abs(loss) < float("inf")
    gradient = trace.ledger is not None and any("not finite" in note for note in trace.ledger.notes)
    if sick:
        where, module = f"{sick[0].name} holds {sick[0].stats.non_finite} of them", sick[0].module
    elif trace.non_finite is not None and (loss_is_sick or trace.non_finite != "loss"):
        where = f"the first is the output of {trace.non_finite}"
        module = trace.non_finite.rpartition(" in ")[2] if " in " in trace.non_finite else ""
    elif loss_is_sick:
        where, module = f"the loss is {loss}", ""
    elif gradient:
        module = (trace.ledger.blocked_by if trace.ledger else None) or ""
        where = "the loss is finite and its gradient is not"
    else:
        return
    yield Finding(
        code="NUM101",
        name="non-finite-value",
        severity=Severity.ERROR,
        modules=(module,) if module else (),
        source=next((op.source for op in trace.operations if module and op.module == module), None),
        summary=f"NaN or infinity: {where}",
        evidence=(
            Evidence(
                quantity="parameters that are not finite", observed=float(len(sick)), limit=0.0
            ),
        ),
        weight=1000.0,
        explains=(
            "vanishing-gradient",
            "exploding-gradient",
            "collapsed-signal",
            "dead-relu",
            "saturated-activation",
            "detached-parameters",
            "gain-unlike-theory",
        ),
        exculpation="finite numbers throughout",
    )
