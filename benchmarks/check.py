"""How long ``gradmend.check`` takes beside one training step: ``python3 dev.py bench check``.

One process, one thread, warm: each check lies between two plain steps (forward, backward, Adam) of
the same model, and its ratio is to their mean; all by CPU time. ``check`` is everything that a
user's call does: the look, the few rehearsed steps where they are cheap, and all rules. The limit
is one second for a small model, and for the large transformer twice a step and a second.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import gradmend
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look

FEEDER = Feeder(loss_fn=nn.functional.cross_entropy)


@dataclass(frozen=True)
class Subject:
    """A model and a batch for cross entropy."""

    model: nn.Module
    batch: tuple[Tensor, Tensor]

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One plain training step."""
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.batch[0]), self.batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


class _Last(nn.Module):
    def __init__(self, words: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, 2 * width, batch_first=True)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embedding(x))[0][:, -1])
        return logits


class _Encoder(nn.Module):
    def __init__(self, depth: int, width: int, words: int, length: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, max(width // 64, 4), 4 * width, batch_first=True, norm_first=True,
            activation="gelu",
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.layers(self.token(x) + self.place.weight[: x.shape[1]])
        logits: Tensor = self.head(inner)
        return logits.flatten(0, 1)


def _mlp(depth: int) -> Subject:
    layers: list[nn.Module] = [nn.Linear(20, 64), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 3))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return Subject(model, (torch.randn(32, 20), torch.randint(3, (32,))))


def _cnn(convolutions: int, samples: int, side: int) -> Subject:
    blocks = [_Residual(32) for _ in range(convolutions // 2)]
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip
    return Subject(model, (torch.randn(samples, 3, side, side), torch.randint(10, (samples,))))


def _lstm() -> Subject:
    return Subject(_Last(1000, 64, 5), (torch.randint(1000, (16, 60)), torch.randint(5, (16,))))


def _transformer(depth: int, width: int, words: int, samples: int, length: int) -> Subject:
    batch = torch.randint(words, (samples, length)), torch.randint(words, (samples * length,))
    return Subject(_Encoder(depth, width, words, length), batch)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "MLP, 3 layers": lambda: _mlp(3),
    "MLP, 50 layers": lambda: _mlp(50),
    "transformer, 6 layers, width 64, 8 x 32 tokens": lambda: _transformer(6, 64, 1000, 8, 32),
    "LSTM, 60 steps": _lstm,
    "residual CNN, 30 convolutions, 4 images of 16 x 16": lambda: _cnn(30, 4, 16),
    "residual CNN, 30 convolutions, 16 images of 32 x 32": lambda: _cnn(30, 16, 32),
}
LARGE: dict[str, Callable[[], Subject]] = {
    "transformer, 12 layers, width 768, 2 x 128 tokens": lambda: _transformer(
        12, 768, 30_000, 2, 128
    ),
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="of the large model at most 3")
    parser.add_argument("--quick", action="store_true", help="one round, no large model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{os.cpu_count()} cores, one thread; Python {platform.python_version()},"
        f" torch {torch.__version__}{load}. CPU seconds; median (smallest, largest).\n"
    )
    print(
        "| model | parameters | operations | a step | check | check / step | of it the look"
        " | peak memory so far, MB |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    rounds = 1 if arguments.quick else arguments.rounds
    _check(_mlp(3))  # libraries are loaded, kernels read from their cache
    for name, make in SUBJECTS.items():
        row(name, make, rounds)
    for name, make in {} if arguments.quick else LARGE.items():
        row(name, make, min(rounds, 3))


def row(name: str, make: Callable[[], Subject], rounds: int) -> None:
    """One model."""
    torch.manual_seed(0)
    subject = make()
    optimizer = torch.optim.Adam(subject.model.parameters(), lr=1e-5)
    subject.step(optimizer)  # the optimizer's state is made
    before = _timed(lambda: subject.step(optimizer))
    steps, checks, ratios = [before], [], []
    for _ in range(rounds):
        checks.append(_timed(lambda: _check(subject)))
        after = _timed(lambda: subject.step(optimizer))
        ratios.append(2 * checks[-1] / (before + after))
        steps.append(after)
        before = after
    trace = _check(subject).trace
    looks = [_timed(lambda: look(subject.model, subject.batch, FEEDER)) for _ in range(rounds)]
    count = sum(p.numel() for p in subject.model.parameters())
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    print(
        f"| {name} | {count / 1e6:.3g} M | {len(trace.operations)} | {spread(steps)}"
        f" | {spread(checks)} | {spread(ratios)} | {spread(looks)} | {peak:.0f} |",
        flush=True,
    )


def _check(subject: Subject) -> gradmend.Report:
    return gradmend.check(subject.model, subject.batch, nn.functional.cross_entropy)


def spread(values: Sequence[float]) -> str:
    """Median, and the ends."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.2g} ({low:.2g}–{high:.2g})"


def _timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
