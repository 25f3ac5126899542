"""What becomes of parameters that no gradient reaches."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradmend
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.finding import Severity
from gradmend.records.trace import Use


class Branches(nn.Module):
    """An encoder and a head, with a side branch beside them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.encoder, self.side, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.encoder.register_parameter("mask", nn.Parameter(torch.zeros(8)))

    def forward(self, x: Tensor) -> Any:
        hidden = torch.tanh(self.encoder(x))
        if self.how in ("detach", "both"):
            side = self.side(hidden) if self.how == "both" else None
            del side
            return self.head(hidden.detach())
        if self.how == "argmax":
            return self.head(F.one_hot(hidden.argmax(-1), 8).to(x.dtype))
        side = self.side(hidden)
        return (self.head(hidden), side) if self.how == "returned" else self.head(hidden)


class Wrapped(nn.Module):
    """Takes one of several results of a body, as everybody does with a pooler's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Branches("returned")

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)[0]
        return scores


def loss_fn(output: Any, target: Tensor) -> Tensor:
    return F.cross_entropy(output[0] if isinstance(output, tuple) else output, target)


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(16, 8), torch.randint(3, (16,))


def uses(model: nn.Module) -> dict[str, Use | None]:
    trace = look(model, data(), Feeder(loss_fn=loss_fn))
    return {p.name.removeprefix("body."): p.use for p in trace.parameters}


@pytest.mark.parametrize("how", ["detach", "argmax", "both"])
def test_what_the_loss_feels_is_cut_off(how: str) -> None:
    found = uses(Branches(how))
    assert found["encoder.weight"] is found["encoder.bias"] is Use.CUT_OFF
    assert found["head.weight"] is None
    assert found["side.weight"] is (Use.DROPPED if how == "both" else None)


def test_what_nobody_reads_is_dropped() -> None:
    found = uses(Branches("dropped"))
    assert found["side.weight"] is Use.DROPPED
    assert found["encoder.weight"] is None


def test_what_is_read_for_nothing_is_spent() -> None:
    """An index of the best of two keys, where both are taken: sparse attention on short texts."""

    class Chooses(Branches):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.encoder(x))
            chosen = self.side(hidden)[:, :2].topk(2, -1).indices.sort(-1).values
            scores: Tensor = self.head(hidden) + hidden[:, :2].gather(1, chosen).sum(1, True)
            return scores

    assert uses(Chooses(""))["side.weight"] is Use.SPENT


@pytest.mark.parametrize("model", [Branches("returned"), Wrapped()])
def test_one_of_several_results_is_returned(model: nn.Module) -> None:
    assert uses(model)["side.weight"] is Use.RETURNED


def test_a_parameter_that_no_operation_reads_is_unread() -> None:
    assert uses(Branches("returned"))["encoder.mask"] is Use.UNREAD
    assert uses(Branches("detach"))["encoder.mask"] is Use.UNREAD


def test_dropout_does_not_pass_for_an_influence() -> None:
    model = nn.Sequential(nn.Dropout(0.5), Branches("dropped"))
    assert uses(model)["1.side.weight"] is Use.DROPPED


@pytest.mark.parametrize(
    ("how", "severity"),
    [("detach", Severity.ERROR), ("dropped", Severity.WARNING), ("returned", Severity.NOTE)],
)
def test_the_rule_tells_them_apart(how: str, severity: Severity) -> None:
    report = gradmend.check(Branches(how), data(), loss_fn)
    assert report.findings[0].name == "detached-parameters"
    assert report.findings[0].severity is severity
    assert ("side" in report.findings[0].modules) is (how != "detach")


@pytest.mark.parametrize("model", [Branches("returned"), Wrapped()])
def test_a_run_is_silent_about_results_that_nobody_needs(model: nn.Module) -> None:
    """Also where the branch stands in front of parameters that do get a gradient."""
    x, y = data()
    optimizer = torch.optim.Adam(model.parameters())
    with gradmend.watch(model, optimizer, budget="all") as watch:
        for _ in range(30):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    assert watch.report().healthy


def test_a_model_that_sets_the_flag_on_its_input_is_looked_at() -> None:
    """wav2vec 2.0 does, for its frozen first layers: that is an error on what is no leaf."""

    class Flags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x[:, None]
            x.requires_grad = True
            return self.layer(x).squeeze(1)

    report = gradmend.check(Flags(), data(), loss_fn)
    assert report.healthy
    assert report.trace.ledger is not None


def test_books_in_float64_give_way_to_the_models_own_type() -> None:
    """A mask of float32 zeros times float64's lowest number is NaN; the model itself is sound."""

    class Masks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x)
            mask = torch.zeros(8, dtype=torch.float32) * torch.finfo(hidden.dtype).min
            return self.head(torch.softmax(hidden + mask, -1))

    report = gradmend.check(Masks(), data(), loss_fn)
    assert report.healthy
    assert report.trace.run.probe_dtype == "float32"
