"""Models that have been trained: what they know is not given up lightly."""

import copy

import pytest
import torch
from test_fix import adam, sick, train, unseen_loss
from torch import nn

import gradmend
from gradmend.engine.prescribe import is_trained, prescribe
from gradmend.zoo.specimen import Specimen


def learned(seed: int = 0) -> Specimen:
    """The dozen sigmoid layers, repaired and trained: they know the task."""
    specimen = sick(seed)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                          nn.Linear(32, 4))  # fmt: skip
    trained = Specimen(model, specimen.batches, specimen.loss_fn)
    train(model, trained, 150, 3e-3)
    return trained


@pytest.fixture(scope="module")
def checkpoint() -> Specimen:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return learned()


def test_a_checkpoint_is_known_by_its_loss_alone(checkpoint: Specimen) -> None:
    # GIVEN a trained model and an optimizer that has not stepped yet
    report = gradmend.check(checkpoint.model, checkpoint.batch, checkpoint.loss_fn)
    assert is_trained(report.trace)
    fresh = sick()
    assert not is_trained(gradmend.check(fresh.model, fresh.batch, fresh.loss_fn).trace)


def test_a_rate_that_destroys_a_checkpoint_is_lowered_and_what_it_knows_kept(
    checkpoint: Specimen,
) -> None:
    # GIVEN a checkpoint that is to be trained on at a rate far too high
    model = copy.deepcopy(checkpoint.model)
    specimen = Specimen(model, checkpoint.batches, checkpoint.loss_fn)
    knows = unseen_loss(model, specimen)
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    fix = gradmend.fix(model, specimen.batches, specimen.loss_fn, optimizer=optimizer, steps=60)
    # THEN the repair keeps the function, and the model is as good as it was, or better
    assert fix.prescription
    assert fix.prescription.keeps_function
    assert unseen_loss(fix.model, specimen) < knows + 0.2 < 0.5, "a guess costs 1.39"


def test_answers_that_keep_the_function_come_before_those_that_draw_anew(
    checkpoint: Specimen,
) -> None:
    # GIVEN a checkpoint whose first layer was blown up and whose second makes up for it
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for layer, factor in ((model[0], 300.0), (model[2], 1 / 300.0)):
            layer.weight.mul_(factor)
        model[0].bias.mul_(300.0)
    specimen = Specimen(model, checkpoint.batches, checkpoint.loss_fn)
    report = gradmend.check(
        model, specimen.batch, specimen.loss_fn, optimizer=adam(model), steps=20
    )
    options = prescribe(report.at_least("note"), report.trace).options
    keeps = [option.prescription.keeps_function for option in options]
    assert keeps == sorted(keeps, reverse=True)


def test_a_healthy_checkpoint_is_left_as_it_is(checkpoint: Specimen) -> None:
    model = copy.deepcopy(checkpoint.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fix = gradmend.fix(
        model, checkpoint.batches, checkpoint.loss_fn, optimizer=adam(model), steps=40
    )
    assert not fix.prescription
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
