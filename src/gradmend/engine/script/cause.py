"""From a watched script to a diagnosis that remedies can work on.

A script's run tells what goes wrong; a remedy works on a look. Both are put together here, while
the script's objects are alive: the findings of the run, in the names of the one model that is to
be treated, on the look at that model's first step, completed as :mod:`gradmend.engine.examine`
completes the one of ``fix``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from gradmend.engine.diagnose import diagnose
from gradmend.engine.script.names import Names
from gradmend.engine.watching.beginning import Beginning
from gradmend.engine.watching.script import ScriptWatch
from gradmend.engine.watching.summary import report_of
from gradmend.engine.watching.watch import OF_THE_LOSS
from gradmend.records.finding import Finding, Severity
from gradmend.records.history import History
from gradmend.records.layout import Rehearsed
from gradmend.records.report import Report
from gradmend.records.request import Answer, Measurement
from gradmend.records.script import ScriptFacts
from gradmend.records.trace import Run, Trace


def cause_of(watch: ScriptWatch) -> Report:
    """What keeps a script from training, on a trace that remedies can work on.

    Call it where the watched steps end, with the script's models alive. What is told is what is
    wrong *after* those steps: a training that learns is healthy.

    Args:
        watch: The watch, with looks and beginnings.

    Returns:
        The report. Its trace is of one model, whose first step was looked at; ``report.script``
        says where it was built, and notes of the trace what is wrong with other models. Where no
        look was possible the trace has no operations, and ``report.script.unseen`` says why.
    """
    history = watch.history()
    with watch.taps.deaf():  # looks call the models, and that is no training
        beginnings = watch.beginnings
        names = Names.of(watch.observer.roster, [each.root for each in beginnings])
        traces = [_answered(each, _completed(each, history), history) for each in beginnings]
    first = [
        names.outside(finding, place)
        for place, (beginning, trace) in enumerate(zip(beginnings, traces, strict=True))
        for finding in _of_the_look(beginning, trace)
    ]
    report = report_of(history, watch.looks, first=first if first or beginnings else None)
    report = replace(report, after=None)  # the second look of a repair is the one after it
    if not beginnings:
        return _without_a_model(report, history)
    chosen = _chosen(report.findings, names, beginnings)
    others = [(f, names.place(f)) for f in report.findings]
    elsewhere = tuple(
        f"{beginnings[place].kind}, another model of the script: {f.code} {f.name}: {f.summary}"
        for f, place in others
        if place is not None and place != chosen and f.severity is not Severity.NOTE
    )
    trace = traces[chosen]
    return replace(
        report,
        trace=replace(trace, notes=(*trace.notes, *elsewhere)),
        findings=tuple(
            names.inside(f, chosen) for f, place in others if place is None or place == chosen
        ),
        script=_facts(chosen, beginnings, trace, history),
    )


def _chosen(findings: Sequence[Finding], names: Names, beginnings: Sequence[Beginning]) -> int:
    """The model to treat: the one of the first cause that could be looked at."""
    seen = [place for place, each in enumerate(beginnings) if each.trace is not None]
    for finding in findings:
        place = names.place(finding)
        if finding.severity is not Severity.NOTE and place in seen:
            return place
    # Findings that name no module are about the loop: the largest model is what it trains.
    sizes = [sum(p.numel() for p in each.root.parameters()) for each in beginnings]
    return max(seen or range(len(beginnings)), key=lambda place: sizes[place])


def _completed(beginning: Beginning, history: History) -> Trace:
    """The look with what trains the model, how that went, and the operations next to the loss."""
    trace = beginning.trace or Trace(
        run=Run(model=beginning.kind, torch=torch.__version__),
        modules=beginning.modules,
        notes=(f"{beginning.kind} could not be looked at: {beginning.why_not}",),
    )
    losses, norms, rates = _course(beginning, history)
    optimizer = beginning.optimizer
    optimizer = replace(optimizer, scheduled=optimizer.scheduled or len(set(rates)) > 1)
    loss = trace.run.loss if trace.run.loss is not None else next(iter(losses), None)
    graph = trace.loss_graph
    if not beginning.own_loss:
        graph = next((e.facts for e in history.of_kind("loss-graph")), graph)
    return replace(
        trace,
        run=replace(
            trace.run, loss=loss, optimizer=optimizer.name, learning_rate=optimizer.learning_rate
        ),
        optimizer=optimizer,
        loss_graph=graph,
        rehearsed=Rehearsed(losses=losses, log10_norms=norms, own_optimizer=True),
    )


def _course(
    beginning: Beginning, history: History
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """(loss, log10 norm before clipping, learning rate) of the model's optimizer, by step."""
    table, at = history["step"], beginning.optimizer_number
    if at >= len(table.columns):
        return (), (), ()
    rows = ~np.isnan(table["backwards"][:, at])
    raw, seen = table["log10_raw_norm"][rows, at], table["log10_norm"][rows, at]
    norms = np.where(np.isnan(raw), seen, raw)
    return (
        tuple(map(float, table["loss"][rows, at])),
        tuple(map(float, norms)),
        tuple(map(float, table["learning_rate"][rows, at])),
    )


def _answered(beginning: Beginning, trace: Trace, history: History) -> Trace:
    """With the same look after the watched steps: what rules ask for as a few steps.

    Not where several optimizers train against or beside each other: there a loss that falls says
    nothing of learning, and rules would take it for that.
    """
    assert trace.rehearsed is not None
    if len(history["step"].columns) > 1:
        return trace
    try:
        after = beginning.look_now(history.run.steps)
    except Exception as error:  # the user's forward, on copies: as at the first step
        text = " ".join(str(error).split())[:160]
        note = f"no look after {history.run.steps} steps: {type(error).__name__}: {text}"
        return replace(trace, notes=(*trace.notes, note))
    if after is None:
        return trace
    losses = trace.rehearsed.losses
    answer = Answer(measurement=Measurement.FEW_STEPS, trace=after, losses=losses)
    return replace(trace, answers=(*trace.answers, answer))


def _of_the_look(beginning: Beginning, trace: Trace) -> list[Finding]:
    """What the rules over traces say of a model's first step."""
    if beginning.trace is None:
        return []
    said = list(diagnose(trace).findings)
    if not beginning.own_loss:  # the stand-in on the outputs knows not who is reached by the loss
        said = [f for f in said if f.code not in OF_THE_LOSS]
    if not beginning.has_data:  # it would judge what another model has put out
        said = [f for f in said if not f.code.startswith("DAT")]
    return said


def _facts(
    chosen: int, beginnings: Sequence[Beginning], trace: Trace, history: History
) -> ScriptFacts:
    mine = beginnings[chosen]
    return ScriptFacts(
        model=mine.kind,
        model_place=mine.place,
        optimizer=mine.optimizer.name,
        optimizer_place=mine.optimizer_place,
        modules=mine.module_places,
        steps=history.run.steps,
        losses=trace.rehearsed.losses if trace.rehearsed is not None else (),
        others=tuple(b.kind for at, b in enumerate(beginnings) if at != chosen),
        unseen=mine.why_not,
    )


def _without_a_model(report: Report, history: History) -> Report:
    """The run's findings alone: no model was called in the step of an optimizer that holds it."""
    why = (
        "no model was called as a whole in the step that trains it"
        if history.run.models
        else "no model of the script is built of modules with parameters"
    )
    # A look at a part of a model would name its modules otherwise than the model does.
    trace = Trace(run=replace(report.trace.run, model=", ".join(history.run.models)), notes=(why,))
    losses = history["step"]["loss"]
    known = losses[:, 0] if losses.size else losses
    return replace(
        report,
        trace=trace,
        script=ScriptFacts(steps=history.run.steps, losses=tuple(map(float, known)), unseen=why),
    )
