"""One subject measured: what ``fix`` makes of it, and what comes of that."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

from _repair_judge import Row, capped, harm, verdict
from _repair_protocol import (
    Data,
    built,
    collected,
    length,
    longer,
    outcomes,
    plain,
    untrained,
)
from _repair_random import searched
from _repair_subjects import Subject
from planted.training import WEIGHTS, Training
from torch import nn

import gradmend
from gradmend.errors import GradmendError
from gradmend.records.prescription import Prescription

TRIAL = 12
"""Budget of ``fix``, in trainings."""
NOTHING: Row = {
    "error": "", "crashed": False, "remedies": [], "advice": [], "spent": 0, "named": [],
    "cause_found": False, "first_right": False, "fixed": [], "longer": [], "wall": 0.0,
    "seconds": 0.0, "reason": "", "refusals": [], "touched": [0, 0],
}  # fmt: skip
"""What a row says of a repair that was not made."""


def measure(subject: Subject, random: bool = False) -> Row:
    """All about one subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _measure(subject, random)


def _measure(subject: Subject, random: bool) -> Row:
    steps = length(subject)
    healthy = subject.make(subject.seed, False)
    well, ill = collected(subject, False, steps), collected(subject, subject.sick, steps)
    before = untrained(subject, well, healthy)
    twins = plain(subject, False, well, healthy, steps)
    sick = plain(subject, True, ill, healthy, steps) if subject.sick else twins
    row: Row = {
        "case": subject.name, "set": subject.set, "split": subject.split, "planted": subject.sick,
        "what": subject.what, "arch": subject.arch, "source": subject.source,
        "cause": subject.cause, "accepted": list(subject.accepted), "not_by_edit": subject.advice,
        "steps": steps, "before": before, "healthy": twins, "sick": sick,
        "harm": harm(before, statistics.fmean(twins), capped(sick, before)) if subject.sick else "",
        "one_guilty": lone_layer(subject),
    }  # fmt: skip
    if row["harm"] == "twin idle":  # nothing can be learned from it
        return row | NOTHING | {"outcome": "unchanged"}
    row |= repaired(subject, ill, healthy, steps, sick)
    row["outcome"] = verdict(row)
    if random and row["harm"] == "worse" and not subject.advice:
        row |= searched(subject, ill, healthy, steps, max(3 * steps, row["spent"]))
    return row


def repaired(subject: Subject, data: Data, healthy: Training, steps: int, sick: list[float]) -> Row:
    """What ``fix`` makes of it, and what comes of that."""
    t = built(subject, subject.seed, subject.sick)
    found: Row = dict(NOTHING)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        fixed = gradmend.fix(
            t.model, data.train, t.loss_fn, optimizer=t.optimizers[0], steps=steps,
            budget=f"{TRIAL * steps} steps", seed=subject.seed,
        )  # fmt: skip
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        found["crashed"] = not isinstance(error, GradmendError)
        return found | {"wall": time.perf_counter() - wall}
    report, prescription = fixed.report, fixed.prescription
    named = [f.name for f in report.at_least("warning")]
    advice = [a.finding for a in getattr(report, "advice", ())]
    found |= {
        "wall": round(time.perf_counter() - wall, 2),
        "seconds": round(time.process_time() - cpu, 2),
        "named": named[:6],
        "cause_found": bool({*named} & {*subject.accepted}),
        "first_right": bool({*named[:1]} & {*subject.accepted}),
        "advice": advice,
        "advice_right": bool({*advice} & {*subject.accepted}),
        "refusals": [f"{r.remedy}: {r.reason}"[:160] for r in report.refusals][:6],
        "spent": fixed.verdict.steps if fixed.verdict else 0,
        "reason": fixed.verdict.reason[:200] if fixed.verdict else "",
        "rivals": rivals(fixed.verdict),
        "predictions_held": bool(fixed.verdict and fixed.verdict.predictions_held),
    }
    if prescription:
        fresh = subject.make(subject.seed, subject.sick)
        try:
            losses = outcomes(subject, prescription, data, healthy, steps)
        except Exception as error:
            found["error"] = f"apply: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            found["crashed"] = True
            return found
        found |= {
            "remedies": list(prescription.remedies),
            "edits": [edit.kind for edit in prescription.edits],
            "change": max(prescription.changes, default=0),
            "touched": list(touched(prescription, fresh)),
            "fixed": losses,
            "longer": longer(subject, data, healthy, steps, found["spent"], sick),
        }
        found["agree"] = sum(a < b for a, b in zip(losses, sick, strict=True))
    return found


def rivals(verdict_: Any) -> list[list[Any]]:
    """(name, steps, unseen loss) of the trial's trainings."""
    arms = (*verdict_.original, *verdict_.winner, *verdict_.rivals) if verdict_ else ()
    return [[arm.name, arm.seed, arm.steps, arm.unseen] for arm in arms][:24]


def touched(prescription: Prescription, training: Training) -> tuple[int, int]:
    """How many weight layers the edits name, of how many; an edit of the optimizer names none."""
    layers = [n for n, m in training.model.named_modules() if isinstance(m, (*WEIGHTS, nn.RNNBase))]
    layers += [n for n, m in training.model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    named = {target for edit in prescription.edits for target in edit.targets}
    named |= {name.rpartition(".")[0] for name in named}
    return sum(layer in named for layer in layers), len(layers)


def lone_layer(subject: Subject) -> bool:
    """Whether just one weight layer is guilty, in a model with several."""
    if not subject.guilty:
        return False
    model = subject.make(subject.seed, subject.sick).model
    kinds = (*WEIGHTS, nn.RNNBase, nn.MultiheadAttention)
    layers = [n for n, m in model.named_modules() if isinstance(m, kinds)]
    return len(layers) > 1 and sum(layer in subject.guilty for layer in layers) == 1
