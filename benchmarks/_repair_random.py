"""Random search over the same edits: no diagnosis, the same budget in optimizer steps.

A candidate is what a remedy drawn at random answers to a forged finding of a cause drawn at
random, which blames one module, all, or none; or two such answers together. Candidates race like
those of ``fix`` (successive halving on the same rungs, judged on the last fifth of the batches),
beside the model as it is. The best is judged by the same protocol.

It is no weak rival: a remedy that reads from the trace that it does not fit refuses here, too, so
that candidates are spent only on what could be the case; and what ``fix`` spends on other seeds, it
spends on candidates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from _repair_judge import Row
from _repair_protocol import (
    Data,
    Repaired,
    applied,
    built,
    descended,
    outcomes,
)
from _repair_subjects import Subject
from planted.training import Training

import gradmend
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import Prescription
from gradmend.records.trace import Trace
from gradmend.registry import remedies

RUNGS = (1 / 6, 1 / 2, 1.0)
"""Shares of a training after which the worse half is left out."""
TRIES = 40
"""Draws for each candidate wanted, at most: a remedy may refuse, or find no place."""


@dataclass
class _Arm:
    prescription: Prescription | None
    ready: Repaired
    steps: int = 0
    score: float = field(default=math.inf)


def drawn(trace: Trace, source: random.Random) -> Iterator[Prescription]:
    """Prescriptions without end, of whatever remedy for whatever cause anywhere."""
    every = remedies()
    paths = sorted({op.module for op in trace.operations if op.module})
    while True:
        parts = [_one(trace, source, every, paths) for _ in range(source.choice((1, 1, 2)))]
        if all(parts) and parts:
            whole = parts[0]
            for part in parts[1:]:
                whole = whole.plus(part)  # type: ignore[union-attr, arg-type]
            yield whole  # type: ignore[misc]
        else:
            yield Prescription()


def _one(trace: Trace, source: random.Random, every: Any, paths: list[str]) -> Prescription | None:
    remedy = source.choice(list(every))
    blamed = source.choice(((), tuple(paths), (source.choice(paths),) if paths else ()))
    forged = Finding(
        code="RND000",
        name=source.choice(remedy.treats),
        severity=Severity.ERROR,
        modules=blamed,
        summary="drawn at random",
    )
    try:
        answers = [a for a in remedy((forged,), trace) if isinstance(a, Prescription) and a]
    except Exception:  # a remedy may need the evidence that a true finding has
        return None
    if not answers:
        return None
    answer: Prescription = source.choice(answers)
    return Prescription(
        edits=answer.edits, changes=answer.changes, remedies=(remedy.name,), model=answer.model
    )


def searched(subject: Subject, data: Data, healthy: Training, steps: int, budget: int) -> Row:
    """The best of a random search within ``budget`` steps, judged like a repair."""
    source = random.Random(subject.name)
    t = built(subject, subject.seed, subject.sick)
    found: Row = {"random": [], "random_remedies": [], "random_tried": 0}
    try:
        report = gradmend.check(
            t.model, data.train[0], t.loss_fn, optimizer=t.optimizers[0], steps=20
        )
    except Exception:
        return found | {"random_error": "no trace"}
    unseen = data.train[-max(1, len(data.train) // 5) :]
    train = data.train[: -len(unseen)]
    split = Data(train, [], unseen)
    # n arms cost n/6 + n/2 * 1/3 + n/4 * 1/2 trainings, and the original takes one.
    wanted = max(2, int((budget / steps - 1) / (1 / 6 + 1 / 6 + 1 / 8)))
    arms = _arms(subject, split, wanted, drawn(report.trace, source))
    found["random_tried"] = len(arms)
    original = _Arm(None, applied(subject, Prescription(), split, subject.seed))
    racing = arms
    _advance(original, steps, subject.seed)
    for share in RUNGS:
        for arm in racing:
            _advance(arm, max(1, round(steps * share)), subject.seed)
        racing = sorted(racing, key=lambda arm: arm.score)
        if share < 1:
            racing = racing[: max(1, math.ceil(len(racing) / 2))]
    best = min((original, *racing), key=lambda arm: arm.score)
    if best.prescription is not None:
        found["random_remedies"] = list(best.prescription.remedies)
        try:
            found["random"] = outcomes(subject, best.prescription, data, healthy, steps)
        except Exception as error:  # an edit that fits one seed only
            found["random_error"] = f"{type(error).__name__}: {error}"[:160]
    return found


def _arms(subject: Subject, data: Data, wanted: int, source: Iterator[Prescription]) -> list[_Arm]:
    arms: list[_Arm] = []
    seen: set[str] = set()
    for _ in range(TRIES * wanted):
        if len(arms) >= wanted:
            break
        prescription = next(source)
        if not prescription or str(prescription.edits) in seen:
            continue
        seen.add(str(prescription.edits))
        try:
            arms.append(_Arm(prescription, applied(subject, prescription, data, subject.seed)))
        except Exception:  # it does not fit
            continue
    return arms


def _advance(arm: _Arm, goal: int, seed: int) -> None:
    """Train up to ``goal`` steps, and judge by the loss that is trained on."""
    r = arm.ready
    descended(r.model, r.optimizer, r.loss_fn, r.train, goal - arm.steps, seed, arm.steps)
    arm.steps = goal
    modes = [(module, module.training) for module in r.model.modules()]
    r.model.eval()
    with torch.no_grad():
        try:
            losses = [float(r.loss_fn(r.model(x), y)) for x, y in r.unseen]
        except (RuntimeError, ValueError, IndexError):
            losses = [math.inf]
    for module, mode in modes:
        module.training = mode
    mean = sum(losses) / len(losses)
    arm.score = mean if math.isfinite(mean) else math.inf
