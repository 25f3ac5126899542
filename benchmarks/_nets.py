"""Networks to train in benchmarks: a transformer, a conv net with batch norm, a deep narrow MLP.

All are healthy, so that a watcher has nothing to hurry for, and are fed tiny batches: a step is
short beside the number of parameters, which is the hard case for whatever reads the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCHES = 4
"""Batches made in advance and fed in turn."""


@dataclass(frozen=True)
class Net:
    """A model, batches of inputs and integer targets, and their loss."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    def loss(self, number: int) -> Tensor:
        """The loss on one of the batches."""
        inputs, targets = self.batches[number % len(self.batches)]
        return functional.cross_entropy(self.model(inputs).flatten(0, -2), targets.flatten())


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        inner: Tensor = self.narrow(functional.gelu(self.wide(self.norm2(x))))
        return x + inner


class _Gpt(nn.Module):
    def __init__(self, depth: int, width: int, heads: int, words: int, length: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.short: nn.Module = nn.Identity()
        if stride != 1:
            thin = nn.Conv2d(before, after, 1, stride, bias=False)
            self.short = nn.Sequential(thin, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.short(x))


def gpt(*, small: bool) -> Net:
    """A pre-norm transformer: 10.5 M parameters in 149 tensors; 4 sequences of 64 tokens."""
    depth, width, words, length = (2, 16, 32, 8) if small else (12, 256, 2048, 64)
    draw = torch.Generator().manual_seed(0)
    tokens = [torch.randint(words, (4, length + 1), generator=draw) for _ in range(BATCHES)]
    model = _Gpt(depth, width, 4, words, length)
    return Net(model, [(t[:, :-1].contiguous(), t[:, 1:].contiguous()) for t in tokens])


def conv(*, small: bool) -> Net:
    """A ResNet-18 of width 48: 6.3 M parameters in 62 tensors; 4 pictures of 32 x 32."""
    width, side = (4, 8) if small else (48, 32)
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    before = width
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(_Residual(before, width << stage, stride))
            before = width << stage
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    return Net(model, _classes(4, (3, side, side), 10))


def mlp(*, small: bool) -> Net:
    """100 layers of width 32, orthogonal and tanh: 0.1 M parameters in 200 tensors; 32 rows."""
    layers: list[nn.Module] = []
    for _ in range(6 if small else 100):
        linear = nn.Linear(32, 32)
        nn.init.orthogonal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return Net(nn.Sequential(*layers[:-1]), _classes(32, (32,), 32))


def _classes(rows: int, shape: tuple[int, ...], classes: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(rows, *shape, generator=draw), torch.randint(classes, (rows,), generator=draw))
        for _ in range(BATCHES)
    ]


NETS: dict[str, Callable[..., Net]] = {"gpt": gpt, "conv": conv, "mlp": mlp}
