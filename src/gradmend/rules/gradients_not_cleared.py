"""GRF201: gradients of one step that are still there when the next backward begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import share_of_last


@dataclass(frozen=True)
class Limits:
    """When gradients are not cleared."""

    share: float = limit(
        0.5,
        unit="share of steps",
        source="exact at each step; half of them, so that a call left out once convicts nobody",
    )


@rule(
    code="GRF201",
    rehearsed=False,
    limits=Limits,
    fires_on=[
        Case.of("miswired_loop", fault="not_cleared"),
        Case.of("miswired_loop", fault="cleared_every_fourth"),
    ],
    silent_on=[
        Case.of("miswired_loop"),
        Case.of("miswired_loop", fault="accumulation"),
        Case.of("miswired_loop", fault="closure"),
        Case.of("two_players"),
    ],
)
def gradients_not_cleared(history: History, limits: Limits) -> Iterator[Finding]:
    """Gradients that are added to those of the steps before.

    What it finds:
        Loops in which an optimizer steps, and the next backward adds to the gradient that this
        step has already used, at half of the steps or more.

    Why it matters:
        The step follows the sum of all gradients so far. Its norm grows with the number of steps
        and looks like an exploding gradient; its direction is that of long ago.

    How it is measured:
        Bitwise: the gradient of the last step against the one that backward finds.

    Silent when:
        Gradients are accumulated on purpose: then no step lies between. Another optimizer's
        gradients are left over, as in every adversarial pair, and cleared before its own step.

    References:
        torch.optim.Optimizer.zero_grad; user reports collected in Zhang et al. 2021 (AutoTrainer).
    """
    table = history["step"]
    for at, optimizer in enumerate(table.columns):
        share = share_of_last(table, "not_cleared", at)
        if not share >= limits.share:
            continue
        yield Finding(
            code="GRF201",
            name="gradients-not-cleared",
            severity=Severity.ERROR,
            modules=(),
            summary=(
                f"{share:.0%} of the last steps of {optimizer.name} added to gradients that were"
                f" already used: call {optimizer.kind or 'optimizer'}.zero_grad() once per step"
            ),
            evidence=(
                Evidence(
                    quantity="share of steps whose gradients were not cleared",
                    observed=share,
                    limit=limits.share,
                    unit="share of steps",
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=(
                "exploding-gradient",
                "oscillating-loss",
                "diverging-loss",
                "loss-spike",
                "update-norm-spike",
                "learning-rate-too-high",
                "loss-plateau",
                "non-finite-value",
                "dead-relu",
                "saturated-activation",
                "saturated-attention",
                "init-gain-too-large",
                "collapsed-signal",
                "vanishing-gradient",
                "stalled-layers",
            ),
            exculpation="zero_grad() before each backward that begins a new step",
        )
