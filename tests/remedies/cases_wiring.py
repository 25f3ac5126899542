"""Trainings whose wiring is at fault: at the loss, at the output, in what is registered."""

from collections.abc import Callable
from typing import Any

import torch
from cases_data import cut, drawn, perceptron
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam


class Functional(nn.Module):
    """Ends in a function of its own."""

    def __init__(self, end: Callable[[Tensor], Tensor], outputs: int) -> None:
        super().__init__()
        self.body = nn.Linear(12, 32)
        self.head = nn.Linear(32, outputs)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(F.relu(self.body(x))))


class Decoder(nn.Module):
    """Puts out a softmax at each of three steps, and all of them together."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(12, 32)
        self.head = nn.Linear(32, 5)

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return self.head(h).softmax(dim=1), h

    def forward(self, x: Tensor) -> Tensor:
        h, found = x.new_zeros(len(x), 32), []
        for _ in range(3):
            probabilities, h = self.step(x, h)
            found.append(probabilities)
        return torch.stack(found, dim=2)


def at_every_step(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y[:, None].expand(-1, output.shape[2]))


class Listed(nn.Module):
    """Keeps its layers in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 8)]
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        result: Tensor = self.head(x)
        return result


class Detached(nn.Module):
    """Cuts its own graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(F.relu(self.body(x)).detach())
        return result


class Lengths(nn.Module):
    """Takes the norm of what is all zeros for an empty sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 32, bias=False), nn.Linear(33, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        size = torch.sqrt(h.square().sum(dim=1, keepdim=True))
        result: Tensor = self.head(torch.cat([h, size], dim=1))
        return result


def emptied(seed: int) -> Subject:
    """Some samples are all zeros, as padding is."""
    made = subject(seeded(Lengths), F.cross_entropy)(seed)
    for x, _ in made.batches:
        x[::8] = 0.0
    return made


def ending(*tail: nn.Module, outputs: int = 5) -> Callable[[int], nn.Module]:
    return lambda seed: nn.Sequential(*perceptron(seed, outputs).children(), *tail)


def seeded(build: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def made(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build()

    return made


def subject(
    model: Callable[[int], nn.Module],
    loss_fn: Callable[..., Tensor],
    target: str = "classes",
    change: Callable[[Tensor], Any] = lambda y: y,
    rate: float | None = None,
) -> Callable[[int], Subject]:
    def build(seed: int) -> Subject:
        x, numbers, classes, _ = drawn(seed)
        y = {"classes": classes, "numbers": numbers, "ones": (numbers > 0).float()}[target]
        made = model(seed)
        known = made.parameters()
        optimizer = Adam(known, 1e-3) if rate is None else SGD(known, rate)
        return Subject(made, cut(x, change(y)), loss_fn, optimizer)

    return build


def negated(output: Tensor, y: Tensor) -> Tensor:
    return -F.cross_entropy(output, y)


def by_hand(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().mean()  # without the warning that mse_loss gives


def clamped(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).clamp(-1, 1).square().mean()


def softmax_in_the_loss(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.softmax(dim=1), y)


LOGITS = F.binary_cross_entropy_with_logits

SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "softmax twice": subject(ending(nn.Softmax(dim=1), outputs=10), F.cross_entropy),
    "softmax twice, functional": subject(
        seeded(lambda: Functional(lambda z: z.softmax(1), 5)), F.cross_entropy
    ),
    "softmax twice, at every step": subject(seeded(Decoder), at_every_step),
    "softmax in the loss": subject(ending(), softmax_in_the_loss),
    "no logarithm": subject(ending(nn.Softmax(dim=1)), F.nll_loss),
    "logits to nll_loss": subject(ending(), F.nll_loss),
    "sigmoid twice": subject(ending(nn.Sigmoid(), outputs=1), LOGITS, "ones"),
    "sigmoid twice, functional": subject(
        seeded(lambda: Functional(torch.sigmoid, 1)), LOGITS, "ones"
    ),
    "softmax over one": subject(
        ending(nn.Softmax(dim=1), outputs=1), F.binary_cross_entropy, "ones"
    ),
    "softmax over samples": subject(ending(nn.LogSoftmax(dim=0)), F.nll_loss),
    "rectified regression": subject(
        ending(nn.ReLU(), outputs=1), F.mse_loss, "numbers", lambda y: y - 8
    ),
    "sigmoid and far targets": subject(
        ending(nn.Sigmoid(), outputs=1), F.mse_loss, "numbers", lambda y: 40 * y
    ),
    "bounded logits": subject(ending(nn.Tanh()), F.cross_entropy),
    "broadcast": subject(ending(outputs=1), by_hand, "numbers", lambda y: y[:, 0]),
    "negated": subject(ending(), negated),
    "summed": subject(ending(outputs=1), nn.MSELoss(reduction="sum"), "numbers", rate=0.05),
    "clamped": subject(ending(outputs=1), clamped, "numbers", lambda y: y + 30),
    "layers in a list": subject(seeded(Listed), F.cross_entropy),
    "detached": subject(seeded(Detached), F.cross_entropy),
    "norm of zeros": emptied,
}
