"""What one watched model puts out and another reads is no data: a critic is fed so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradmend


def names(report: object) -> set[str]:
    return {finding.name for finding in report.findings}  # type: ignore[attr-defined]


class Broken(nn.Module):
    """A maker whose samples are NaN, or finite."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.layer, self.broken = nn.Linear(3, 4), broken

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out.relu().log() if self.broken else out


@pytest.mark.parametrize("broken", [True, False])
def test_a_critic_does_not_blame_the_batch_for_what_the_maker_made(broken: bool) -> None:
    torch.manual_seed(0)
    maker, critic = Broken(broken), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (maker, critic)]
    with gradmend.watch([maker, critic], optimizers) as seen:
        for _ in range(12):
            made = maker(torch.randn(16, 3))
            optimizers[1].zero_grad()
            (critic(made.detach()) - critic(torch.randn(16, 4))).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            (-critic(made)).mean().backward()
            optimizers[0].step()
    found = names(seen.report())
    assert "non-finite-batch" not in found
    assert ("logarithm-of-zero" in found) == broken


def test_a_batch_is_to_blame_where_it_is_data_also_in_the_second_micro_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradmend.watch(model, optimizer) as seen:
        for number in range(12):
            optimizer.zero_grad()
            for part in range(2):
                x = torch.randn(16, 4)
                if number == 6 and part == 1:
                    x[0, 0] = float("nan")
                model(x).square().mean().backward()
            optimizer.step()
    assert "non-finite-batch" in names(seen.report())
