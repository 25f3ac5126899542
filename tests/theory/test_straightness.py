"""Where activations are straight, beside their own slopes."""

import pytest
import torch
from torch import nn

from gradmend.theory.straightness import straight_from

STRAIGHT = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "elu": nn.ELU(),
    "selu": nn.SELU(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "softplus": nn.Softplus(),
    "hardswish": nn.Hardswish(),
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_from_there_on_the_slope_stays_and_before_it_does_not(name: str) -> None:
    begins = straight_from(name)
    assert begins is not None

    def slope(at: float) -> float:
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        STRAIGHT[name](x).backward()
        assert x.grad is not None
        return float(x.grad)

    end = slope(39.0)
    assert all(slope(begins + step) == pytest.approx(end, rel=0.011) for step in (0.02, 0.5, 2, 9))
    assert abs(slope(begins - 0.05) / end - 1.0) > 0.01


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu6", "softsign", "identity", "nobody's"])
def test_bounded_odd_and_unknown_ones_have_no_straight_side(name: str) -> None:
    assert straight_from(name) is None
