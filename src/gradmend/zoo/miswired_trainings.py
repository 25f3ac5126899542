"""Trainings whose loop, loss, optimizer or data is wired wrongly, and healthy ones beside them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from gradmend.zoo.training import Training, training

FEATURES = 8
BATCH = 16


def own_generator(stream: int = 0) -> torch.Generator:
    """One of the training's own streams of numbers, from the seed that it is built with."""
    return torch.Generator().manual_seed((torch.initial_seed() * 1009 + stream) % (1 << 62))


def samples(batch: int = BATCH, features: int = FEATURES, stream: int = 0) -> Iterator[Tensor]:
    """Endless standard normal batches, each of shape [batch, features]."""
    generator = own_generator(stream)
    while True:
        yield torch.randn(batch, features, generator=generator)


def mlp(outputs: int = 1, width: int = 16) -> nn.Sequential:
    """Three linear layers with ReLUs between them."""
    return nn.Sequential(
        nn.Linear(FEATURES, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    """One step of an ordinary loop."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def truth(x: Tensor) -> Tensor:
    """What regressions are to learn, shape [N]."""
    return x[:, 0] - 0.5 * x[:, 1] + torch.sin(2 * x[:, 2])


@training
def miswired_loop(*, fault: str = "") -> Training:
    """A regression in a loop with one mistake, or with something that is none.

    Args:
        fault: ``not_cleared``, ``cleared_every_fourth``, ``clip_late``, ``clip_scaled``, ``reset``,
            ``redrawn``; healthy are ``accumulation``, ``closure``, ``clip``, ``norm_logged_late``,
            ``clip_unscaled``, ``scaler``, ``clamped_weights``, ``unit_norm``, ``averaged``.
    """
    model = mlp()
    first = model[0]
    assert isinstance(first, nn.Linear)
    data = samples()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    average = {name: value.clone() for name, value in model.state_dict().items()}
    draw = own_generator(stream=1)
    optimizer: Optimizer
    if fault == "closure":
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    scaled = fault in ("clip_scaled", "clip_unscaled", "scaler")
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10)

    def loss_of(x: Tensor) -> Tensor:
        return functional.mse_loss(model(x).squeeze(1), truth(x))

    def tamper(number: int) -> None:
        if fault == "reset":
            model.load_state_dict(start)
        elif fault == "redrawn":
            with torch.no_grad():
                for weight in model.parameters():
                    weight.normal_(std=0.2, generator=draw)
        elif fault == "clamped_weights":
            with torch.no_grad():
                for weight in model.parameters():
                    weight.clamp_(-0.3, 0.3)
        elif fault == "unit_norm":
            with torch.no_grad():
                first.weight.div_(first.weight.norm(dim=1, keepdim=True))
        elif fault == "averaged":
            now = model.state_dict()
            for name, value in now.items():
                average[name].lerp_(value, 0.1)
            if number % 10 == 9:  # judged with the averaged weights, then put back
                kept = {name: value.clone() for name, value in now.items()}
                model.load_state_dict(average)
                with torch.no_grad():
                    loss_of(next(data))
                model.load_state_dict(kept)

    def step(number: int) -> None:
        if fault == "closure":

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(x)
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            x = next(data)
            optimizer.step(closure)  # type: ignore[no-untyped-call]
            return
        if fault != "not_cleared" and (fault != "cleared_every_fourth" or number % 4 == 0):
            optimizer.zero_grad()
        for x in islice(data, 4 if fault == "accumulation" else 1):
            loss = loss_of(x) / (4 if fault == "accumulation" else 1)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if fault == "clip_unscaled":
            scaler.unscale_(optimizer)
        if fault in ("clip", "clip_scaled", "clip_unscaled"):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        if fault in ("clip_late", "norm_logged_late"):
            limit = 1.0 if fault == "clip_late" else float("inf")
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        tamper(number)

    return Training(model, optimizer, step, steps=80)


class _ListOfLayers(nn.Module):
    """Keeps its middle layers in a Python list, where nothing registers them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, 16)
        self.hidden = [nn.Linear(16, 16), nn.Linear(16, 16)]
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        y: Tensor = self.head(x)
        return y


@training
def optimizer_groups(*, fault: str = "", labels: str = "true") -> Training:
    """A regression whose optimizer holds what it should, or not.

    Args:
        fault: ``missing`` (the first layers), ``stale`` (another model's), ``stale_head`` (the
            head was replaced), ``frozen`` (all but the head), ``python_list`` (layers that no
            module registers); on purpose are ``head_only`` and ``thawing`` (layer after layer).
        labels: ``true``, or ``random``: nothing can be learned, so the loss does not fall.
    """
    model = _ListOfLayers() if fault == "python_list" else mlp()
    held = [*model.parameters()]
    if fault == "head_only":  # a backbone that somebody has trained
        with torch.no_grad():
            for parameter in held[:-2]:
                parameter.mul_(1.25)
    reference = copy.deepcopy(model)  # what is to be learned: another head on the same features
    with torch.no_grad():
        [*reference.parameters()][-2].normal_()
    if fault in ("missing", "head_only"):
        held = held[-2:]
    elif fault == "stale":
        held = [*mlp().parameters()]
    elif fault == "stale_head":
        assert isinstance(model, nn.Sequential)
        model[4] = nn.Linear(16, 1)
    elif fault in ("frozen", "thawing"):
        for parameter in held[:-2]:
            parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(held, lr=0.05)
    data, noise = samples(64), own_generator(stream=1)

    def step(number: int) -> None:
        if fault == "thawing" and number in (20, 40):
            for parameter in held[4 - number // 10 : 6 - number // 10]:
                parameter.requires_grad_(True)
        x = next(data)
        with torch.no_grad():
            y = reference(x).squeeze(1)
        if labels == "random":
            y = torch.randn(len(x), generator=noise)
        model.zero_grad()
        functional.mse_loss(model(x).squeeze(1), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps=80)


@training
def two_players() -> Training:
    """A generator and a discriminator that step in turn, as in every GAN tutorial."""
    generator_net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, FEATURES))
    critic = nn.Sequential(nn.Linear(FEATURES, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    opt_g = torch.optim.Adam(generator_net.parameters(), lr=2e-3, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999))
    data, latent = samples(), samples(features=4, stream=1)
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)
    loss = functional.binary_cross_entropy_with_logits

    def step(number: int) -> None:
        real, fake = next(data) + 2.0, generator_net(next(latent))
        descend(opt_d, loss(critic(real), ones) + loss(critic(fake.detach()), zeros))
        descend(opt_g, loss(critic(fake), ones))

    return Training([generator_net, critic], [opt_g, opt_d], step, steps=60)


@training
def teacher_and_student() -> Training:
    """A student drawn to a teacher that follows it as a running mean, in evaluation mode."""
    student = nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)
    )
    teacher = nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)
    )
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02)
    data = samples()

    def step(number: int) -> None:
        x = next(data)
        with torch.no_grad():
            wanted = teacher(x)
        descend(optimizer, functional.mse_loss(student(x + 0.1 * torch.flip(x, dims=(0,))), wanted))
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.01)

    return Training([student, teacher], optimizer, step, steps=60)


@training
def modes(
    *, fault: str = "", p: float = 0.2, batch: int = BATCH, last_batch_only: bool = False
) -> Training:
    """A network with batch norm and dropout.

    Args:
        fault: ``eval`` (validated at step 5, and left there); on purpose are ``frozen_norms`` and
            ``eval_between`` (a validation every tenth step).
        p: Dropout probability.
        batch: Samples of a batch.
        last_batch_only: Every tenth batch alone is that small.
    """
    model = nn.Sequential(
        nn.Linear(FEATURES, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(p),
        nn.Linear(16, 1),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    small, usual = samples(batch, stream=1), samples(BATCH if last_batch_only else batch)

    def step(number: int) -> None:
        if number == 0 and fault == "frozen_norms":
            model[1].eval()
        if (number == 5 and fault == "eval") or (fault == "eval_between" and number % 10 == 9):
            model.eval()
            with torch.no_grad():
                model(next(usual))
            if fault == "eval_between":
                model.train()
        x = next(small if last_batch_only and number % 10 == 9 else usual)
        descend(optimizer, functional.mse_loss(model(x).squeeze(1), truth(x)))

    return Training(model, optimizer, step, steps=60)


@training
def inputs(*, kind: str = "") -> Training:
    """A regression on inputs that carry something, or nothing.

    Args:
        kind: ``zero``, ``same_sample`` (each batch holds one sample many times); harmless are
            ``one_sample`` (a batch of one), ``blank_borders`` (half the features are zero) and
            ``small`` (a thousandth of unit scale).
    """
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    data = samples(1 if kind == "one_sample" else BATCH)

    def step(number: int) -> None:
        x = next(data)
        y = truth(x)
        if kind == "zero":
            x = torch.zeros_like(x)
        elif kind == "same_sample":
            x = x[:1].expand_as(x).clone()
        elif kind == "blank_borders":
            x = x * (torch.arange(FEATURES) < FEATURES // 2)
        elif kind == "small":
            x = x * 1e-3
        descend(optimizer, functional.mse_loss(model(x).squeeze(1), y))

    return Training(model, optimizer, step, steps=50)
