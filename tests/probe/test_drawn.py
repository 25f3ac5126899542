"""Weights that nobody has trained are told from those that somebody has."""

import pytest
import torch
from torch import nn

from gradmend.probe.drawn import is_as_drawn

LAYERS = {
    "linear": lambda: nn.Linear(64, 32),
    "narrow": lambda: nn.Linear(8, 8),
    "wide": lambda: nn.Linear(300, 200),
    "conv": lambda: nn.Conv2d(3, 16, 3),
    "conv1d": lambda: nn.Conv1d(16, 32, 5),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_torch_draws_is_as_drawn(kind: str, dtype: torch.dtype) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        assert is_as_drawn(LAYERS[kind]().to(dtype).weight)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_few_steps_leave_the_bound(kind: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (layer.weight * torch.randn_like(layer.weight)).sum().backward()
        optimizer.step()
    assert is_as_drawn(layer.weight) is False


@pytest.mark.parametrize("draw", [
    nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.orthogonal_, nn.init.zeros_,
    lambda weight: nn.init.normal_(weight, std=(1 / 192) ** 0.5), nn.init.ones_,
    lambda weight: nn.init.constant_(weight, 1 / 8),
    lambda weight: nn.init.constant_(weight, float("nan")),
])  # fmt: skip
def test_what_is_drawn_otherwise_is_not(draw) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 256)
    draw(layer.weight)
    assert is_as_drawn(layer.weight) is False


def test_where_too_little_is_known_nothing_is_said() -> None:
    assert is_as_drawn(torch.rand(100)) is None
    assert is_as_drawn(torch.zeros(4, 0)) is None
    assert is_as_drawn(nn.Linear(32, 1).weight) is None
    assert is_as_drawn(torch.zeros(10, 10, dtype=torch.int64)) is None
    assert is_as_drawn(nn.Linear(64, 32, device="meta").weight) is None
