"""GRF101: trainable parameters that no path of the graph connects to the loss."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule


@rule(
    code="GRF101",
    fires_on=[
        Case.of("functional_mlp", depth=4, detach_at=1),
        Case.of("functional_mlp", depth=4, detach_at=3, activation="relu"),
    ],
    silent_on=[
        Case.of("functional_mlp", depth=4),
        Case.of("transformer"),
        Case.of("shared"),
        Case.of("mlp", depth=100, activation="sigmoid"),
    ],
)
def detached_parameters(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """Trainable parameters whose module ran, but which the loss cannot reach.

    What it finds:
        Parameters that require a gradient and belong to a module that took part in the forward
        pass, with no path of the autograd graph from the loss to them.

    Why it matters:
        Their gradient is None, not small: no learning rate, initialisation or patience moves
        them. It looks like vanishing gradients and is something else.

    How it is measured:
        Reachability in the autograd graph of one forward pass; exact, no threshold.

    Silent when:
        The parameter is frozen on purpose (requires_grad=False), or its module did not run at
        all (an unused head), which is told as a note.

    References:
        speechbrain/speechbrain#2759; microsoft/LoRA#120 (reentrant checkpointing).
    """
    del limits  # unused: reachability is a fact
    lost = [p for p in trace.parameters if p.trainable and not p.reached]
    ran = [p for p in lost if p.module_called and p.module]
    idle = [p for p in lost if not (p.module_called and p.module)]
    if ran:
        modules = tuple(dict.fromkeys(p.module for p in ran))
        among = set(modules)  # a tuple of 10,000 would be searched 10,000 times
        reached = next((op for op in trace.operations if op.module not in among), None)
        near = f", the first module the loss does reach is {reached.module}" if reached else ""
        yield Finding(
            code="GRF101",
            name="detached-parameters",
            severity=Severity.ERROR,
            modules=modules,
            source=None,
            summary=(
                f"the loss does not reach {len(ran)} parameters that took part, the last in"
                f" {modules[-1]}{near}: look between the two for detach(), no_grad() or .item()"
            ),
            evidence=(
                Evidence(
                    quantity="parameters without a path from the loss",
                    observed=float(len(ran)),
                    limit=0.0,
                    unit="parameters",
                ),
            ),
            weight=100.0,
            explains=("vanishing-gradient", "collapsed-signal", "depth-without-skip"),
            exculpation="requires_grad=False",
        )
    if idle:
        yield Finding(
            code="GRF101",
            name="detached-parameters",
            severity=Severity.NOTE,
            modules=tuple(dict.fromkeys(p.module for p in idle)),
            summary=(
                f"{len(idle)} trainable parameter(s) did not take part in this forward pass"
                f" ({idle[0].name}): fine for an unused head, otherwise never called"
            ),
            exculpation="an unused branch",
        )
