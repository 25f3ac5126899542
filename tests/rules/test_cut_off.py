"""A loss that no trainable parameter led to: the finding says what cut it off."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradmend
from gradmend.errors import BadInput


class Net(nn.Module):
    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.first, self.last, self.fault = nn.Linear(4, 8), nn.Linear(8, 3), fault

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "no_grad":
            with torch.no_grad():
                return self.last(self.first(x).relu())
        out: Tensor = self.last(self.first(x).relu())
        if self.fault == "argmax":
            return out.argmax(1).float()
        return out.detach() if self.fault == "detach" else out


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(32, 4, generator=generator), torch.arange(32) % 3


@pytest.mark.parametrize(
    ("fault", "name", "word"),
    [
        ("no_grad", "no-grad-forward", "no_grad"),
        ("detach", "detached-parameters", "detach()"),
        ("argmax", "detached-parameters", "argmax"),
    ],
)
def test_what_cuts_off_the_whole_model_is_named(fault: str, name: str, word: str) -> None:
    model = Net(fault)
    loss_fn = F.cross_entropy if fault != "argmax" else lambda o, y: (o - y).square().mean()
    report = gradmend.check(model, batch(), loss_fn)
    assert report.findings[0].name == name
    assert word in report.findings[0].summary
    assert report.findings[0].modules[0] == "last"
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_counts_is_cut_off_too() -> None:
    report = gradmend.check(Net(), batch(), lambda o, y: (o.argmax(1) == y).sum())
    assert report.findings[0].name == "detached-parameters"


def test_a_repair_still_refuses_what_cannot_be_trained() -> None:
    model = Net("detach")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        fixed = gradmend.fix(model, [batch()] * 4, F.cross_entropy, optimizer=optimizer)
    except BadInput as error:
        assert "gradient" in str(error)
    else:
        assert not fixed.prescription
