"""What the trainings learn from: made on the spot, learnable within a hundred steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[], tuple[Tensor, Tensor]]

VOCABULARY = 20


def source() -> torch.Generator:
    """A stream of numbers of its own, from the seed that is set."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, ()).item()))


def clusters(shape: tuple[int, ...], classes: int, batch: int = 32) -> Draw:
    """Noisy points about a centre for each class."""
    draw = source()
    centres = torch.randn(classes, *shape, generator=draw)

    def batches() -> tuple[Tensor, Tensor]:
        y = torch.randint(classes, (batch,), generator=draw)
        x = 0.8 * centres[y] + 0.6 * torch.randn(batch, *shape, generator=draw)
        return x, y

    return batches


def sides(features: int, batch: int = 32) -> Draw:
    """Two classes as 0.0 and 1.0, parted by a bent line, [batch, 1]."""
    draw = source()
    slope = torch.randn(features, generator=draw)

    def batches() -> tuple[Tensor, Tensor]:
        x = torch.randn(batch, features, generator=draw)
        y = x @ slope + 0.5 * x[:, 0] * x[:, 1] > 0
        return x, y.float()[:, None]

    return batches


def surface(features: int, batch: int = 32) -> Draw:
    """A bent function with a little noise and unit spread, [batch, 1]."""
    draw = source()
    slope = torch.randn(features, generator=draw) / features**0.5

    def batches() -> tuple[Tensor, Tensor]:
        x = torch.randn(batch, features, generator=draw)
        y = x @ slope + 0.5 * torch.sin(2 * x[:, 0]) + 0.1 * torch.randn(batch, generator=draw)
        return x, y[:, None]

    return batches


def themselves(shape: tuple[int, ...], batch: int = 32, rank: int = 4) -> Draw:
    """Points near a few directions; the target is the point."""
    draw = source()
    basis = torch.randn(rank, *shape, generator=draw)

    def batches() -> tuple[Tensor, Tensor]:
        code = torch.randn(batch, rank, generator=draw)
        x = torch.einsum("br,r...->b...", code, basis) / rank**0.5
        x = x + 0.1 * torch.randn(x.shape, generator=draw)
        return x, x

    return batches


def signals(features: int, length: int, classes: int, batch: int = 32) -> Draw:
    """Sequences [batch, length, features] that show their class early, and noise after."""
    draw = source()
    centres = 2.0 * torch.randn(classes, features, generator=draw)

    def batches() -> tuple[Tensor, Tensor]:
        y = torch.randint(classes, (batch,), generator=draw)
        x = 0.5 * torch.randn(batch, length, features, generator=draw)
        x[:, : length // 3] += centres[y][:, None]
        return x, y

    return batches


def sentences(length: int, classes: int, batch: int = 32, binary: bool = False) -> Draw:
    """Tokens [batch, length], half of them of their class's own."""
    draw = source()
    own = VOCABULARY // classes

    def batches() -> tuple[Tensor, Tensor]:
        y = torch.randint(classes, (batch,), generator=draw)
        x = torch.randint(VOCABULARY, (batch, length), generator=draw)
        typical = y[:, None] * own + torch.randint(own, (batch, length), generator=draw)
        x = torch.where(torch.rand(batch, length, generator=draw) < 0.5, typical, x)
        return x, y.float()[:, None] if binary else y

    return batches


def text(length: int, batch: int = 16) -> Draw:
    """Tokens and the tokens that follow them, by a table with a little noise."""
    draw = source()
    table = torch.randperm(VOCABULARY, generator=draw)

    def batches() -> tuple[Tensor, Tensor]:
        tokens = [torch.randint(VOCABULARY, (batch,), generator=draw)]
        for _ in range(length):
            stray = torch.randint(VOCABULARY, (batch,), generator=draw)
            kept = torch.rand(batch, generator=draw) < 0.85
            tokens.append(torch.where(kept, table[tokens[-1]], stray))
        x = torch.stack(tokens, dim=1)
        return x[:, :-1], x[:, 1:]

    return batches


def noise_and(real: Draw, size: int, batch: int = 32) -> Draw:
    """A maker's noise, and real samples."""
    draw = source()

    def batches() -> tuple[Tensor, Tensor]:
        return torch.randn(batch, size, generator=draw), real()[0]

    return batches
