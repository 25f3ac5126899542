"""Clear the gradients once a step."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["gradients-not-cleared"], changes=[Change.WIRING])
def clear_gradients(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Advice]:
    """Call zero_grad() once before each backward pass: a change to the training loop.

    What it does:
        Shows the loop with the missing line. The loop is the user's own, so no edit of the model
        or the optimizer can make it; a trial, whose loop is gradmend's, clears them anyway.

    Why it should work:
        backward() adds to what .grad holds. Without clearing, step t follows the sum of all
        gradients so far, whose norm grows with t and whose direction is that of long ago.

    What it predicts:
        Nothing that one look can check: it makes one backward pass.

    When it refuses:
        Never: whoever accumulates on purpose makes several backward passes before one step, which
        is not this finding.

    What it costs:
        Nothing.

    References:
        torch.optim.Optimizer.zero_grad.
    """
    del trace  # unused: the loop is not in it
    for finding in findings:
        yield Advice(
            remedy="clear-gradients",
            finding=finding.name,
            text="clear the gradients once per step, before the backward pass",
            before="loss.backward()\noptimizer.step()",
            after="optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
            source=finding.source,
        )
