"""What rang on healthy architectures of other people, and must not: one small twin of each."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradmend
from gradmend.records.report import Report
from gradmend.records.request import Measurement
from gradmend.theory.stream import norms_on_the_stream


def warned(report: Report) -> list[str]:
    return [f.name for f in report.findings if f.severity.value != "note"]


def checked(model: nn.Module, *, width: int = 16, rows: int = 32) -> Report:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw)
    y = (x[:, 0] > 0).long()
    return gradmend.check(model, (x, y), F.cross_entropy)


class ZeroBranch(nn.Module):
    """A residual branch whose last norm begins at zero, and a ReLU behind it in a gate."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)
        self.squeeze, self.open, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        nn.init.zeros_(self.norm.weight)
        nn.init.constant_(self.squeeze.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.first(x))
        gate = torch.sigmoid(self.open(torch.relu(self.squeeze(branch))))
        scores: Tensor = self.head(x + branch * gate)
        return scores


def test_units_fed_with_zeros_are_at_the_kink_and_not_dead() -> None:
    torch.manual_seed(0)
    assert "dead-relu" not in warned(checked(ZeroBranch(0.0)))
    assert "dead-relu" in warned(checked(ZeroBranch(-5.0)))


class LayerScale(nn.Module):
    """A constant token that hears of the sample through a branch, nearly closed or not a branch."""

    def __init__(self, scale: float, *, learned: bool) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.token = nn.Parameter(torch.ones(16))
        self.scale = nn.Parameter(torch.full((16,), scale), requires_grad=learned)

    def forward(self, x: Tensor) -> Tensor:
        values = self.stem(x)
        token = self.token + self.scale * (values + torch.tanh(self.mix(self.token + values)))
        scores: Tensor = self.head(token)
        return scores


def test_a_signal_that_comes_back_within_some_steps_is_none_that_collapsed() -> None:
    torch.manual_seed(0)
    report = checked(LayerScale(1e-5, learned=True))
    assert report.trace.signal_lost is not None
    assert report.trace.signal_lost > 4
    assert report.trace.answer(Measurement.FEW_STEPS) is not None
    assert "collapsed-signal" not in warned(report)
    assert "collapsed-signal" in warned(checked(LayerScale(1e-9, learned=False)))


class Gate(nn.Module):
    """A sigmoid far out on its flats, that multiplies or that feeds."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.logits, self.other, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        nn.init.normal_(self.logits.weight, std=20.0)

    def forward(self, x: Tensor) -> Tensor:
        z = self.logits(x)
        if self.how == "masked":
            z = torch.full_like(z, -torch.inf).scatter(1, z.topk(2).indices, 0.3 * x[:, :2])
        y = torch.sigmoid(z)
        scores: Tensor = self.head(y * self.other(x) if self.how == "gate" else y)
        return scores


@pytest.mark.parametrize(("how", "rings"), [("gate", False), ("masked", False), ("feeds", True)])
def test_a_sigmoid_that_chooses_may_be_flat(how: str, rings: bool) -> None:
    torch.manual_seed(0)
    assert ("saturated-activation" in warned(checked(Gate(how)))) is rings


class OverTime(nn.Module):
    """A head that is called at every time step, the last of which is silent."""

    def __init__(self, *, silent: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.head, self.silent = nn.Linear(16, 16), nn.Linear(16, 2), silent

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        steps = [self.head(hidden * float(t not in self.silent)) for t in range(3)]
        return torch.stack(steps).sum(0)


def test_of_a_head_called_over_time_the_best_call_counts() -> None:
    torch.manual_seed(0)
    assert "collapsed-signal" not in warned(checked(OverTime(silent=(2,))))
    lost = checked(OverTime(silent=(0, 1, 2))).trace.signal_lost
    assert lost is not None
    assert lost > 4


class Block(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.norm, self.layer = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        if self.first:
            return x + torch.tanh(self.layer(self.norm(x)))
        return self.norm(x + torch.tanh(self.layer(x)))


@pytest.mark.parametrize("first", [True, False])
def test_a_norm_with_a_skip_past_it_is_not_on_the_stream(first: bool) -> None:
    """A stream so faint that the norms in the branches carry all of the gradient: MobileViTv2."""
    torch.manual_seed(0)
    stem = nn.Linear(16, 16)
    nn.init.normal_(stem.weight, std=1e-6)
    nn.init.zeros_(stem.bias)
    blocks = [Block(first) for _ in range(8)]
    for block in blocks:
        nn.init.normal_(block.layer.weight, std=1e-6)
        nn.init.zeros_(block.layer.bias)
    report = checked(nn.Sequential(stem, *blocks, nn.Linear(16, 2)))
    assert (len(norms_on_the_stream(report.trace)) >= 7) is not first
