"""Models and trainings whose arithmetic breaks, each beside one that does the same safely."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from gradmend.zoo.miswired_trainings import FEATURES, descend, samples, truth
from gradmend.zoo.networks import blobs
from gradmend.zoo.specimen import Specimen, specimen
from gradmend.zoo.training import Training, training

CLASSES = 4
WIDTH = 12


def _hidden_root(h: Tensor) -> Tensor:
    return torch.where(h > 0, torch.sqrt(h), 0.1 * h)


def _double_where(h: Tensor) -> Tensor:
    safe = torch.where(h > 0, h, torch.ones_like(h))
    return torch.where(h > 0, torch.sqrt(safe), 0.1 * h)


def _attended(mask: Callable[[int], Tensor]) -> Callable[[Tensor], Tensor]:
    def attend(h: Tensor) -> Tensor:
        scores = h @ h.T / math.sqrt(h.shape[1])
        scores = scores.masked_fill(mask(len(h)), -math.inf)
        return torch.softmax(scores, dim=-1) @ h

    return attend


def _one_row(size: int) -> Tensor:
    return (torch.arange(size) == 3)[:, None].expand(size, size)


def _causal(size: int) -> Tensor:
    return torch.ones(size, size).triu(1).bool()


_OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": torch.relu,
    "root": lambda h: torch.sqrt(h * (h > 0)),
    "power": lambda h: (h * (h > 0)) ** 0.5,
    "rectified_root": lambda h: torch.sqrt(torch.relu(h)),
    "guarded_root": lambda h: torch.sqrt(torch.relu(h) + 1e-6),
    "negative_root": torch.sqrt,
    "hidden_root": _hidden_root,
    "double_where": _double_where,
    "logarithm": lambda h: torch.log(torch.relu(h)),
    "guarded_logarithm": lambda h: torch.log(torch.relu(h) + 1e-6),
    "unit_norm": lambda h: torch.relu(h - 3.0) / torch.relu(h - 3.0).norm(dim=1, keepdim=True),
    "guarded_norm": lambda h: F.normalize(torch.relu(h - 3.0), dim=1),
    "spread": lambda h: (h[:1] * 0 + h.detach() * 0) / (h * 0).std(dim=0),
    "exponential": lambda h: torch.exp(200.0 * h),
    "bounded_exponential": lambda h: torch.exp((200.0 * h).clamp(-20.0, 2.0)),
    "masked_row": _attended(_one_row),
    "causal_mask": _attended(_causal),
}


class _Arithmetic(nn.Module):
    def __init__(self, operation: str) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, WIDTH)
        self.middle = _Operation(operation)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.middle(self.encoder(x)))
        return logits


class _Operation(nn.Module):
    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, h: Tensor) -> Tensor:
        return _OPERATIONS[self.operation](h)


@specimen
def arithmetic(operation: str = "", loss: str = "", half: bool = False) -> Specimen:
    """A classifier with one more operation in the middle, or in its loss.

    Args:
        operation: ``root``, ``power``, ``negative_root``, ``hidden_root``, ``logarithm``,
            ``unit_norm``, ``spread``, ``exponential``, ``masked_row``; safe are ``guarded_root``,
            ``double_where``, ``guarded_logarithm``, ``guarded_norm``, ``bounded_exponential`` and
            ``causal_mask``, and ``rectified_root``, whose rectifier
            stops the infinite slope.
        loss: ``ignored`` (no target counts), ``half_ignored``, ``empty``, ``by_hand`` (the
            logarithm of a softmax that is exactly zero), ``ctc_short``, ``ctc``.
        half: In float16, with weights so large that it overflows.
    """
    model = _Arithmetic(operation)
    batches = blobs(FEATURES, CLASSES, size=16)
    if half:
        with torch.no_grad():
            model.encoder.weight.mul_(3000.0)
            model.head.weight.mul_(100.0)
        model = model.half()
        batches = [(x.half(), y) for x, y in batches]
    return Specimen(model, batches, lambda logits, y: _loss(loss, logits, y))


def _loss(kind: str, logits: Tensor, y: Tensor) -> Tensor:
    if kind == "ignored":
        return F.cross_entropy(logits, torch.full_like(y, -100))
    if kind == "half_ignored":
        return F.cross_entropy(logits, torch.where(y < 2, -100, y))
    if kind == "empty":
        return F.cross_entropy(logits, y, reduction="none")[y > CLASSES].mean()
    if kind == "by_hand":
        return -torch.log(torch.softmax(1000.0 * logits, dim=1)).gather(1, y[:, None]).mean()
    if kind.startswith("ctc"):
        logs = F.log_softmax(logits, dim=-1)[:, None]
        wanted = 20 if kind == "ctc_short" else 6
        target = 1 + torch.arange(wanted)[None] % (CLASSES - 1)
        return F.ctc_loss(logs, target, torch.tensor([len(logs)]), torch.tensor([wanted]))
    return F.cross_entropy(logits.float(), y)


class _Regressor(nn.Module):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.encoder = nn.Linear(FEATURES, WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 1)
        self.broken = False

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.encoder(x))
        if self.fault in _OPERATIONS and self.fault and self.broken:
            h = _OPERATIONS[self.fault](h)
        h = torch.tanh(self.inner(h))
        y: Tensor = self.head(h).squeeze(1)
        return y


@training
def breaking_arithmetic(*, fault: str = "", at: int = 12, once: bool = False) -> Training:
    """A regression with an operation that is safe until step ``at``.

    Args:
        fault: An operation of :func:`arithmetic`; or in the loss: ``root_loss`` (the root of a
            mean square that is zero), ``hidden_loss``, ``log_loss``, ``empty_loss``,
            ``spread_loss``; safe are those with ``guarded``, and ``""``.
        at: First step whose batch breaks it.
        once: Only that one.
    """
    model = _Regressor(fault)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    data = samples()

    def step(number: int) -> None:
        x = next(data)
        y = truth(x)
        broken = number == at if once else number >= at
        model.broken = broken
        output = model(x)
        loss = F.mse_loss(output, y)
        if fault == "root_loss":
            loss = loss + (torch.sqrt(((output - output.detach()) ** 2).mean()) if broken else 0.0)
        elif fault == "guarded_root_loss":
            loss = loss + torch.sqrt(((output - output.detach()) ** 2).mean() + 1e-6)
        elif fault == "hidden_loss":
            error = (output - y).abs() * (0.0 if broken else 1.0)
            loss = loss + torch.where(error > 0, torch.sqrt(error), error).mean()
        elif fault == "log_loss":
            loss = loss - torch.log(torch.sigmoid(output) * (0.0 if broken else 1.0)).mean()
        elif fault == "empty_loss":
            loss = F.mse_loss(output, y, reduction="none")[x[:, 0] > (99.0 if broken else -99.0)]
            loss = loss.mean()
        elif fault == "spread_loss":
            spread = (output * 0.0 if broken else output).std()
            loss = (((output - output.mean()) / spread - y) ** 2).mean()
        descend(optimizer, loss)

    return Training(model, optimizer, step, steps=40)


class _Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        x = x + self.attention(x, x, x, key_padding_mask=words == 0)[0]
        logits: Tensor = self.head(x.mean(dim=1))
        return logits


def _padded(size: int, rows: int) -> tuple[Tensor, Tensor]:
    words = torch.randint(1, 20, (size, 8))
    words[:, 6:] = 0
    words[:rows] = 0
    return words, words[:, 0] % CLASSES


@specimen
def padded_attention(rows: int = 0) -> Specimen:
    """Sentences with padding at their end; the first ``rows`` are nothing but padding."""
    return Specimen(_Padded(), [_padded(16, rows) for _ in range(4)], F.cross_entropy)


@training
def padded_sentences(*, empty_at: int = -1) -> Training:
    """The same in a training; at step ``empty_at`` one sentence is nothing but padding."""
    model = _Padded()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = [_padded(16, int(number == empty_at)) for number in range(40)]

    def step(number: int) -> None:
        words, y = batches[number]
        descend(optimizer, F.cross_entropy(model(words), y))

    return Training(model, optimizer, step, steps=40)


@training
def speech(*, wanted: int = 5, zero_infinity: bool = False) -> Training:
    """A CTC loss on 12 time steps, with targets of ``wanted`` labels from step 10 on."""
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES + 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    data = samples(12 * 4)
    criterion = nn.CTCLoss(zero_infinity=zero_infinity)

    def step(number: int) -> None:
        x = next(data).view(12, 4, FEATURES)
        logs = F.log_softmax(model(x), dim=-1)
        length = wanted if number >= 10 else 5
        target = 1 + torch.arange(length).expand(4, length) % CLASSES
        lengths = torch.full((4,), 12), torch.full((4,), length)
        descend(optimizer, criterion(logs, target, *lengths))

    return Training(model, optimizer, step, steps=30)


@training
def growing_half(*, growth: float = 6.0, dtype: str = "float16") -> Training:
    """A residual stack under autocast whose stream grows by ``growth`` in each block."""
    blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8))
    model = _Stack(blocks, growth)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    data = samples()
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]

    def step(number: int) -> None:
        x = next(data)
        with torch.autocast("cpu", dtype=kind):
            output = model(x)
        descend(optimizer, F.mse_loss(output.float().mean(dim=1), truth(x)))

    return Training(model, optimizer, step, steps=20)


class _Stack(nn.Module):
    def __init__(self, blocks: nn.ModuleList, growth: float) -> None:
        super().__init__()
        self.stem, self.blocks, self.growth = nn.Linear(FEATURES, WIDTH), blocks, growth
        with torch.no_grad():
            for block in blocks:
                assert isinstance(block, nn.Linear)
                nn.init.orthogonal_(block.weight, gain=growth)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.stem(x)
        for block in self.blocks:
            h = block(h)
        return h
