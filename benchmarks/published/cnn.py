"""Convolutional nets: the forum's VGG, AutoTrainer's CIFAR-10, posts about pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from planted.training import Training
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from published.material import Draw, changed, digits, drawn, fault, he, pictures


def pictured(net: nn.Module, draw: Draw | None = None, **more: object) -> Training:
    """A training on coloured patterns."""
    return Training("cnn", "classify", net, draw or pictures(), F.cross_entropy, **more)  # type: ignore[arg-type]


def convolutions(
    depth: int, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False, channels: int = 8
) -> nn.Sequential:
    """Convolutions of one size, pooled once, and a linear output."""
    layers: list[nn.Module] = []
    for number in range(depth):
        layers.append(nn.Conv2d(channels if number else 3, channels, 3, padding=1))
        layers += [nn.BatchNorm2d(channels)] if norm else []
        layers.append(act())
        layers += [nn.MaxPool2d(2)] if number == 0 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5))


@fault("forums.fast.ai/t/48936; kuangliu/pytorch-cifar#28", "init-gain-too-small",
       "depth-without-skip", "vanishing-gradient")  # fmt: skip
def vgg_without_norm(sick: bool) -> Training:
    """Ten convolutions as torch initialises them, no batch norm."""
    net = convolutions(10)
    return pictured(net if sick else drawn(net, he), rate=1e-3, steps=100)


@fault("AutoTrainer CIFAR-10, vanishing gradient", "attenuating-activation",
       "uncentred-activation", "init-gain-too-small", "depth-without-skip",
       "vanishing-gradient")  # fmt: skip
def sigmoid_convolutions(sick: bool) -> Training:
    """Sigmoids behind all convolutions."""
    net = convolutions(5, nn.Sigmoid if sick else nn.ReLU)
    return pictured(net, rate=3e-3)


@fault("AutoTrainer CIFAR-10, oscillating loss", "learning-rate-too-high", "oscillating-loss",
       "diverging-loss", "dead-relu", "update-norm-spike")  # fmt: skip
def adam_of_one(sick: bool) -> Training:
    """Adam with a rate of 0.5."""
    return pictured(convolutions(3), rate=0.5 if sick else 3e-3)


@fault("SO 44856988", "unscaled-input", "dead-relu", "learning-rate-too-high")
def bytes_into_convolutions(sick: bool) -> Training:
    """Pictures from 0 to 255."""
    draw = changed(pictures(), lambda x, y: (60 * x + 128, y)) if sick else pictures()
    return pictured(convolutions(4), draw, optimizer_name="momentum", rate=0.02)


@fault("SO 45997645", "zero-initialisation", "symmetric-initialisation")
def zero_kernels(sick: bool) -> Training:
    """Kernels of zeros: no gradient arrives."""
    net = convolutions(3)
    return pictured(drawn(net, nn.init.zeros_) if sick else net)


@fault("SO 59106542; AutoTrainer CIFAR-10, slow convergence", "learning-rate-too-low")
def rate_of_a_millionth(sick: bool) -> Training:
    """Adam with a rate of 1e-6."""
    return pictured(convolutions(3), rate=1e-6 if sick else 3e-3)


class Adding(nn.Module):
    """x + f(x) without a norm."""

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for layer in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        with torch.no_grad():
            self.conv2.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


@fault("user-needs 35: Neuron#124, karpathy/minGPT#134", "residual-growth", "init-gain-too-large",
       "learning-rate-too-high", "exploding-gradient")  # fmt: skip
def residuals_without_norm(sick: bool) -> Training:
    """A residual network whose batch norm was taken out: its variance doubles with each block."""
    blocks = [Adding(8, 1.5 if sick else 0.0) for _ in range(8)]
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), *blocks,
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    return pictured(net, optimizer_name="momentum", rate=3e-3)


@fault("SO 52575271", "hidden-softmax", "saturated-activation", "attenuating-activation",
       "collapsed-signal", "vanishing-gradient")  # fmt: skip
def softmax_between(sick: bool) -> Training:
    """A softmax as the activation of the dense layers."""

    def act() -> nn.Module:
        return nn.Softmax(dim=1) if sick else nn.ReLU()

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(200, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 5),
    )  # fmt: skip
    return pictured(net)


@fault("user-needs 45: batch norm over too few", "starved-batch-norm")
def norm_over_two(sick: bool) -> Training:
    """Batch norm with batches of two."""
    draw = changed(pictures(size=4), lambda x, y: (x[:2], y[:2])) if sick else pictures(size=4)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 32), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5),
    )  # fmt: skip
    return pictured(net, draw)


@fault("SO 56541683", "init-gain-too-large", "saturated-activation", "learning-rate-too-high")
def kernels_of_one(sick: bool) -> Training:
    """Kernels from N(0, 1): the output hardly changes with the input."""
    net = convolutions(4)
    large = functools.partial(nn.init.normal_, std=1.0)
    return pictured(drawn(net, large) if sick else net, rate=1e-3)


@fault("pytorch-nin-cifar10#1; discuss.pytorch.org/t/43814/16", "learning-rate-too-high",
       "dead-relu", "diverging-loss", "oscillating-loss", "update-norm-spike")  # fmt: skip
def loss_at_ln_of_classes(sick: bool) -> Training:
    """One huge step, and the loss stays at ln of the classes for ever."""
    net = drawn(convolutions(5), he)
    return pictured(net, optimizer_name="momentum", rate=1.0 if sick else 0.01)


@fault("SO 61498304", "init-gain-too-small", "vanishing-gradient", "depth-without-skip")
def narrow_normal_kernels(sick: bool) -> Training:
    """Digits by convolutions from N(0, 0.005): loss and accuracy stay."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    small = functools.partial(nn.init.normal_, std=0.005)
    drawn(net, small if sick else he)
    return pictured(net, digits(flat=False), optimizer_name="momentum", rate=0.03)
