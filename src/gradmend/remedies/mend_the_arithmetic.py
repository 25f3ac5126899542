"""Keep NaN and infinity out, where an operation makes them of finite numbers."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.source_changes import ARITHMETIC, advise

BACKWARD = ("hidden-branch-nan", "square-root-at-zero", "division-by-zero")
"""What may break in the gradient alone."""


@remedy(treats=list(ARITHMETIC), changes=[Change.WIRING])
def mend_the_arithmetic(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Stop a gradient that is not finite where it leaves the operation that made it.

    What it does:
        Where the loss is finite and its gradient is not, puts a module behind the one that made
        the operation's argument: it hands the numbers on, and in the backward pass takes NaN and
        infinity for zero. In any case it shows the change of source: an epsilon inside the root,
        a second ``where`` inside the first, log_softmax for the logarithm of a softmax.

    Why it should work:
        In a branch that ``where`` leaves out, zero is the exact gradient: 0 times infinity should
        be 0. At the kink of a root or a norm zero is one of the slopes that are allowed.

    What it predicts:
        Nothing that one look can check beyond a gradient that is finite; the trial decides.

    When it refuses:
        The numbers break forward already; no module of its own made the argument.

    What it costs:
        One copy of a tensor. Entries whose gradient broke learn nothing in that step.

    References:
        PyTorch issue 4132 and JAX's FAQ on where and NaN gradients.
    """
    bad = trace.bad
    stopped = next((f for f in findings if f.name in BACKWARD), None)
    if stopped is not None and bad is not None and bad.direction == "backward":
        facts = trace.module_at.get(bad.near) if bad.near else None
        if facts is not None and facts.standard and facts.uses == 1:
            yield Prescription(
                edits=(
                    Edit(
                        kind="follow_module",
                        targets=(bad.near,),
                        args={"module": "FiniteGradient"},
                    ),
                ),
                changes=(Change.WIRING,),
                reason=f"no NaN of {bad.operation}'s gradient comes back into {bad.near}",
                keeps_function=True,
            )
        else:
            yield Refusal(
                remedy="mend-the-arithmetic",
                finding=stopped.name,
                reason=f"no single module made what {bad.operation} was given",
            )
    yield from advise("mend-the-arithmetic", findings, ARITHMETIC, bad.source if bad else None)
