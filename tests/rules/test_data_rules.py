"""Rules over data and loss on what they are handed: unit cases without a training."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from histories import history, run
from torch import nn
from torch.nn import functional as F

import gradmend
from gradmend.probe.loss_calls import hearing, values_of
from gradmend.records.finding import Severity
from gradmend.records.history import Event, History
from gradmend.records.loss_call import LossCall, Values
from gradmend.registry import Rule, find


def over(name: str, of: History) -> list[Any]:
    rule = find(name)
    assert isinstance(rule, Rule)
    return list(rule.over(of))


def heard(call: LossCall, step: int = 0, **more: Any) -> Event:
    return Event(step=step, kind="loss-call", where=call.function, facts=call.to_facts() | more)


def target(**changes: Any) -> Values:
    base: dict[str, Any] = {
        "shape": (32, 1), "dtype": "float32", "mean": 0.0, "std": 1.0, "smallest": -3.0,
        "largest": 3.0, "low": -2.5, "high": 2.5, "spread_share": 1.0,
    }  # fmt: skip
    return Values(**(base | changes))


def test_facts_of_a_call_survive_the_way_through_an_event() -> None:
    call = LossCall(function="mse_loss", prediction=target(mean=2.0), target=target())
    assert LossCall.of(call.to_facts()) == call
    assert LossCall.of({}).target.shape == ()


@pytest.mark.parametrize("bound_before", [True, False])
def test_a_loss_is_heard_however_it_is_called(bound_before: bool) -> None:
    early, z = F.mse_loss, torch.zeros(4, 1, requires_grad=True)
    original = torch._C._nn.mse_loss
    calls: list[LossCall] = []
    with hearing(calls):
        (early if bound_before else nn.MSELoss())(z, torch.ones(4, 1))
        F.mse_loss(z.detach(), torch.ones(4, 1))  # an evaluation
    assert [c.function for c in calls] == ["mse_loss"]
    assert calls[0].target.constant
    assert torch._C._nn.mse_loss is original


def test_a_loss_can_be_scripted_while_it_is_heard() -> None:
    with hearing([]), warnings.catch_warnings(action="ignore"):
        assert float(torch.jit.script(nn.MSELoss())(torch.ones(3), torch.zeros(3))) == 1.0


def test_values_know_probabilities_and_labels() -> None:
    assert values_of(torch.randn(8, 3).softmax(1)).distribution
    assert values_of(torch.randn(8, 3).log_softmax(1)).log_distribution
    hot = values_of(F.one_hot(torch.arange(8) % 3, 3).float())
    assert hot.one_hot and hot.whole and hot.distinct == 2
    labels = values_of(torch.tensor([1, 1, -100, 1]), ignored=-100)
    assert labels.constant and labels.commonest == 1.0
    assert values_of(torch.tensor([torch.nan, 1.0])).non_finite == 1


@pytest.mark.parametrize(
    ("call", "fires"),
    [
        (LossCall(function="mse_loss", prediction=target(std=0.1), target=target(mean=1e5)), True),
        (
            LossCall(function="mse_loss", prediction=target(mean=1e5), target=target(mean=1e5)),
            False,
        ),
        (
            LossCall(function="mse_loss", prediction=target(std=0.1), target=target(mean=22.0)),
            False,
        ),
        (LossCall(function="cross_entropy", target=target(mean=1e5)), False),
    ],
)
def test_unscaled_targets_need_a_run_that_broke(call: LossCall, fires: bool) -> None:
    broken = Event(step=3, kind="non-finite", facts={"direction": "loss"})
    said = over("unscaled-target", history(run([1.0, 2.0]), events=[heard(call), broken]))
    assert bool(said) is fires
    assert over("unscaled-target", history(run([1.0, 2.0]), events=[heard(call)])) == []


def test_a_batch_of_nan_is_blamed_only_if_it_came_first() -> None:
    bad = {"data": [{"what": "input 0", "shape": [4, 2], "bad": 1}]}
    first = Event(step=5, kind="non-finite", facts={"direction": "forward"} | bad)
    before = Event(step=2, kind="non-finite", facts={"direction": "forward"})
    table = run(np.ones(20), log10_norm=np.nan)
    assert over("non-finite-batch", history(table, events=[first]))
    assert not over("non-finite-batch", history(table, events=[before, first]))


def test_a_difference_that_is_nan_convicts_the_targets() -> None:
    facts = {"direction": "loss", "loss": "nan", "replayed": True}
    table = run(np.ones(20))
    sub = Event(step=5, kind="non-finite", facts=facts | {"operation": "mean <- pow <- sub <- mm"})
    log = Event(step=5, kind="non-finite", facts=facts | {"operation": "mean <- log <- sub <- mm"})
    assert over("non-finite-batch", history(table, events=[sub]))
    assert not over("non-finite-batch", history(table, events=[log]))


def test_reduced_or_weighted_labels_may_stand_for_none() -> None:
    wide = target(smallest=-1.0, largest=1.0)
    for more, count in (({}, 1), ({"reduction": "none"}, 0), ({"weighted": True}, 0)):
        call = LossCall(function="binary_cross_entropy_with_logits", target=wide, **more)
        said = over("loss-unfit-for-target", history(run([1.0]), events=[heard(call)]))
        assert len(said) == count
    assert said == [] or said[0].severity is Severity.ERROR


def test_nan_in_the_data_is_a_finding_of_a_check_and_no_refusal() -> None:
    x = torch.randn(16, 4)
    x[1, 2] = torch.nan
    report = gradmend.check(nn.Linear(4, 1), (x, torch.randn(16, 1)), F.mse_loss)
    assert report.findings[0].name == "non-finite-batch"


@pytest.mark.parametrize(
    "name",
    ["unscaled-input", "unscaled-target", "constant-target", "non-finite-batch", "outlier-batch",
     "signalless-labels", "loss-unfit-for-target", "output-range-unfit-for-target",
     "undivided-accumulation"],
)  # fmt: skip
def test_nothing_known_is_nothing_said(name: str) -> None:
    empty = [Event(step=0, kind=kind) for kind in ("input", "loss-call", "non-finite")]
    assert over(name, History()) == []
    assert over(name, history(run([1.0]), events=empty)) == []


class Reader(nn.Module):
    """A recurrent layer that reads the input as it comes, or scaled inside."""

    def __init__(self, divisor: float = 1.0) -> None:
        super().__init__()
        self.divisor = divisor
        self.rnn = nn.GRU(3, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.rnn(x / self.divisor)[0][:, -1])
        return out


@pytest.mark.parametrize(
    ("scale", "divisor", "fires"), [(300.0, 1.0, True), (1.0, 1.0, False), (300.0, 300.0, False)]
)
def test_a_recurrent_layer_is_the_first_to_take_the_scale_of_its_input(
    scale: float, divisor: float, *, fires: bool
) -> None:
    torch.manual_seed(0)
    x, y = scale * torch.randn(16, 6, 3), torch.randn(16, 1)
    report = gradmend.check(Reader(divisor), (x, y), F.mse_loss)
    assert any(f.name == "unscaled-input" for f in report.findings) is fires


@pytest.mark.parametrize(("rate", "fires"), [(1e-2, True), (10.0, False)])
def test_two_sigmoids_are_named_where_the_rehearsed_loss_stays_that_of_a_guess(
    rate: float, *, fires: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid())
    model.append(nn.Linear(8, 1))
    x = torch.randn(64, 4)
    y = (x[:, :1] > 0).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    loss_fn = F.binary_cross_entropy_with_logits
    # Without the run's own optimizer nobody can say that it is stuck.
    assert "attenuating-activation" not in {
        f.name for f in gradmend.check(model, (x, y), loss_fn, steps=50).findings
    }
    report = gradmend.check(model, (x, y), loss_fn, optimizer=optimizer, steps=50)
    assert any(f.name == "attenuating-activation" for f in report.findings) is fires
