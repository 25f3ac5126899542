"""Regressions: units, ranges, reductions."""

from __future__ import annotations

import torch
from planted.training import Training
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from published.material import Draw, changed, fault, houses, mlp, stream


def fitted(net: nn.Module, draw: Draw | None = None, **more: object) -> Training:
    """A training on table rows."""
    return Training("mlp", "regress", net, draw or houses(), F.mse_loss, **more)  # type: ignore[arg-type]


@fault("SO 45154470", "unscaled-target", "learning-rate-too-high", "learning-rate-too-low")
def prices_in_units(sick: bool) -> Training:
    """Prices of hundreds of thousands, as they are."""
    draw = changed(houses(), lambda x, y: (x, 8e4 * y + 2e5)) if sick else houses()
    return fitted(mlp([8, 32, 32, 1]), draw, rate=1e-2)


def _line() -> Draw:
    draw = stream(9)

    def batches() -> tuple[Tensor, Tensor]:
        x = torch.rand(32, 1, generator=draw)
        return x, 2 * x - 1 + 0.05 * torch.randn(32, 1, generator=draw)

    return batches


@fault("SO 42264716; SO 36666331", "unscaled-input", "learning-rate-too-high", "diverging-loss",
       "non-finite-value", "exploding-gradient", "unscaled-target")  # fmt: skip
def line_that_diverges(sick: bool) -> Training:
    """A straight line through points from 0 to 100, by gradient descent."""
    draw = changed(_line(), lambda x, y: (100 * x, 100 * y)) if sick else _line()
    return fitted(nn.Linear(1, 1), draw, optimizer_name="SGD", rate=0.02 if sick else 0.3)


@fault("SO 60801900; keras-team/keras#3752", "rectified-output", "output-range-unfit-for-target",
       "dead-relu")  # fmt: skip
def rectified_prediction(sick: bool) -> Training:
    """A ReLU behind the output, and targets below zero."""
    return fitted(mlp([8, 32, 32, 1], nn.ReLU, nn.ReLU() if sick else None), rate=1e-2)


@fault("SO 62313327; SO 37898795", "output-range-unfit-for-target", "unscaled-target",
       "saturated-activation")  # fmt: skip
def sigmoid_prediction(sick: bool) -> Training:
    """A sigmoid behind the output, and targets from 0 to 50."""
    draw = changed(houses(), lambda x, y: (x, 10 * y + 25)) if sick else houses()
    return fitted(mlp([8, 32, 32, 1], nn.ReLU, nn.Sigmoid() if sick else None), draw, rate=1e-2)


@fault("SO 58525908", "unscaled-input")
def features_of_all_units(sick: bool) -> Training:
    """Ages beside incomes beside ratios."""
    units = torch.tensor([1.0, 1e4, 1e-2, 30.0, 1e3, 1.0, 0.1, 500.0])
    draw = changed(houses(), lambda x, y: (units * (x + 2), y)) if sick else houses()
    return fitted(mlp([8, 32, 32, 1]), draw, rate=1e-2)


@fault("SO 43027109; jax-ml/jax#3113", "summed-loss", "learning-rate-too-high", "diverging-loss",
       "exploding-gradient", "oscillating-loss")  # fmt: skip
def summed_error(sick: bool) -> Training:
    """A sum over 128 rows at a rate that suits the mean."""
    t = fitted(mlp([8, 32, 32, 1], nn.Tanh), houses(batch=128), optimizer_name="SGD", rate=0.1)
    if sick:
        t.loss_fn = lambda z, y: F.mse_loss(z, y, reduction="sum")
    return t


@fault("keras-team/keras#510", "unscaled-input", "unscaled-target", "learning-rate-too-high",
       "diverging-loss", "exploding-gradient", "non-finite-value")  # fmt: skip
def nothing_scaled(sick: bool) -> Training:
    """Inputs and targets of some hundreds: not a number within a few steps."""
    draw = changed(houses(), lambda x, y: (100 * x + 50, 200 * y + 300)) if sick else houses()
    return fitted(mlp([8, 32, 32, 1]), draw, optimizer_name="SGD", rate=0.05)


@fault("deepset-ai/FARM#229; NeuralSolvers#20", "broadcast-loss")
def row_and_column(sick: bool) -> Training:
    """Targets [batch] beside predictions [batch, 1]: each is compared with all."""
    draw = changed(houses(), lambda x, y: (x, y[:, 0])) if sick else houses()
    return fitted(mlp([8, 32, 32, 1]), draw, rate=1e-2)


@fault("DQN-tensorflow#16; spragunr/deep_q_rl#46", "clamped-loss",
       advice="the clamp is inside the author's own loss")  # fmt: skip
def clamped_difference(sick: bool) -> Training:
    """The error clamped before it is squared: large errors have no gradient."""
    draw = changed(houses(), lambda x, y: (x, y + 3))
    t = fitted(mlp([8, 32, 32, 1]), draw, rate=1e-2)
    if sick:
        t.loss_fn = lambda z, y: (z - y).clamp(-0.5, 0.5).square().mean()
    return t


@fault("SO 55718408; SO 62381380", "learning-rate-too-high", "dead-relu", "oscillating-loss",
       "diverging-loss", "update-norm-spike")  # fmt: skip
def same_answer_for_all(sick: bool) -> Training:
    """A rate of one: the same output whatever the input."""
    return fitted(mlp([8, 32, 32, 1]), rate=1.0 if sick else 1e-2)


@fault("SO 45461553; DeepFD seeding (loss swapped)", "negated-loss")
def likelihood_upside_down(sick: bool) -> Training:
    """The similarity minimised where it was to be maximised."""
    t = fitted(mlp([8, 32, 32, 1], nn.Tanh), rate=3e-3)
    if sick:
        t.loss_fn = lambda z, y: -F.mse_loss(z, y)
    return t


@fault("SO 38319898", "unscaled-target", "saturated-activation", "output-range-unfit-for-target")
def floats_of_thousands(sick: bool) -> Training:
    """Tanh layers and targets around 3,000."""
    draw = changed(houses(), lambda x, y: (x, 1000 * y + 3000)) if sick else houses()
    return fitted(mlp([8, 32, 32, 1], nn.Tanh), draw, optimizer_name="momentum", rate=0.02)


@fault(
    "SO 53640858",
    "non-finite-batch",
    advice="the rows that are not numbers are the author's to judge",
)
def holes_in_the_table(sick: bool) -> Training:
    """Missing values that came as NaN."""

    def holes(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x[0, 1] = float("nan")
        return x, y

    draw = changed(houses(), holes) if sick else houses()
    return fitted(mlp([8, 32, 32, 1]), draw, rate=1e-2)
