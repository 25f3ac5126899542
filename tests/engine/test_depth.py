"""No depth is too deep: what is done for each layer does not grow with the number of layers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits
from gradmend.engine.examine import examine
from gradmend.engine.measure import Measurer
from gradmend.engine.prescribe import Candidates, prescribe
from gradmend.engine.state import Progress, Snapshot
from gradmend.errors import CannotApply
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.finding import Severity
from gradmend.renderers import html, text

LOSS = nn.CrossEntropyLoss()
FEEDER = Feeder(loss_fn=LOSS)


def plain_net(
    depth: int, act: type[nn.Module] = nn.Sigmoid, width: int = 3
) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), act())]
    batch = torch.randn(4, width), torch.randint(2, (4,))
    return nn.Sequential(*layers, nn.Linear(width, 2)), batch


def convolutions(depth: int) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())]
    batch = torch.randn(2, 2, 4, 4), torch.randint(2, (2,))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 2)), batch


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions are called, Python's and C's: an amount of work that no clock blurs."""
    count = 0

    def counting(frame: object, event: str, arg: object) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(counting)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def everything(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Candidates:
    """Look, judge, prescribe, make and undo every edit, save, put back, write down."""
    optimizer = torch.optim.Adam(model.parameters())
    report = examine(
        Measurer(model=model, batch=batch, feeder=FEEDER, optimizer=optimizer, seconds=0.0)
    )
    candidates = prescribe(report.at_least(Severity.WARNING), report.trace)
    for prescription in {p.edits[0].kind: p for p in candidates.prescriptions}.values():
        bench = Bench(
            model=model, optimizer=optimizer, run_batch=lambda edited: FEEDER.loss(edited, batch)
        )
        with contextlib.suppress(CannotApply):
            apply_edits(bench, prescription.edits)
        bench.undo()
    shot = Snapshot.take(model, optimizer)
    progress = Progress.take(model, optimizer)
    progress.resume(model, optimizer)
    shot.put_back()
    report.to_dict()
    text.render(report, width=80, colour=False)
    html.render(report)
    return candidates


SUBJECTS: dict[str, Callable[[int], tuple[nn.Sequential, tuple[Tensor, Tensor]]]] = {
    "sigmoid": plain_net,
    "relu": lambda depth: plain_net(depth, nn.ReLU),
    "convolutions": convolutions,
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_twice_the_layers_are_twice_the_calls(subject: str) -> None:
    # GIVEN networks of 60, 120 and 240 layers
    everything(*SUBJECTS[subject](20))  # what is done once in a process is done
    counts = [calls_of(lambda d=d: everything(*SUBJECTS[subject](d))) for d in (60, 120, 240)]  # type: ignore[misc]
    # THEN the calls that the second doubling adds are twice those that the first one adds; what
    # is asked for each pair of layers would make them four times as many
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    assert second < 2.3 * first


def test_parameters_that_a_cut_leaves_behind_are_found_in_one_walk() -> None:
    # GIVEN networks whose input no gradient reaches: detached in the middle, data of integers
    class Cut(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.front, _ = plain_net(depth)
            self.back, _ = plain_net(depth, width=2)

        def forward(self, x: Tensor) -> Tensor:
            inner: Tensor = self.back(self.front(x).detach())
            return inner

    _, batch = plain_net(1)
    look(Cut(5), batch, FEEDER)
    counts = [calls_of(lambda d=d: look(Cut(d), batch, FEEDER)) for d in (50, 100, 200)]  # type: ignore[misc]
    # THEN not every layer in front of the cut is tried as the place where the books begin
    assert counts[2] - counts[1] < 2.3 * (counts[1] - counts[0])


def test_a_page_about_a_deep_network_stays_small() -> None:
    # GIVEN a report on 1,500 layers
    model, batch = plain_net(1500)
    optimizer = torch.optim.Adam(model.parameters())
    report = examine(
        Measurer(model=model, batch=batch, feeder=FEEDER, optimizer=optimizer, seconds=0.0)
    )
    # THEN its page and text hold groups of layers and not each of them
    assert len(html.render(report)) < 400_000
    assert len(text.render(report, width=100, colour=False)) < 20_000


@pytest.mark.slow
def test_twenty_thousand_layers() -> None:
    # GIVEN a network of 20,000 layers
    model, batch = plain_net(20_000)
    before = [t.clone() for t in model.parameters()]
    # WHEN everything is done to it, THEN no recursion ends it, and a way of drawing is prescribed
    candidates = everything(model, batch)
    kinds = {edit.kind for p in candidates.prescriptions for edit in p.edits}
    assert {"initialise", "centre_sigmoids", "scale_learning_rate"} <= kinds
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
