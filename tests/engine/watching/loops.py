"""Training loops as people write them, each returning what it trained."""

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

Watching = Callable[[Any, Any], AbstractContextManager[Any]]
"""Given models and optimizers, the context to train in."""
Loop = Callable[[Watching], list[nn.Module]]

STEPS = 24


def data(step: int, width: int = 8, batch: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(batch, width, generator=generator)
    return x, (x.sum(dim=1) > 0).long()


def net(act: type[nn.Module] = nn.ReLU, drop: float = 0.1) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 16), act(), nn.Dropout(drop), nn.Linear(16, 16), act(), nn.Linear(16, 3)
    )


def plain(optimizer: Callable[..., Optimizer], **options: Any) -> Loop:
    def loop(watching: Watching) -> list[nn.Module]:
        model = net()
        opt = optimizer(model.parameters(), **options)
        with watching(model, opt):
            for step in range(STEPS):
                x, y = data(step)
                opt.zero_grad()
                F.cross_entropy(model(x), y).backward()
                opt.step()
        return [model]

    return loop


def lbfgs(watching: Watching) -> list[nn.Module]:
    model = net(nn.Tanh, 0.0)
    opt = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    x, y = data(0, batch=64)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    with watching(model, opt):
        for _ in range(6):
            opt.step(closure)
    return [model]


def accumulation_and_clipping(watching: Watching) -> list[nn.Module]:
    model = net()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)
    with watching(model, opt):
        for step in range(STEPS):
            opt.zero_grad(set_to_none=False)
            for part in range(3):
                x, y = data(3 * step + part)
                (F.cross_entropy(model(x), y) / 3).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            nn.utils.clip_grad_value_(model.parameters(), 0.1)
            opt.step()
            schedule.step()
    return [model]


def scaler(watching: Watching, *, unscale: bool = True, scale: float = 2.0**14) -> list[nn.Module]:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    amp = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    with watching(model, opt):
        for step in range(STEPS):
            x, y = data(step)
            opt.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x).float(), y)
            amp.scale(loss).backward()
            if step == 5:
                next(model.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
            if unscale:
                amp.unscale_(opt)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            amp.step(opt)
            amp.update()
    return [model]


class Blocks(nn.Module):
    """Checkpointed blocks, with dropout and an in-place activation inside."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Dropout(0.2))
            for _ in range(3)
        )
        self.last = nn.Linear(16, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=self.reentrant)
        return self.last(x)


def checkpointed(reentrant: bool) -> Loop:
    def loop(watching: Watching) -> list[nn.Module]:
        model = Blocks(reentrant)
        return train(model, torch.optim.Adam(model.parameters(), 1e-2), watching)

    return loop


def train(model: nn.Module, opt: Optimizer, watching: Watching) -> list[nn.Module]:
    with watching(model, opt):
        for step in range(STEPS):
            x, y = data(step)
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
    return [model]


def convolutions(watching: Watching) -> list[nn.Module]:
    model = nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    with watching(model, opt):
        for step in range(STEPS):
            x, y = data(step)
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
            if step % 6 == 5:  # an evaluation between steps
                model.eval()
                with torch.no_grad():
                    model(x)
                model.train()
    return [model]


class Text(nn.Module):
    """Sparse embedding, LSTM, attention, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(ids))
        return self.head(self.block(x))


def text(watching: Watching) -> list[nn.Module]:
    model = Text()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with watching(model, opt):
        for step in range(10):
            ids = torch.randint(0, 32, (4, 9), generator=torch.Generator().manual_seed(step))
            opt.zero_grad()
            logits = model(ids[:, :-1])
            F.cross_entropy(logits.reshape(-1, 32), ids[:, 1:].reshape(-1)).backward()
            opt.step()
    return [model]


def sparse(watching: Watching) -> list[nn.Module]:
    table, head = nn.Embedding(50, 8, sparse=True), nn.Linear(8, 3)
    opts = [
        torch.optim.SparseAdam(table.parameters(), lr=1e-2),
        torch.optim.SGD(head.parameters(), lr=0.1),
    ]
    with watching([table, head], opts):
        for step in range(STEPS):
            generator = torch.Generator().manual_seed(step)
            ids = torch.randint(0, 50, (16,), generator=generator)
            for opt in opts:
                opt.zero_grad()
            F.cross_entropy(head(table(ids)), ids % 3).backward()
            for opt in opts:
                opt.step()
    return [table, head]


def gan(watching: Watching) -> list[nn.Module]:
    G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
    D = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    og = torch.optim.Adam(G.parameters(), 1e-3, betas=(0.5, 0.999))
    od = torch.optim.Adam(D.parameters(), 1e-3, betas=(0.5, 0.999))
    one, none = torch.ones(16, 1), torch.zeros(16, 1)
    with watching([G, D], [og, od]):
        for step in range(STEPS):
            real, _ = data(step)
            fake = G(torch.randn(16, 4))
            D.zero_grad()
            F.binary_cross_entropy_with_logits(D(real), one).backward()
            F.binary_cross_entropy_with_logits(D(fake.detach()), none).backward()
            od.step()
            G.zero_grad()
            F.binary_cross_entropy_with_logits(D(fake), one).backward()
            og.step()
    return [G, D]


def low_precision(watching: Watching) -> list[nn.Module]:
    model = net(drop=0.0).to(torch.bfloat16)
    opt = torch.optim.SGD(model.parameters(), lr=1e-2)
    with watching(model, opt):
        for step in range(STEPS):
            x, y = data(step)
            opt.zero_grad()
            F.cross_entropy(model(x.bfloat16()).float(), y).backward()
            opt.step()
    return [model]


class Complex(nn.Module):
    """Complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight).abs()


def complex_weights(watching: Watching) -> list[nn.Module]:
    model = Complex()
    return train(model, torch.optim.Adam(model.parameters(), 1e-2), watching)


def changing_cast(watching: Watching) -> list[nn.Module]:
    """Frozen and thawed layers, a new group, a copy of the model, a new optimizer."""
    model = net()
    model[0].requires_grad_(False)
    opt: Optimizer = torch.optim.Adam(model[3:].parameters(), 1e-2)
    average = copy.deepcopy(model)
    with watching(model, None):
        for step in range(STEPS):
            x, y = data(step)
            if step == 6:
                model[0].requires_grad_(True)
                opt.add_param_group({"params": list(model[0].parameters()), "lr": 1e-3})
            if step == 12:
                opt = torch.optim.SGD(model.parameters(), lr=0.05)
                copy.deepcopy(model)
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
            with torch.no_grad():
                for a, p in zip(average.parameters(), model.parameters(), strict=True):
                    a.lerp_(p, 0.1)
    return [model, average]


def shared(watching: Watching) -> list[nn.Module]:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(8, 3))
    return train(model, torch.optim.RMSprop(model.parameters(), lr=1e-3), watching)


def compiled(watching: Watching) -> list[nn.Module]:
    model = net(drop=0.0)
    fast = torch.compile(model, backend="aot_eager")
    return [train(fast, torch.optim.Adam(model.parameters(), 1e-2), watching)[0], model]


def non_finite(watching: Watching) -> list[nn.Module]:
    """The weights become NaN in the middle, and training goes on."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching(model, opt):
        for step in range(STEPS):
            x, y = data(step)
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            if step == 8:
                loss = loss * float("inf")
            loss.backward()
            opt.step()
    return [model]


LOOPS: dict[str, Loop] = {
    "sgd": plain(torch.optim.SGD, lr=0.1),
    "adam-foreach": plain(torch.optim.Adam, lr=1e-2, foreach=True),
    "adamw-fused": plain(torch.optim.AdamW, lr=1e-2, fused=True, weight_decay=0.1),
    "adam-single": plain(torch.optim.Adam, lr=1e-2, foreach=False),
    "adagrad": plain(torch.optim.Adagrad, lr=1e-2),
    "lbfgs": lbfgs,
    "accumulation": accumulation_and_clipping,
    "scaler": scaler,
    "scaler-alone": lambda w: scaler(w, unscale=False),
    "checkpoint": checkpointed(False),
    "checkpoint-reentrant": checkpointed(True),
    "convolutions": convolutions,
    "text": text,
    "sparse": sparse,
    "gan": gan,
    "bfloat16": low_precision,
    "complex": complex_weights,
    "changing-cast": changing_cast,
    "shared": shared,
    "non-finite": non_finite,
}


def run(loop: Loop, watching: Watching, seed: int = 0) -> tuple[list[Tensor], list[Any]]:
    """Train; returns every parameter and buffer, and the states of all generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    models = loop(watching)
    tensors = [t.detach().clone() for m in models for t in (*m.parameters(), *m.buffers())]
    return tensors, [torch.get_rng_state(), random.getstate(), np.random.get_state()[1]]


@contextlib.contextmanager
def unwatched(models: Any, optimizers: Any) -> Iterator[None]:
    del models, optimizers
    yield
