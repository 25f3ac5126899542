"""Remedies of the optimizer on real trainings: the same run learns with them."""

import math
import statistics
from functools import cache
from typing import Any

import pytest
import torch
from cases_optimisation import SUBJECTS
from optimisation_traces import ask

import gradmend
from gradmend.engine.examine import with_optimizer
from gradmend.engine.prescribe import prescribe
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.prescription import Prescription
from gradmend.records.trace import Trace


@cache
def checked(name: str) -> Any:
    subject = SUBJECTS[name](0)
    report = gradmend.check(
        subject.model, subject.batches[0], subject.loss_fn, optimizer=subject.optimizer, steps=50
    )
    return prescribe(report.findings, report.trace)


def looked(name: str) -> Trace:
    subject = SUBJECTS[name](0)
    found = look(subject.model, subject.batches[0], Feeder(loss_fn=subject.loss_fn))
    return with_optimizer(found, subject.optimizer, subject.model)


def trained(name: str, seed: int, prescription: Prescription | None, steps: int = 150) -> float:
    subject = SUBJECTS[name](seed)
    if prescription is not None:
        gradmend.apply(prescription, subject.model, optimizer=subject.optimizer)
    for step in range(steps):
        x, y = subject.batches[step % len(subject.batches)]
        subject.optimizer.zero_grad()
        loss = subject.loss_fn(subject.model(x), y)
        if not bool(torch.isfinite(loss)):
            return math.inf
        loss.backward()
        subject.optimizer.step()
    with torch.no_grad():
        losses = [float(subject.loss_fn(subject.model(x), y)) for x, y in subject.batches]
    # The median: of bad batches the loss stays what it is.
    return statistics.median(losses)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("rate x 1000, Adam", "lower-learning-rate"),
        ("rate x 1e-5, SGD", "raise-learning-rate"),
        ("large eps", "fit-epsilon"),
        ("body frozen", "unfreeze-parameters"),
        ("decay of 2, SGD", "reduce-weight-decay"),
    ],
)
def test_the_first_proposal_takes_a_fifth_off_the_loss_with_a_model_of_another_seed(
    name: str, remedy: str
) -> None:
    # WHEN the faulty training is asked about THEN the remedy is among what it is offered
    offered = [p for p in checked(name).prescriptions if p.remedies == (remedy,)]
    assert offered
    # AND trained as long as the original it is far better
    assert trained(name, 1, offered[0]) < 0.8 * trained(name, 1, None)


@pytest.mark.parametrize(
    ("name", "remedy", "found", "share"),
    [
        ("outlier batches", "clip-by-norm", "outlier-batch", 0.1),
        ("outlier batches", "clip-by-percentile", "outlier-batch", 0.1),
        ("outlier batches", "clip-by-z-score", "outlier-batch", 0.1),
        ("exploding through time", "clip-by-norm", "gradient-grown-through-time", 0.5),
        ("small weights, SGD", "lift-small-gradients", "vanishing-gradient", 0.9),
    ],
)
def test_what_acts_at_each_step_lets_a_training_learn_that_does_not(
    name: str, remedy: str, found: str, share: float
) -> None:
    # GIVEN a training that diverges or stands still
    (prescription,) = ask(remedy, looked(name), found)
    assert isinstance(prescription, Prescription)
    before = trained(name, 1, None, steps=0)
    assert trained(name, 1, None) > 0.4 * before
    # THEN the same training with the remedy learns
    assert trained(name, 1, prescription) < share * min(trained(name, 1, None), before)
