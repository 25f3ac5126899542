"""What the zoo of other people's architectures is made of: a model, learnable batches, a loss.

Weights are the authors' own initialisation, data is made up but can be learnt: words follow one
another by a fixed rule with some noise, pictures and sounds carry the frequency of their class.
Nothing is loaded from anywhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 4
WORDS = 64
"""Words in use; those below ``FIRST_WORD`` are left to the special ones."""
FIRST_WORD = 24


@dataclass(frozen=True)
class Subject:
    """A model and how it is trained."""

    model: nn.Module
    batch: Callable[[int], Any]
    """The batch of a step: ``(x, y)`` or a mapping."""
    loss_fn: Callable[[Any, Any], Tensor]
    rate: float = 1e-3
    note: str = ""

    def loss(self, batch: Any) -> Tensor:
        """As everybody writes it."""
        if isinstance(batch, dict):
            return self.loss_fn(self.model(**batch), batch)
        x, y = batch
        return self.loss_fn(self.model(*x) if isinstance(x, tuple) else self.model(x), y)


Build = Callable[[], Subject]
Source = Callable[[], Iterator[tuple[str, Build]]]


class Headed(nn.Module):
    """A body without a head, with a mean over its positions and a linear layer on it."""

    def __init__(self, body: nn.Module, width: int, outputs: int = CLASSES) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, outputs)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        scores: Tensor = self.head(pooled(self.body(*args, **kwargs)))
        return scores


def pooled(output: Any) -> Tensor:
    """[batch, width] of whatever a body puts out."""
    for name in ("last_hidden_state", "logits", "sample"):
        if getattr(output, name, None) is not None:
            output = getattr(output, name)
            break
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    if output.dim() == 4:  # a map of features
        return output.mean((2, 3))
    return output.flatten(1, -2).mean(1) if output.dim() > 2 else output


def generator(number: int) -> torch.Generator:
    """Of one batch."""
    return torch.Generator().manual_seed(1000 + number)


def classes(number: int, rows: int) -> Tensor:
    """A label for each row."""
    return torch.randint(CLASSES, (rows,), generator=generator(number))


def waves(number: int, rows: int, shape: tuple[int, ...], noise: float = 0.5) -> Tensor:
    """A wave along every axis: the class is its frequency, a row has its phase; [rows, *shape]."""
    draw = generator(number)
    label = torch.randint(CLASSES, (rows,), generator=draw)
    phase = 2 * math.pi * torch.rand(rows, generator=draw)
    angle = torch.zeros(rows, *shape[1:]) + phase.view(-1, *[1] * (len(shape) - 1))
    for axis, length in enumerate(shape[1:]):
        turns = 2 + 2 * ((label + axis) % CLASSES)
        place = torch.arange(length) / length * 2 * math.pi
        view = [1] * len(shape)
        view[axis + 1] = length
        angle = angle + turns.view(-1, *[1] * (len(shape) - 1)) * place.view(view)
    picture = math.sqrt(2) * torch.sin(angle)[:, None].expand(rows, *shape)
    picture = picture + noise * torch.randn(rows, *shape, generator=draw)
    return picture / math.sqrt(1 + noise**2)


def words(number: int, rows: int, length: int, vocabulary: int = 256) -> Tensor:
    """[rows, length]: each word follows from the one before, one in ten from none."""
    top = min(WORDS + FIRST_WORD, vocabulary) - FIRST_WORD
    follows = torch.randperm(top, generator=torch.Generator().manual_seed(7))
    draw = generator(number)
    line = [torch.randint(top, (rows,), generator=draw)]
    for _ in range(length - 1):
        free = torch.randint(top, (rows,), generator=draw)
        line.append(torch.where(torch.rand(rows, generator=draw) < 0.1, free, follows[line[-1]]))
    return torch.stack(line, 1) + FIRST_WORD


def features(number: int, rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows of a table and a class that depends on them: which quadrant two sums lie in."""
    draw = generator(number)
    x = torch.randn(rows, width, generator=draw)
    ways = torch.randn(width, 2, generator=torch.Generator().manual_seed(7))
    sides = (x @ ways > 0).long()
    return x, 2 * sides[:, 0] + sides[:, 1]


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Of class scores in the last axis, whatever stands before it."""
    scores = output
    for name in ("logits", "sample"):
        scores = getattr(scores, name, scores)
    while not isinstance(scores, Tensor):  # with auxiliary heads: the first is the main one
        scores = next(iter(scores.values())) if isinstance(scores, dict) else scores[0]
    if scores.dim() == 2:
        return functional.cross_entropy(scores, target)
    return functional.cross_entropy(scores.flatten(0, -2), target.flatten())


def next_word(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy of the scores at each position against the next word."""
    scores = getattr(output, "logits", output)
    return functional.cross_entropy(scores[:, :-1].flatten(0, 1), target[:, 1:].flatten())


def pictures(model: nn.Module, size: int = 64, rows: int = 16, **more: Any) -> Subject:
    """Classification of waves in the plane."""
    return Subject(
        model,
        lambda n: (waves(n, rows, (3, size, size)), classes(n, rows)),
        cross_entropy,
        **more,
    )


def let_torchvision_in() -> None:
    """Make ``torchvision`` importable where its compiled part does not fit this torch.

    Of that part only detection needs anything.
    """
    try:
        import torchvision
    except (RuntimeError, AttributeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(op + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        import torchvision  # noqa: F401


_kept: list[Any] = []
