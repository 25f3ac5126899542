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
from gradmend.theory.depth_rate import ends, rate_edits, rate_factor, with_rate

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
    both = ["initialise", "scale_learning_rate", "scale_layer_rates"]
    alone = ["initialise"]
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


@pytest.mark.parametrize(
    ("optimizer", "rate", "batch", "row", "outer"),
    [
        (torch.optim.Adam, 1e-3, 8, 3e-4, 1e-3),  # Adam's own default for the ends
        (torch.optim.AdamW, 1e-2, 8, 3e-4, 1e-3),  # whatever it was
        (torch.optim.Adam, 1e-3, 512, 3e-4 * 8**0.5, 1e-3 * 8**0.5),
        (torch.optim.SGD, 0.1, 8, 0.01, 0.1),  # others: what they had
    ],
)
def test_the_ends_of_the_row_keep_an_ordinary_rate(
    optimizer: type[torch.optim.Optimizer], rate: float, batch: int, row: float, outer: float
) -> None:
    seen = trace(100, optimizer, rate)
    seen = replace(seen, run=replace(seen.run, batch_size=batch))
    factor = rate_factor(seen)
    assert factor is not None
    _, back = rate_edits(seen, factor)
    assert rate * factor == pytest.approx(row)
    assert back.targets == ("0.weight", "0.bias", "198.weight", "198.bias")
    assert rate * factor * float(str(back.args["factor"])) == pytest.approx(outer)


def test_ends_that_would_get_no_more_are_left_with_the_row() -> None:
    seen = trace(100, torch.optim.Adam, 1e-3)
    assert [edit.kind for edit in rate_edits(seen, 0.9)] == ["scale_learning_rate"]


class Forked(nn.Module):
    """Two inputs layers, a row, two heads; one head has the weight of a layer in the row."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.row = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head, self.tied = nn.Linear(4, 3), nn.Linear(4, 4, bias=False)
        self.tied.weight = self.row.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.row(torch.tanh(self.left(x) * self.right(x))))
        return torch.cat([self.head(h), self.tied(h)], 1)


def test_every_map_that_reads_data_or_answers_is_an_end_but_for_what_the_row_shares() -> None:
    batch = (torch.randn(8, 4), torch.randint(3, (8,)))
    seen = look(Forked(), batch, Feeder(loss_fn=F.cross_entropy))
    assert set(ends(seen)) == {
        "left.weight", "left.bias", "right.weight", "right.bias", "head.weight", "head.bias",
    }  # fmt: skip


def test_without_a_row_between_them_there_are_no_ends() -> None:
    batch = (torch.randn(8, 4), torch.randint(3, (8,)))
    for model in (nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))):
        assert ends(look(model, batch, Feeder(loss_fn=F.cross_entropy))) == ()
