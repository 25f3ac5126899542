"""The whole watch, looks included, says nothing above a note of a healthy training."""

import pytest
import test_live_cases

import gradmend
from gradmend.registry import Case
from gradmend.zoo.training import build_training

KNOWN = {("long_memory()", 3)}
"""The LSTM's own tanh works on its flats, and so few steps have not lowered the loss yet: the
one false alarm of these 136 runs (docs/limits.md)."""


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["2%", "all"])
@pytest.mark.parametrize("case", test_live_cases.HEALTHY, ids=str)
def test_healthy_trainings_are_left_in_peace(case: Case, budget: str) -> None:
    for seed in (3, 4):
        training = build_training(case.model, seed=seed, **case.args)
        with gradmend.watch(training.model, training.optimizer, budget=budget) as watch:
            for step in range(training.steps):
                training.step(step)
        loud = [finding.name for finding in watch.report().at_least("warning")]
        assert loud == [] or ((str(case), seed) in KNOWN and loud == ["saturated-activation"])
        assert watch.observer.failures == []
