"""Trainings that have to remember the first of many time steps, and cannot."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from subjects import Subject
from torch import Tensor, nn

SYMBOLS, WIDTH = 4, 24


class Recall(nn.Module):
    """Says at the end of a sequence what its first step was."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(WIDTH, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, SYMBOLS] of [B, T, SYMBOLS]."""
        result: Tensor = self.head(self.layer(x)[0][:, -1])
        return result


class CellLoop(nn.Module):
    """The same with a cell in a loop of its own."""

    def __init__(self, cell: nn.RNNCell | nn.GRUCell, detach: bool = False) -> None:
        super().__init__()
        self.cell, self.head, self.detach = cell, nn.Linear(WIDTH, SYMBOLS), detach

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, SYMBOLS] of [B, T, SYMBOLS]."""
        h = x.new_zeros(len(x), WIDTH)
        for step in x.unbind(1):
            h = self.cell(step, h.detach() if self.detach else h)
        result: Tensor = self.head(h)
        return result


def sequences(length: int, seed: int, count: int = 24) -> list[tuple[Tensor, Tensor]]:
    """Batches of (a symbol and then nothing, the symbol): nothing else to tell samples by."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        y = torch.randint(SYMBOLS, (32,), generator=generator)
        x = torch.zeros(32, length, SYMBOLS)
        x[:, 0] = F.one_hot(y, SYMBOLS).float()
        batches.append((x, y))
    return batches


def subject(
    make: Callable[[], nn.Module],
    length: int,
    rate: float = 3e-3,
    spoil: Callable[[nn.Module], None] | None = None,
) -> Callable[[int], Subject]:
    def build(seed: int) -> Subject:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = make()
            if spoil:
                spoil(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        return Subject(model, sequences(length, seed), F.cross_entropy, optimizer)

    return build


def rnn(**options: object) -> Callable[[], nn.Module]:
    return lambda: Recall(nn.RNN(SYMBOLS, WIDTH, batch_first=True, **options))  # type: ignore[arg-type]


def forgets(model: nn.Module) -> None:
    layer = model.get_submodule("layer")
    layer.get_parameter("bias_hh_l0")[WIDTH : 2 * WIDTH] = -3.0


def echoes(model: nn.Module) -> None:
    model.get_submodule("layer").get_parameter("weight_hh_l0").mul_(4.0)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "tanh over 60 steps": subject(rnn(), 60),
    "GRU over 80 steps": subject(lambda: Recall(nn.GRU(SYMBOLS, WIDTH, batch_first=True)), 80),
    "LSTM over 60 steps": subject(lambda: Recall(nn.LSTM(SYMBOLS, WIDTH, batch_first=True)), 60),
    "LSTM that forgets": subject(
        lambda: Recall(nn.LSTM(SYMBOLS, WIDTH, batch_first=True)), 40, spoil=forgets
    ),
    "ReLU over 60 steps": subject(rnn(nonlinearity="relu"), 60),
    "ReLU that echoes": subject(rnn(nonlinearity="relu"), 40, spoil=echoes),
    "state detached at every step": subject(
        lambda: CellLoop(nn.GRUCell(SYMBOLS, WIDTH), detach=True), 20
    ),
    "tanh cell in a loop": subject(lambda: CellLoop(nn.RNNCell(SYMBOLS, WIDTH)), 40),
}
