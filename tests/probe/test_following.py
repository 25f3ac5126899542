"""The gradient through time that a look keeps, against plain autograd on a loop of cells."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradmend
from gradmend.probe.following import following
from gradmend.records.recurrence import MOST_POINTS, thinned
from gradmend.records.trace import Run, Trace
from gradmend.renderers.run_figures.through_time import through_time_of

WIDTH, BATCH, FEATURES = 5, 3, 4


class Reader(nn.Module):
    """A recurrent layer or cell, of which the loss reads the last step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.RNNBase):
            output: Tensor = self.layer(x)[0]
            return output[:, -1]
        state: Any = None
        for step in x.unbind(1):
            state = self.layer(step, state)
        last: Tensor = state[0] if isinstance(state, tuple) else state
        return last


class OwnCell(nn.Module):
    """A cell as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = nn.Linear(FEATURES, WIDTH)
        self.keeps = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        h = x.new_zeros(len(x), WIDTH) if h is None else h
        return torch.tanh(self.reads(x) + self.keeps(h))


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def naive(model: Reader, x: Tensor, y: Tensor) -> list[float]:
    """log10 |dL/dh_t| of every step, by autograd on the same weights in double precision."""
    layer = model.layer
    fused = isinstance(layer, nn.RNNBase)
    kinds: dict[str, type[nn.RNNCellBase]] = {
        "RNN_TANH": nn.RNNCell, "LSTM": nn.LSTMCell, "GRU": nn.GRUCell
    }  # fmt: skip
    cell: Any = layer
    if fused:
        cell = kinds[layer.mode](FEATURES, WIDTH)
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    cell = cell.double()
    states: list[tuple[Tensor, ...]] = []
    state: Any = None
    for step in x.double().unbind(1):
        state = cell(step, state)
        states.append(state if isinstance(state, tuple) else (state,))
    loss = loss_of(states[-1][0], y.double())
    # one pass for all: a gradient of each state by itself would be quadratic in the steps
    wanted = [part for parts in states for part in parts]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    norms, at = [], 0
    for parts in states:
        mine = [g for g in grads[at : at + len(parts)] if g is not None]
        at += len(parts)
        norms.append(math.sqrt(math.fsum(float(g.square().sum()) for g in mine)))
    return [math.log10(norm) if norm else -math.inf for norm in norms]


LAYERS = {
    "LSTM": lambda: nn.LSTM(FEATURES, WIDTH, batch_first=True),
    "GRU": lambda: nn.GRU(FEATURES, WIDTH, batch_first=True),
    "RNN": lambda: nn.RNN(FEATURES, WIDTH, batch_first=True),
    "LSTMCell": lambda: nn.LSTMCell(FEATURES, WIDTH),
    "GRUCell": lambda: nn.GRUCell(FEATURES, WIDTH),
}


@pytest.mark.parametrize("length", [20, 1000])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_curve_is_kept(kind: str, length: int) -> None:
    # given weights that neither forget at once nor keep everything
    torch.manual_seed(0)
    model = Reader(LAYERS[kind]())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "weight_hh" in name:
                weight.copy_(torch.cat([torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
                                        for _ in range(len(weight) // WIDTH)]))  # fmt: skip
            if "bias_ih" in name and "LSTM" in kind:
                weight[WIDTH : 2 * WIDTH] = 5.0
    x, y = 0.3 * torch.randn(BATCH, length, FEATURES), torch.randn(BATCH, WIDTH)
    expected = naive(model, x, y)
    # when one pass is followed
    with following(model.double()) as followed:
        loss = loss_of(model(x.double()), y.double())
    loss.backward()
    (record,) = followed.records()
    assert followed.notes == [] and record.log10_grads == record.log10_jacobian == ()
    # then the kept points are those of the naive computation, the first and the last among them
    kept = [step for step, _ in record.log10_curve]
    assert kept[0] == 1 and kept[-1] == length == record.steps
    assert len(kept) == min(length, MOST_POINTS)
    found = np.array([value for _, value in record.log10_curve])
    wanted = np.array(expected)[np.array(kept) - 1]
    known = np.isfinite(wanted) & (wanted > -150)  # below, the naive one's squares underflow
    assert known.sum() > 12
    np.testing.assert_allclose(found[known], wanted[known], atol=1e-8)
    # and the figure draws them
    figure = through_time_of(Trace(run=Run(model="Reader"), recurrences=(record,)))
    assert figure is not None and len(figure.series) == 1
    assert figure.at.tolist() == kept
    assert np.array_equal(figure.series[0].values, found)


def test_a_look_tells_the_curve() -> None:
    # given a layer whose first gate closes it, so that nothing at all arrives at the beginning
    model = Reader(nn.RNN(FEATURES, WIDTH, nonlinearity="relu", batch_first=True))
    x, y = torch.randn(BATCH, 12, FEATURES), torch.randn(BATCH, WIDTH)
    with torch.no_grad():
        model.layer.weight_hh_l0.zero_()  # type: ignore[union-attr, operator]
    report = gradmend.check(model, (x, y), loss_of)
    (record,) = report.trace.recurrences
    assert [value for _, value in record.log10_curve[:-1]] == [-math.inf] * 11
    # then it is valid JSON, and drawn
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    (there,) = told["trace"]["recurrences"]
    assert there["log10_curve"][:2] == [[1, None], [2, None]]
    assert there["log10_curve"][-1] == list(record.log10_curve[-1])
    figure = through_time_of(report.trace)
    assert figure is not None and figure.at.tolist() == list(range(1, 13))


def test_a_cell_written_by_hand_is_drawn_by_call() -> None:
    # given a cell that no library knows
    torch.manual_seed(0)
    model = Reader(OwnCell())
    x, y = torch.randn(BATCH, 20, FEATURES), torch.randn(BATCH, WIDTH)
    cell: Any = model.layer
    outputs, h = [], None
    for step in x.unbind(1):
        before = cell.reads(step) + (kept := cell.keeps(torch.zeros(BATCH, WIDTH) if h is None
                                                        else h))  # fmt: skip
        outputs.append(kept)
        h = torch.tanh(before)
    assert h is not None
    grads = torch.autograd.grad(loss_of(h, y), outputs)
    report = gradmend.check(model, (x, y), loss_of)
    # then what the recurrent layer puts out at each call is drawn; the first, of zeros that no
    # input reaches, is not on the gradient's way
    figure = through_time_of(report.trace)
    assert figure is not None and len(figure.at) == 19
    (keeps,) = [each for each in figure.series if each.layer == "layer.keeps"]
    expected = [float(g.double().norm().log10()) for g in grads[1:]]
    known = np.array(expected) > -30  # below, floats of the naive one underflow
    np.testing.assert_allclose(keeps.values[known], np.array(expected)[known], atol=1e-3)
    assert "by call" in keeps.name and "of a call" in figure.panels[keeps.panel].label


def test_without_recurrence_there_is_no_curve() -> None:
    report = gradmend.check(nn.Linear(FEATURES, WIDTH), (torch.randn(3, 4), torch.randn(3, 5)),
                            loss_of)  # fmt: skip
    assert report.trace.recurrences == () and through_time_of(report.trace) is None


@pytest.mark.parametrize("length", [0, 1, 2, 199, 200, 201, 399, 10_000])
def test_thinning_keeps_the_ends_and_is_even(length: int) -> None:
    logs = [float(at) for at in range(length)]
    kept = thinned(logs)
    assert len(kept) == min(length, MOST_POINTS)
    assert all(value == step - 1 for step, value in kept)
    steps = [step for step, _ in kept]
    if length:
        assert steps[0] == 1 and steps[-1] == length
    gaps = np.diff(steps)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
