"""Post-norm transformers, of torch's own layers and written by hand, on 1,797 real digits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from _depth_subjects import DepthSubject
from sklearn.datasets import load_digits
from torch import Tensor, nn

WIDTH, HEADS, INNER, BATCH = 32, 4, 64, 32
SIDE, CLASSES = 8, 10
TRAINED_ON, JUDGED_ON = 1280, 200


class Rows(nn.Module):
    """Reads an image row by row; ``blocks`` go from [B, 8, WIDTH] to the same."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(SIDE, WIDTH)
        self.place = nn.Parameter(0.1 * torch.randn(1, SIDE, WIDTH))
        self.blocks = blocks
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10] of images [B, 8, 8]."""
        result: Tensor = self.head(self.blocks(self.embed(x) + self.place).mean(dim=1))
        return result


class Block(nn.Module):
    """A post-norm block as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, WIDTH] to the same."""
        seen, _ = self.attention(x, x, x)
        x = self.norm1(x + seen)
        result: Tensor = self.norm2(x + self.feed(x))
        return result


def transformer(depth: int, by_hand: bool, seed: int) -> Any:
    """``depth`` post-norm layers, with everything that trains them."""
    torch.manual_seed(seed)
    if by_hand:
        model = Rows(nn.Sequential(*(Block() for _ in range(depth))))
    else:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, dropout=0.0, batch_first=True)
        model = Rows(nn.TransformerEncoder(layer, depth, enable_nested_tensor=False))
        for weight in model.blocks.parameters():  # torch's stack copies one layer's weights
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)
    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 + seed))
    x = torch.tensor(images, dtype=torch.float32).view(-1, SIDE, SIDE)[order]
    y = torch.tensor(classes)[order]
    x = (x - x.mean()) / x.std()
    batches = [(x[at : at + BATCH], y[at : at + BATCH]) for at in range(0, TRAINED_ON, BATCH)]
    judged = TRAINED_ON + JUDGED_ON
    val, unseen = [(x[TRAINED_ON:judged], y[TRAINED_ON:judged])], (x[judged:], y[judged:])

    def accuracy(trained: nn.Module) -> float:
        trained.eval()
        with torch.no_grad():
            return float((trained(unseen[0]).argmax(1) == unseen[1]).float().mean())

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return model, batches, val, nn.CrossEntropyLoss(), optimizer, accuracy


def _entry(depth: int, by_hand: bool, budget: str) -> DepthSubject:
    return DepthSubject(
        name=f"transformer_{depth}" + ("_by_hand" if by_hand else ""),
        build=partial(transformer, depth, by_hand),
        budget=budget,
        goal="40 %: far above the 10 % of a guess",
    )


SUBJECTS = (
    _entry(50, False, "5 min"),
    _entry(200, False, "10 min"),
    _entry(200, True, "10 min"),
)
