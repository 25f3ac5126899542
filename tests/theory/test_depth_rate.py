"""The rate that a depth allows, and prescriptions that bring it with them."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradmend.engine.examine import with_optimizer
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.theory.depth_rate import rate_factor, with_rate

START = Prescription(
    edits=(Edit(kind="initialise"),), changes=(Change.INITIALISATION,), reason="drawn anew"
)


def trace(depth: int, optimizer: type[torch.optim.Optimizer], rate: float, **more: bool) -> Trace:
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(4, 4), *([nn.BatchNorm1d(4)] if more else []), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(4, 3))
    batch = (torch.randn(8, 4), torch.randint(3, (8,)))
    made = optimizer(model.parameters(), lr=rate)  # type: ignore[call-arg]
    return with_optimizer(look(model, batch, Feeder(loss_fn=F.cross_entropy)), made, model)


@pytest.mark.parametrize(
    ("depth", "optimizer", "rate", "factor"),
    [
        (100, torch.optim.Adam, 1e-3, 0.3),
        (100, torch.optim.AdamW, 1e-4, 3.0),
        (100, torch.optim.NAdam, 3e-4, 1.0),
        (20, torch.optim.Adam, 1e-3, 1.0),
        (20, torch.optim.Adam, 1e-2, 0.1),
        (50, torch.optim.SGD, 0.1, 0.2),
    ],
)
def test_adams_rate_falls_to_a_figure_and_others_by_a_factor(
    depth: int, optimizer: type[torch.optim.Optimizer], rate: float, factor: float
) -> None:
    assert rate_factor(trace(depth, optimizer, rate)) == pytest.approx(factor)


def test_without_a_rate_there_is_no_factor() -> None:
    seen = trace(12, torch.optim.Adam, 1e-3)
    assert rate_factor(replace(seen, run=replace(seen.run, learning_rate=None))) is None


def kinds(seen: Trace) -> list[list[str]]:
    found = list(with_rate(START, seen))
    assert all(isinstance(p, Prescription) for p in found)
    return [[e.kind for e in p.edits] for p in found if isinstance(p, Prescription)]


def test_a_rate_that_is_hopeless_comes_down_with_the_start_first() -> None:
    both, alone = ["initialise", "scale_learning_rate"], ["initialise"]
    assert kinds(trace(40, torch.optim.Adam, 1e-2)) == [both, alone]
    assert kinds(trace(50, torch.optim.Adam, 1e-3)) == [alone, both]
    assert kinds(trace(30, torch.optim.Adam, 1e-3)) == [alone]
    # AND depth does not bind the rate of a shallow network, or of a normed one
    assert kinds(trace(5, torch.optim.Adam, 1e-2)) == [alone]
    assert kinds(trace(40, torch.optim.Adam, 1e-2, normed=True)) == [alone]


def test_both_say_what_they_change_and_a_refusal_is_handed_on() -> None:
    both, _ = with_rate(START, trace(40, torch.optim.Adam, 1e-2))
    assert isinstance(both, Prescription)
    assert both.changes == (Change.INITIALISATION, Change.OPTIMIZER)
    assert "0.01 -> 0.00075" in both.reason
    refusal = Refusal(remedy="critical-init", finding="", reason="no")
    assert list(with_rate(refusal, trace(40, torch.optim.Adam, 1e-2))) == [refusal]
