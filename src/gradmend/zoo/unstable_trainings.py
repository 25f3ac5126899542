"""Trainings whose gradient, steps or numbers go wrong, each healthy by another argument."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.optim import Optimizer

from gradmend.zoo.healthy_trainings import (
    Batch,
    classify,
    clusters,
    draws,
    make_optimizer,
    stack,
)
from gradmend.zoo.training import Training, training


@training
def sigmoid_stack(depth: int = 12, optimizer: str = "SGD", rate: float = 0.5) -> Training:
    """Sigmoid layers: with twelve the gradient vanishes, three train."""
    model = stack(depth, activation=nn.Sigmoid)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    made = make_optimizer(optimizer, model, rate)
    return Training(model, made, classify(model, made, clusters(draws())), 60 if depth > 4 else 200)


@training
def relu_stack(gain: float = math.sqrt(2.0), depth: int = 10, rate: float = 0.02) -> Training:
    """Rectified layers with weights of variance gain^2 / n; 1.41 keeps the signal's size.

    The step is scaled to the gradient's norm, so that it is the profile that is wrong, not the
    step.
    """
    model = stack(depth)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_features))
    made = make_optimizer("SGD", model, rate)
    draw = clusters(draws())

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = draw()
        made.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        made.step()

    return Training(model, made, step, 60)


@training
def post_norm_transformer(
    layers: int = 12, norm_first: bool = False, rate: float = 3e-2, steps: int = 70
) -> Training:
    """Blocks with the norm after the sum, Adam and no warm-up: the gradient is there at step 0."""
    model = _Encoder(layers, norm_first)
    optimizer = make_optimizer("Adam", model, rate if not norm_first else 1e-3)
    source = draws()
    plan = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        (lambda t: min(1.0, (t + 1) / 15) * 0.5 * (1 + math.cos(math.pi * t / steps)))
        if norm_first
        else (lambda t: 1.0),
    )

    def draw() -> Batch:
        words = torch.randint(8, (8, 6), generator=source)
        return words, words[:, 0] % 4

    inner = classify(model, optimizer, draw)

    def step(number: int) -> None:
        inner(number)
        plan.step()

    return Training(model, optimizer, step, steps)


class _Encoder(nn.Module):
    def __init__(self, layers: int, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 16)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                16, 2, 32, dropout=0.0, batch_first=True, norm_first=norm_first
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


@training
def step_size(rate: float = 0.1, steps: int = 120) -> Training:
    """A perceptron at any learning rate: 0, 1e-7 and 300 are wrong."""
    model = stack()
    optimizer = make_optimizer("SGD", model, rate)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


@training
def isometric(depth: int = 60, rate: float = 1e-2, width: int = 48, steps: int = 120) -> Training:
    """A deep tanh network with orthogonal weights at a rate that a shallow one takes."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width if layers else 16, width)
        nn.init.orthogonal_(linear.weight, 1.05)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(width, 4))
    optimizer = make_optimizer("Adam", model, rate)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


@training
def valley(rate: float = 0.9, walls: bool = False, steps: int = 80) -> Training:
    """A parabola under plain gradient descent; ``rate`` in units of the largest stable one.

    Below 1 it arrives, above it leaves; between straight walls (Huber's loss) it jumps from side
    to side for ever.
    """
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    target = torch.full((1, 1), -0.4 - 0.2 * float(torch.rand(())))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0 * rate)

    def step(number: int) -> None:
        del number  # unused: the same parabola
        optimizer.zero_grad()
        away = model(torch.ones(1, 1))
        loss = F.huber_loss(away, target) if walls else 0.5 * F.mse_loss(away, target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def huge_step(rate: float = 200.0, at: int = 20, steps: int = 80) -> Training:
    """One step at a rate of ``rate``, as without warm-up: rectifiers are off for good after it."""
    model = stack(depth=3)
    optimizer = make_optimizer("SGD", model, 0.05)
    draw = clusters(draws())

    def pixels() -> Batch:  # never negative, so that one step moves all of a unit's weights alike
        x, y = draw()
        return x.abs(), y

    inner = classify(model, optimizer, pixels)

    def step(number: int) -> None:
        optimizer.param_groups[0]["lr"] = rate if number == at else 0.05
        inner(number)

    return Training(model, optimizer, step, steps)


@training
def saturating(rate: float = 0.1, steps: int = 100) -> Training:
    """Tanh layers that a large rate drives onto their flats."""
    model = stack(depth=3, activation=nn.Tanh)
    optimizer = make_optimizer("SGD", model, rate)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


@training
def breaking(at: int = 10_000, steps: int = 60) -> Training:
    """A logarithm that is finite until the step at which a batch holds a zero."""
    model = stack()
    optimizer = make_optimizer("SGD", model, 0.05)
    draw = clusters(draws())

    def step(number: int) -> None:
        x, y = draw()
        optimizer.zero_grad()
        share = model(x).softmax(-1)
        if number >= at:
            share = share * 0.0
        (-share.gather(1, y[:, None]).log().mean()).backward()
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def unlearnable(steps: int = 150) -> Training:
    """Labels that have nothing to do with the inputs."""
    model = stack()
    source = draws()
    optimizer = make_optimizer("SGD", model, 0.01)

    def draw() -> Batch:
        return (
            torch.randn(64, 16, generator=source),
            torch.randint(4, (64,), generator=source),
        )

    return Training(model, optimizer, classify(model, optimizer, draw), steps)


@training
def bad_batch(size: float = 1.0, at: int = 60, every: int = 0, steps: int = 140) -> Training:
    """One batch, or one in ``every``, whose targets are ``size`` times as large."""
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    source = draws()
    slope = torch.randn(16, 1, generator=source)
    optimizer = make_optimizer("SGD", model, 0.2)

    def step(number: int) -> None:
        x = torch.randn(128, 16, generator=source)
        y = x @ slope + 0.1 * torch.randn(128, 1, generator=source)
        bad = number % every == every - 1 if every else number == at
        optimizer.zero_grad()
        F.smooth_l1_loss(model(x), y, beta=1.0).mul(size if bad else 1.0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def decayed(decay: float = 1e-2, steps: int = 120) -> Training:
    """Weight decay, of which 2.0 leaves nothing of the weights."""
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=decay)
    return Training(model, optimizer, classify(model, optimizer, clusters(draws())), steps)


@training
def clipped(
    limit: float = 1.0, optimizer: str = "SGD", rate: float = 0.1, steps: int = 100
) -> Training:
    """A gradient clipped to ``limit``; 1e-3 leaves a hundredth of it."""
    model = stack()
    made = make_optimizer(optimizer, model, rate if optimizer == "SGD" else 1e-3)
    draw = clusters(draws())

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = draw()
        made.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), limit)
        made.step()

    return Training(model, made, step, steps)


@training
def half(eps: float = 1e-4, loss_scale: float = 64.0, steps: int = 40) -> Training:
    """Everything in float16, Adam's state too; a small loss scale lets the gradient underflow."""
    model = stack().half()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=eps)
    draw = clusters(draws())

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = draw()
        optimizer.zero_grad()
        (F.cross_entropy(model(x.half()).float(), y) * loss_scale).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def coarse(rate: float = 0.05, dtype: str = "bfloat16", steps: int = 60) -> Training:
    """Weights in bfloat16, which a rate of 1e-5 does not move."""
    kind: torch.dtype = getattr(torch, dtype)
    model = stack().to(kind)
    optimizer = make_optimizer("SGD", model, rate)
    draw = clusters(draws())

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = draw()
        optimizer.zero_grad()
        F.cross_entropy(model(x.to(kind)).float(), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def tiny_loss(scale: float = 1.0, steps: int = 80) -> Training:
    """A loss multiplied with ``scale`` under Adam, to which only its eps sets a limit."""
    model = stack()
    optimizer = make_optimizer("Adam", model, 1e-3)
    draw = clusters(draws())

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x, y = draw()
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) * scale).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Training(model, optimizer, step, steps)


@training
def scaled(overflows: bool = False, steps: int = 70) -> Training:
    """A gradient scaler that searches for its scale, or never finds one."""
    model = stack()
    weight = next(model.parameters())
    optimizer = make_optimizer("SGD", model, 0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    draw = clusters(draws())

    def step(number: int) -> None:
        x, y = draw()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if overflows or number < 4:
            # The square root's derivative at zero, hidden in a term of zero.
            loss = loss + (0.0 * weight.square().sum()).sqrt()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()

    return Training(model, optimizer, step, steps)


@training
def attention(scale: float = 1.0, growth: float = 1.0, steps: int = 80) -> Training:
    """One attention layer whose logits are ``scale`` times too large, or grow at each step."""
    model = _Attention(scale)
    optimizer = make_optimizer("SGD", model, 0.05)
    source = draws()

    def draw() -> Batch:
        x = torch.randn(16, 8, 16, generator=source)
        return x, x.mean(1)[:, :4].argmax(-1)

    inner = classify(model, optimizer, draw)

    def step(number: int) -> None:
        inner(number)
        with torch.no_grad():  # stands for what an optimizer does to them in 50,000 steps
            model.queries.weight.mul_(growth)

    return Training(model, optimizer, step, steps)


class _Attention(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.queries, self.keys = nn.Linear(16, 16), nn.Linear(16, 16)
        self.values, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries(x) * self.scale
        seen = F.scaled_dot_product_attention(queries, self.keys(x), self.values(x))
        logits: Tensor = self.head(seen.mean(1))
        return logits


@training
def long_memory(
    cell: str = "lstm", gain: float = 1.0, forget: float = 4.0, length: int = 24, steps: int = 80
) -> Training:
    """Recall the first element of a sequence at its end, with the usual clipping.

    ``cell`` is ``lstm``, ``tanh`` or ``relu``. ``gain`` scales the recurrence, ``forget`` is the
    bias of an LSTM's forget gate (0 leaves it half open).
    """
    layer: nn.RNNBase
    if cell == "lstm":
        layer = nn.LSTM(4, 16, batch_first=True)
        nn.init.constant_(layer.get_parameter("bias_hh_l0")[16:32], forget)
    else:
        layer = nn.RNN(4, 16, batch_first=True, nonlinearity=cell)
        nn.init.orthogonal_(layer.get_parameter("weight_hh_l0"), gain)
    model = _Recall(layer)
    optimizer = make_optimizer("SGD", model, 0.1 if gain <= 1.0 else 1e-3)
    source = draws()

    def step(number: int) -> None:
        del number  # unused: every step is alike
        x = torch.randn(16, length, 4, generator=source)
        optimizer.zero_grad()
        F.cross_entropy(model(x), x[:, 0].argmax(-1)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return Training(model, optimizer, step, steps)


class _Recall(nn.Module):
    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x)[0][:, -1])
        return logits


@training
def adversaries(saturating: bool = False, separable: bool = False, steps: int = 200) -> Training:
    """A generator against a discriminator; ``separable`` data let the latter be sure."""
    maker = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    judge = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    source = draws()
    optimizers: list[Optimizer] = [
        torch.optim.Adam(maker.parameters(), lr=2e-4 if separable else 1e-3, betas=(0.5, 0.9)),
        torch.optim.Adam(judge.parameters(), lr=2e-2 if separable else 1e-3, betas=(0.5, 0.9)),
    ]
    where = 30.0 if separable else 0.5

    def step(number: int) -> None:
        del number  # unused: every step is alike
        real = where + torch.randn(32, 2, generator=source)
        made = maker(torch.randn(32, 4, generator=source))
        optimizers[1].zero_grad()
        (F.softplus(-judge(real)) + F.softplus(judge(made.detach()))).mean().backward()  # type: ignore[no-untyped-call]
        optimizers[1].step()
        optimizers[0].zero_grad()
        verdict = judge(made)
        (-F.softplus(verdict) if saturating else F.softplus(-verdict)).mean().backward()  # type: ignore[no-untyped-call]
        optimizers[0].step()

    return Training([maker, judge], optimizers, step, steps)
