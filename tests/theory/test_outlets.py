"""Where an edit can take hold of a model's last operations."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradmend
from gradmend.records.trace import Trace
from gradmend.theory.outlets import SOFTMAX, outlet
from gradmend.theory.targets import before_the_loss


class Parts(nn.Module):
    """Two heads, whose outputs are put together in some way."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        a, b = self.head(h), self.other(h)
        if self.end == "stacked":
            return torch.stack([a.softmax(1), b.softmax(1)], dim=2)
        if self.end == "rearranged":
            return torch.cat([a.softmax(1).unsqueeze(2), b.softmax(1).unsqueeze(2)], 2).contiguous()
        if self.end == "mixed":
            return torch.stack([a.softmax(1), b], dim=2)
        if self.end == "read by more":
            p = torch.stack([a.softmax(1), b.softmax(1)], dim=2)
            return p * 2
        return torch.stack([a, b], dim=2)


def looked(model: nn.Module, loss: str = "outside") -> Trace:
    torch.manual_seed(0)
    x, y = torch.randn(32, 6), torch.randint(0, 4, (32,))
    if loss == "inside":
        return gradmend.check(model, (x, y), lambda out, _: out, steps=0).trace
    both = y[:, None].expand(-1, 2)
    return gradmend.check(model, (x, both), F.cross_entropy, steps=0).trace


@pytest.mark.parametrize(
    ("end", "behind"),
    [("stacked", ""), ("rearranged", ""), ("mixed", None), ("read by more", None)],
)
def test_pieces_of_one_kind_make_the_output_of_whatever_joins_them(
    end: str, behind: str | None
) -> None:
    found = outlet(looked(Parts(end)), SOFTMAX)
    assert found is not None and not found.in_loss
    assert found.behind == behind and found.module is None


class WithLoss(nn.Module):
    """Returns its loss, as language models do."""

    def __init__(self, *, capped: bool) -> None:
        super().__init__()
        self.body, self.head, self.capped = nn.Linear(6, 16), nn.Linear(16, 4), capped

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        z = self.head(torch.tanh(self.body(x)))
        z = 30.0 * torch.tanh(z / 30.0) if self.capped else z.view(-1, 4)
        return F.cross_entropy(z, torch.arange(len(z)) % 4)


@pytest.mark.parametrize("capped", [False, True])
def test_a_loss_inside_of_the_model_stands_not_between_its_last_layer_and_the_loss(
    capped: bool,
) -> None:
    between = [op.name for op in before_the_loss(looked(WithLoss(capped=capped), "inside"))]
    assert ("tanh" in between) is capped
    assert not {"log_softmax", "nll_loss", "cross_entropy"} & set(between)
