"""A whole diagnosis of a model on one batch: the look, the few steps, what rules ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from torch import nn
from torch.optim import Optimizer

from gradmend.engine.diagnose import dated, diagnose
from gradmend.engine.measure import Measurer
from gradmend.engine.rehearsal import rehearsed_of
from gradmend.engine.watching.live import judged
from gradmend.engine.watching.look_facts import look_facts
from gradmend.probe.layout import optimizer_of
from gradmend.probe.look import look
from gradmend.records.history import Event, History, RunFacts
from gradmend.records.report import Report
from gradmend.records.trace import Trace

Tell = Callable[[str, float | None], None]
"""Told what is going on; how much of it is done is not known."""


def examine(measure: Measurer, tell: Tell = lambda text, share: None) -> Report:
    """Look, rehearse, judge, measure what is asked for, judge again.

    Where ``measure.steps`` names a number, the model is looked at once more after them.

    Args:
        measure: The model, and what may be measured on it.
        tell: Told of each part before it begins.
    """
    tell("looking at the gradient", None)
    trace = look(measure.model, measure.batch, measure.feeder, precision=measure.precision)
    if measure.optimizer is not None:
        trace = with_optimizer(trace, measure.optimizer, measure.model)
    learnable = any(p.reached for p in trace.parameters)
    if learnable:
        tell("taking a few steps on copies", None)
    rehearsal = measure.rehearse(trace) if learnable else None
    if rehearsal is not None:
        trace = replace(trace, rehearsed=rehearsed_of(rehearsal))
    tell("asking the rules, and measuring what they ask for", None)
    found = diagnose(trace, measure if learnable else None)
    broken: list[str] = []
    history = rehearsal.history if rehearsal is not None else _history_of(trace)
    seen = Event(step=0, kind="look", facts={"findings": [], **look_facts(trace)})
    history = replace(history, events=(*history.events, seen))
    found = found.joined(judged(history, lambda error: broken.append(f"a rule failed: {error}")))
    after = None
    if measure.steps is not None and rehearsal is not None:
        tell(f"looking again, {rehearsal.steps} steps on", None)
        after = look(
            measure.model,
            measure.batch,
            measure.feeder,
            precision=measure.precision,
            shadow=rehearsal.shadow,
            step=rehearsal.steps,
        )
        found = found.joined(dated(diagnose(after).findings, rehearsal.steps))
    judged_on = found.trace or trace
    return Report(
        trace=replace(judged_on, notes=(*judged_on.notes, *measure.left_out, *broken)),
        findings=found.findings,
        cannot_judge=found.cannot_judge,
        undecided=found.undecided,
        after=after,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _history_of(trace: Trace) -> History:
    """A run of no step, for models of which not even one is cheap: what lies next to the loss."""
    events: tuple[Event, ...] = ()
    if trace.loss_graph is not None:
        events = (Event(step=0, kind="loss-graph", facts=trace.loss_graph),)
    return History(run=RunFacts(models=(trace.run.model,), rehearsal=True), events=events)


def with_optimizer(trace: Trace, optimizer: Optimizer, model: nn.Module) -> Trace:
    """Write into a trace what trains the model."""
    facts = optimizer_of(optimizer, getattr(model, "_orig_mod", model))
    run = replace(trace.run, optimizer=facts.name, learning_rate=facts.learning_rate)
    return replace(trace, run=run, optimizer=facts)
