"""GRF101: trainable parameters that no path of the graph connects to the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, History
from gradmend.records.trace import Parameter, Trace, Use
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import cuts


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: None is a fact
    lost, idle = cuts.of_run(history)
    yield from _findings(lost)
    if idle:
        yield _idle(idle)


_SPELT = {
    "data": ".data", "item": ".item()", "detach": "detach()", "tolist": ".tolist()",
    "numpy": ".numpy()", "argmax": "argmax", "tensor": "torch.tensor(...)",
}  # fmt: skip
_DISCRETE = frozenset({"argmax", "argmin", "argsort", "topk", "long", "int", "multinomial"})


def _findings(every: Iterable[cuts.Lost]) -> Iterator[Finding]:
    for lost in every:
        if lost.reason or not lost.modules:
            continue  # see no-grad-forward and reentrant-checkpoint
        last = lost.modules[0]
        behind = f", and {lost.behind} behind it does" if lost.behind else ""
        if lost.operation:
            name = _SPELT.get(lost.operation, lost.operation)
            at = f" ({lost.source})" if lost.source else ""
            todo = "has no derivative" if lost.operation in _DISCRETE else "ends the graph there"
            why = f"{name} behind {last}{at} {todo}"
        else:
            why = (
                "look between the two for detach(), no_grad(), .item(), or reentrant checkpointing"
            )
        count = len(lost.names)
        yield cuts.finding(
            lost,
            code="GRF101",
            name="detached-parameters",
            summary=(
                f"{count} trainable parameter{'' if count == 1 else 's'} that took part"
                f" get{'s' if count == 1 else ''} no gradient at all, the last in"
                f" {last}{behind}: {why}"
            ),
            exculpation="requires_grad=False, or a gradient that is not None",
        )


def _idle(columns: list[Column]) -> Finding:
    return Finding(
        code="GRF101",
        name="detached-parameters",
        severity=Severity.NOTE,
        modules=tuple(dict.fromkeys(c.module for c in columns)),
        source=columns[0].source,
        summary=(
            f"{len(columns)} trainable parameter(s) never got a gradient ({columns[0].name}): fine"
            " for a head or branch that the loss does not use"
        ),
        exculpation="an unused branch",
    )


def _unused(called: list[Parameter]) -> Iterator[Finding]:
    """Modules whose results the loss does not read: other numbers there change nothing."""
    for use, fate in (
        (
            Use.DROPPED,
            "is computed and dropped, so nothing there can learn: use it, or do not call",
        ),
        (Use.RETURNED, "is one of several outputs and not used, which is fine if nobody needs it"),
    ):
        modules = tuple(dict.fromkeys(p.module for p in called if p.use is use))
        if not modules:
            continue
        whose = modules[0] if len(modules) == 1 else f"{len(modules)} modules, {modules[0]} first,"
        yield Finding(
            code="GRF101",
            name="detached-parameters",
            severity=Severity.WARNING if use is Use.DROPPED else Severity.NOTE,
            modules=modules,
            summary=f"the loss does not depend on what {whose} put out: it {fate}",
            evidence=(
                Evidence(
                    quantity="change of the loss with other weights there",
                    observed=0.0,
                    limit=0.0,
                    unit="units of the loss",
                    module=modules[0],
                ),
            ),
            weight=50.0 if use is Use.DROPPED else 0.0,
            exculpation="a result that the loss reads",
        )


@rule(
    code="GRF101",
    fires_on=[
        Case.of("functional_mlp", depth=4, detach_at=1),
        Case.of("functional_mlp", depth=4, detach_at=3, activation="relu"),
        Case.of("cut_network", fault="detach"),
        Case.of("cut_network", fault="numpy"),
    ],
    silent_on=[
        Case.of("functional_mlp", depth=4),
        Case.of("cut_network", fault="no_grad"),
        Case.of("cut_network", fault="reentrant_checkpoint"),
        Case.of("transformer"),
        Case.of("shared"),
        Case.of("mlp", depth=100, activation="sigmoid"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("two_stages", fault="detach"),
        Case.of("quantised", operation="argmax"),
    ],
    live_silent_on=[
        Case.of("two_stages"),
        Case.of("two_stages", fault="unused_head"),
        Case.of("two_stages", fault="checkpoint"),
        Case.of("two_stages", fault="no_grad"),
        Case.of("two_stages", fault="reentrant_checkpoint"),
        Case.of("two_stages", fault="head_by_turns"),
        Case.of("optimizer_groups", fault="frozen"),
        Case.of("optimizer_groups", fault="stale"),
        Case.of("two_players"),
        Case.of("quantised", operation="round"),
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
        Reachability in the autograd graph of one forward pass; exact, no threshold. In a run: a
        gradient that is None whenever the parameter's own optimizer steps, in front of the first
        parameter that gets one. The call that was given a tensor with a history and returned one
        without is named, where it was seen.

    Silent when:
        The parameter is frozen on purpose (requires_grad=False), or its module did not run at
        all (an unused head), which is told as a note. In a run also: it is in no optimizer, or it
        has had a gradient before (heads that take turns). Where recording was off,
        no-grad-forward and reentrant-checkpoint judge.

    References:
        speechbrain/speechbrain#2759; microsoft/LoRA#120 (reentrant checkpointing).
    """
    del limits  # unused: reachability is a fact
    lost = [p for p in trace.parameters if p.trainable and not p.reached]
    called = [p for p in lost if p.module_called and p.module]
    yield from _unused(called)
    idle = [p for p in lost if not (p.module_called and p.module) or p.use is Use.UNREAD]
    yield from _findings(cuts.of_trace(trace))
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
