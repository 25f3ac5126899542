"""Trainings whose depth, residual branches or attention are at fault."""

from collections.abc import Callable

import torch
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer


class Block(nn.Module):
    """A block of one's own, its activation called as a function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


class Rectified(nn.Module):
    """Layers in a list, ReLU called as a function."""

    def __init__(self, depth: int = 16, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Linear(16, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for layer in self.layers:
            x = F.relu(layer(x))
        result: Tensor = self.head(x)
        return result


class Bent(Rectified):
    """The same with a tanh, which no skip in front of it makes an identity."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for layer in self.layers:
            x = torch.tanh(layer(x))
        result: Tensor = self.head(x)
        return result


class Growing(nn.Module):
    """A residual block whose branch is as large as its stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.up, self.down):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(F.relu(self.up(x)))
        return result


class Attending(nn.Module):
    """A layer of attention by hand, with its norm in front."""

    def __init__(self, width: int, heads: int = 1, scaled: bool = True, packed: bool = False):
        super().__init__()
        self.norm, self.heads, self.scaled = nn.LayerNorm(width), heads, scaled
        if packed:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        h = self.norm(x)
        parts = self.qkv(h).chunk(3, -1) if hasattr(self, "qkv") else (
            self.q(h), self.k(h), self.v(h)
        )  # fmt: skip
        q, k, v = (p.view(n, t, self.heads, -1).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(-2, -1)
        if self.scaled:
            scores = scores / q.shape[-1] ** 0.5
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width)
        result: Tensor = x + self.out(seen)
        return result


class Sentences(nn.Module):
    """Vectors through layers over time, read out as their mean."""

    def __init__(self, width: int, *layers: nn.Module) -> None:
        super().__init__()
        self.embed, self.layers = nn.Linear(8, width), nn.ModuleList(layers)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.head(x.mean(1))
        return result


def plain(depth: int = 16, width: int = 24, act: type[nn.Module] = nn.Tanh) -> nn.Module:
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Linear(width if at else 16, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def convolutional(depth: int = 12, width: int = 6) -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, width, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 4))


def blocks(kind: type[nn.Module], depth: int = 16, width: int = 24) -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, width), *(kind(width) for _ in range(depth)), nn.Linear(width, 4)
    )


def post_norm(layers: int = 10, width: int = 16) -> nn.Module:
    return Sentences(width, *(
        nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True)
        for _ in range(layers)
    ))  # fmt: skip


def one_hot(width: int = 32, factor: float = 20.0) -> nn.Module:
    """Torch's attention with queries and keys far too large."""
    layer = nn.TransformerEncoderLayer(width, 2, width, 0.0, batch_first=True, norm_first=True)
    with torch.no_grad():
        layer.self_attn.in_proj_weight[: 2 * width] *= factor
    return Sentences(width, layer)


def drawn(seed: int, time: bool, batches: int = 12, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Batches of four classes; of sequences the largest of four sums over time."""
    generator = torch.Generator().manual_seed(2000 + seed)
    shape = (batches * size, 6, 8) if time else (batches * size, 16)
    x = torch.randn(shape, generator=generator)
    if time:
        y = (x[:, :, :4] * (1 + x[:, :, 4:5])).sum(1).argmax(1)
    else:
        y = torch.tanh(x @ (torch.randn(16, 4, generator=generator) * 0.4)).argmax(1)
    return list(zip(x.split(size), y.split(size), strict=True))


def subject(
    build: Callable[[], nn.Module],
    time: bool = False,
    make: Callable[..., Optimizer] = Adam,
    rate: float = 1e-3,
) -> Callable[[int], Subject]:
    def fresh(seed: int) -> Subject:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build()
        return Subject(model, drawn(seed, time), F.cross_entropy, make(model.parameters(), lr=rate))

    return fresh


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "deep tanh": subject(plain),
    "deep convolutional": subject(convolutional),
    "blocks of one's own": subject(lambda: blocks(Block)),
    "rectified by a function": subject(Rectified),
    "bent by a function": subject(Bent),
    "growing stream": subject(lambda: blocks(Growing), make=SGD, rate=1e-2),
    "deep post-norm": subject(post_norm, time=True, rate=2e-2),
    "attention without a scale": subject(
        lambda: Sentences(192, Attending(192, scaled=False)), time=True
    ),
    "packed attention without a scale": subject(
        lambda: Sentences(192, Attending(192, scaled=False, packed=True)), time=True
    ),
    "one-hot attention": subject(one_hot, time=True),
}
