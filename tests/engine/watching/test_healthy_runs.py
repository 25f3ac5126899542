"""The whole watch, looks included, says nothing above a note of a healthy training."""

import pytest
import test_live_cases
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import gradmend
from gradmend.registry import Case
from gradmend.zoo.training import build_training


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
        assert loud == []
        assert watch.observer.failures == []


class ActorCritic(nn.Module):
    """Half of what it returns is no tensor: a look sees only the other half of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.policy, self.value = nn.Linear(4, 16), nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Categorical, Tensor]:
        h = self.body(x).relu()
        return Categorical(logits=self.policy(h)), self.value(h)


def test_outputs_that_are_no_tensors_cut_nothing_off() -> None:
    model = ActorCritic()
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    with gradmend.watch(model, opt, budget="all") as watch:
        for _ in range(30):
            choice, value = model(torch.randn(32, 4))
            opt.zero_grad()
            (-choice.log_prob(choice.sample()).mean() + value.square().mean()).backward()
            opt.step()
    assert watch.looks and watch.observer.failures == []
    assert "detached-parameters" not in [finding.name for finding in watch.report().findings]
