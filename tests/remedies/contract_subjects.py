"""The cases of the contract that all remedies keep, and what is found in each."""

from functools import cache

import torch
from subjects import Subject, every

from gradmend.edits import Bench
from gradmend.engine.diagnose import diagnose
from gradmend.engine.examine import examine, with_optimizer
from gradmend.engine.measure import Measurer
from gradmend.engine.prescribe import Candidates, prescribe
from gradmend.engine.session import CHEAP_SECONDS
from gradmend.probe.batch import Feeder, map_tensors
from gradmend.probe.look import look
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import Prescription
from gradmend.records.trace import Trace
from gradmend.registry import Case, rules
from gradmend.zoo.specimen import build

CASES: dict[str, Case] = {str(case): case for rule in rules() for case in rule.fires_on} | {
    str(case): case
    for case in (
        Case.of("mlp", depth=30, activation="tanh", scale=100.0),
        Case.of("functional_mlp", depth=12, activation="sigmoid"),
        Case.of("shared", repeats=40),
    )
}
"""The rules' own, some sick in two ways, and some that few remedies fit."""

EXTRA = dict(every())
"""Whole trainings, for what only an optimizer or some steps show."""
EVERY = [*CASES, *EXTRA]

STEPS, ALL = 16, 50
"""Of a training before it is judged: fix() takes fifty, and most causes show before that."""
LATE = ("optimisation", "recurrence", "data: a rare class", "data: targets in thousands, SGD")
"""Beginnings of the names of trainings whose cause shows only after all fifty."""


def made(case: str, seed: int = 0) -> Subject:
    """A case, freshly built."""
    if case in EXTRA:
        return EXTRA[case](seed)
    specimen = build(CASES[case].model, seed=seed, **CASES[case].args)
    optimizer = torch.optim.Adam(specimen.model.parameters(), lr=1e-2)
    return Subject(specimen.model, specimen.batches, specimen.loss_fn, optimizer)


@cache
def looked(case: str) -> tuple[Trace, tuple[Finding, ...]]:
    """What is found in a case: at one look, or for a whole training after some steps, too."""
    subject = made(case)
    feeder = Feeder(loss_fn=subject.loss_fn)
    if case in EXTRA:
        report = examine(
            Measurer(
                model=subject.model,
                batch=subject.batches[0],
                feeder=feeder,
                optimizer=subject.optimizer,
                steps=ALL if case.startswith(LATE) else STEPS,
                seconds=CHEAP_SECONDS,
            )
        )
        return report.trace, report.findings
    trace = look(subject.model, subject.batches[0], feeder)
    trace = with_optimizer(trace, subject.optimizer, subject.model)
    return trace, diagnose(trace).findings


def serious(case: str) -> tuple[Finding, ...]:
    """What a remedy is asked to treat."""
    return tuple(f for f in looked(case)[1] if f.severity is not Severity.NOTE)


@cache
def candidates(case: str) -> Candidates:
    """What all remedies together answer."""
    trace, _ = looked(case)
    return prescribe(serious(case), trace)


def prescriptions(case: str) -> tuple[Prescription, ...]:
    """Every single one."""
    return candidates(case).prescriptions


def opened(case: str, seed: int) -> tuple[Subject, Bench]:
    """A fresh model of another seed, ready for edits."""
    subject = made(case, seed)
    feeder = Feeder(loss_fn=subject.loss_fn)
    first = subject.batches[0]
    bench = Bench(
        model=subject.model,
        optimizer=subject.optimizer,
        run_batch=lambda model: feeder.loss(
            model, bench.batch(map_tensors(first, lambda t: t.clone()))
        ),
        seed=seed,
    )
    return subject, bench


def a_step(subject: Subject, bench: Bench) -> None:
    """One training step with the edits, as a trial takes it."""
    fed = bench.batch(map_tensors(subject.batches[0], lambda t: t.clone()))
    if fed is None:
        return
    subject.optimizer.zero_grad()
    loss = bench.loss(Feeder(loss_fn=subject.loss_fn).loss(bench.model, fed))
    if loss.requires_grad and bool(torch.isfinite(loss)):
        loss.backward()
        subject.optimizer.step()


def new_causes(case: str, bench: Bench, subject: Subject) -> tuple[Trace, set[str]]:
    """What is found in the edited model that was not found before, symptoms aside."""
    fed = bench.batch(subject.batches[0])
    trace = look(bench.model, fed, Feeder(loss_fn=subject.loss_fn))
    found = {
        f.name
        for f in diagnose(trace).findings
        if f.severity is Severity.ERROR and not f.symptom and f.explained_by is None
    }
    return trace, found - {f.name for f in looked(case)[1]}
