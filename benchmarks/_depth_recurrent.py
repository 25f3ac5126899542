"""The adding problem over 500 and 1,000 time steps (Hochreiter and Schmidhuber 1997)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from _depth_subjects import DepthSubject
from torch import Tensor, nn

WIDTH, BATCH = 32, 32
BATCHES, JUDGED_ON, UNSEEN = 300, 8, 16
CELLS: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Adder(nn.Module):
    """A recurrent layer whose last output says a number."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.layer = CELLS[cell](2, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Sums [B] of sequences [B, T, 2]."""
        result: Tensor = self.head(self.layer(x)[0][:, -1])[:, 0]
        return result


def sums(length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers in [0, 1] with a mark at two of them, one in each half, and the sum of those two.

    Who says 1 whatever comes has a mean squared error of 1/6.
    """
    numbers = torch.rand(BATCH, length, generator=generator)
    marks = torch.zeros(BATCH, length)
    rows, half = torch.arange(BATCH), length // 2
    marks[rows, torch.randint(0, half, (BATCH,), generator=generator)] = 1.0
    marks[rows, torch.randint(half, length, (BATCH,), generator=generator)] = 1.0
    return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(dim=1)


def adding(cell: str, length: int, seed: int) -> Any:
    """A recurrent network as PyTorch initialises it, with everything that trains it."""
    generator = torch.Generator().manual_seed(1000 + seed)
    count = BATCHES + JUDGED_ON + UNSEEN
    made = [sums(length, generator) for _ in range(count)]
    batches, val = made[:BATCHES], made[BATCHES : BATCHES + JUDGED_ON]
    unseen = made[BATCHES + JUDGED_ON :]
    torch.manual_seed(seed)
    model = Adder(cell)

    def mean_squared_error(trained: nn.Module) -> float:
        trained.eval()
        with torch.no_grad():
            errors = [(trained(x) - y).square().mean() for x, y in unseen]
        return float(torch.stack(errors).mean())

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return model, batches, val, nn.MSELoss(), optimizer, mean_squared_error


def _entry(cell: str, length: int, budget: str) -> DepthSubject:
    return DepthSubject(
        name=f"adding_{length}_{cell}",
        build=partial(adding, cell, length),
        budget=budget,
        goal="below 0.01 (a guess has 0.167)",
        steps=1000,
    )


SUBJECTS = (
    _entry("lstm", 500, "10 min"),
    _entry("lstm", 1000, "10 min"),
    _entry("rnn", 500, "10 min"),
    _entry("rnn", 1000, "10 min"),
)
