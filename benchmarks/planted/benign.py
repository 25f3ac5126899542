"""What a healthy training may do, and what looks ill to a careless eye."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from planted.plants import hidden, is_float, rate_of, shaped
from planted.training import NORMS, Training

Habit = Callable[[Training], bool]
"""Changes a training and says whether it could."""

HABITS: dict[str, Habit] = {}


def habit(change: Habit) -> Habit:
    """Put a habit into the list."""
    HABITS[change.__name__.replace("_", "-")] = change
    return change


@habit
def plain(t: Training) -> bool:
    """As it comes."""
    del t
    return True


@habit
def warm_up_and_cosine(t: Training) -> bool:
    """From nothing to the rate and back to nothing."""
    steps = t.steps
    t.schedule = lambda n: min(1.0, (n + 1) / 12) * 0.5 * (1 + math.cos(math.pi * n / steps))
    return True


@habit
def linear_decay(t: Training) -> bool:
    """Down to zero at the end."""
    steps = t.steps
    t.schedule = lambda n: 1.0 - n / steps
    return True


def clip_to_one(now: Training) -> None:
    """The norm of all gradients."""
    nn.utils.clip_grad_norm_(now.model.parameters(), 1.0)


@habit
def clipping(t: Training) -> bool:
    """To norm one."""
    t.after_backward.append(clip_to_one)
    return True


@habit
def accumulation(t: Training) -> bool:
    """Four micro-batches, averaged."""
    t.accumulate, t.steps = 4, 60
    return t.critic is None


@habit
def weight_decay(t: Training) -> bool:
    """A little of it."""
    t.options["weight_decay"] = 1e-2 if "Adam" in t.optimizer_name else 1e-3
    return True


@habit
def dropout(t: Training) -> bool:
    """A fifth."""
    for name in (places := t.bends or t.named(nn.LayerNorm)):
        t.put(name, nn.Sequential(t.at(name), nn.Dropout(0.2)))
    return bool(places)


@habit
def label_smoothing(t: Training) -> bool:
    """A tenth."""
    t.loss_fn = lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)
    return t.task == "classify"


@habit
def label_noise(t: Training) -> bool:
    """One label in seven is wrong."""

    def noisy(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.where(torch.rand(y.shape) < 0.15, y[torch.randperm(len(y))], y)

    shaped(t, noisy)
    return t.task in ("classify", "binary")


@habit
def summed_with_small_rate(t: Training) -> bool:
    """A sum, and a rate to match."""
    if t.task not in ("regress", "rebuild"):
        return False
    size = math.prod(t.draw()[1].shape)
    if t.optimizer_name in ("SGD", "momentum"):
        t.rate = rate_of(t) / size
    t.loss_fn = lambda z, y: F.mse_loss(z, y, reduction="sum")
    return True


@habit
def loss_scaling(t: Training) -> bool:
    """A scaler that looks for its scale, clipping after unscaling."""

    def clip(now: Training) -> None:
        assert now.scaler is not None
        now.scaler.unscale_(now.optimizers[0])
        clip_to_one(now)

    t.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=40)
    t.after_backward.append(clip)
    return t.critic is None


@habit
def averaged_copy(t: Training) -> bool:
    """A running mean of the weights, beside them."""
    mean = copy.deepcopy(t.model).requires_grad_(False)

    def follow(now: Training) -> None:
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), now.model.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    t.after_step.append(follow)
    return True


@habit
def validation_between(t: Training) -> bool:
    """Every twentieth step, and back to training mode."""

    def validate(now: Training) -> None:
        if now.number % 20 == 19:
            now.model.eval()
            with torch.no_grad():
                now.model(now.draw()[0])
            now.model.train()

    t.before.append(validate)
    return True


@habit
def first_layer_frozen(t: Training) -> bool:
    """On purpose, with the rest learning."""
    names = hidden(t)
    if len(names) < 3 or t.name == "lora":
        return False
    t.at(names[0]).requires_grad_(False)
    return True


@habit
def unused_head(t: Training) -> bool:
    """A head that this stage of training does not call."""
    t.model.add_module("auxiliary", nn.Linear(8, 3))
    return not isinstance(t.model, nn.Sequential)


@habit
def zero_output(t: Training) -> bool:
    """An output layer that begins at zero, as recommended for fine-tuning."""
    with torch.no_grad():
        for parameter in t.at(t.layers[-1]).parameters():
            parameter.zero_()
    return t.critic is None and t.task != "rebuild"


@habit
def kaiming(t: Training) -> bool:
    """He's initialisation."""
    if not t.named(nn.ReLU) or t.critic is not None:
        return False
    for name in hidden(t):
        nn.init.kaiming_normal_(t.at(name).weight, nonlinearity="relu")
    return True


@habit
def orthogonal(t: Training) -> bool:
    """Orthogonal weights, zero biases."""
    for name in (names := hidden(t)):
        nn.init.orthogonal_(t.at(name).weight)
        if t.at(name).bias is not None:
            nn.init.zeros_(t.at(name).bias)
    return len(names) > 1 and t.name != "lora"


@habit
def small_batches(t: Training) -> bool:
    """Eight samples."""
    shaped(t, lambda x, y: (x[:8], y[:8]))
    return not t.named(*NORMS)


@habit
def pixels_from_zero_to_one(t: Training) -> bool:
    """Inputs that are never negative."""
    shaped(t, lambda x, y: (torch.sigmoid(x), y))
    return is_float(t) and t.task == "classify"


@habit
def bfloat16_autocast(t: Training) -> bool:
    """Mixed precision, as people use it."""
    if t.critic is not None or t.named(nn.RNN, nn.LSTM, nn.GRU):
        return False
    model = t.model

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                out: Tensor = self.net(x)
            return out.float()

    t.model = Mixed()
    return True


@habit
def learned_by_heart(t: Training) -> bool:
    """One batch for ever, until nothing is left to learn."""
    batch = t.draw()
    t.draw = lambda: batch
    t.steps = 250
    return t.critic is None


@habit
def leaky(t: Training) -> bool:
    """Leaky rectifiers."""
    for name in (names := t.named(nn.ReLU)):
        t.put(name, nn.LeakyReLU(0.1))
    return bool(names)


@habit
def normalised(t: Training) -> bool:
    """A layer norm before each activation of a perceptron."""
    if t.name not in ("mlp", "regressor", "binary"):
        return False
    for name in hidden(t):
        t.put(name, nn.Sequential(t.at(name), nn.LayerNorm(t.at(name).out_features)))
    return True


@habit
def stepped_rate(t: Training) -> bool:
    """A tenth of the rate after two thirds."""
    steps = t.steps
    t.schedule = lambda n: 1.0 if n < 2 * steps // 3 else 0.1
    return True


@habit
def groups_without_decay(t: Training) -> bool:
    """No decay for biases and norms."""

    def groups(model: nn.Module) -> list[dict[str, object]]:
        wanted = [p for p in model.parameters() if p.requires_grad]
        return [
            {"params": [p for p in wanted if p.dim() > 1], "weight_decay": 1e-2},
            {"params": [p for p in wanted if p.dim() <= 1], "weight_decay": 0.0},
        ]

    t.held = groups
    return True


@habit
def uneven_classes(t: Training) -> bool:
    """Three times as many of one class."""

    def uneven(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        kept = (y.flatten() == 0) | (torch.rand(len(y)) < 0.4)
        kept[:4] = True
        return x[kept], y[kept]

    shaped(t, uneven)
    return t.task in ("classify", "binary")
