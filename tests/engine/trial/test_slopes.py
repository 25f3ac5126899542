"""Slopes of many layers at once."""

import pytest
import torch
from torch import nn

from gradmend.engine.trial.slopes import ELEMENTWISE, Activation, options_of
from gradmend.layers.activations import CentredSigmoid, ScaledSigmoid, Shifted, Tailored


def made(kind: type[nn.Module]) -> nn.Module:
    if kind is nn.Threshold:
        return nn.Threshold(0.1, 20.0)
    return Tailored("gelu", input_shift=0.2) if kind is Tailored else kind()


@pytest.mark.parametrize("kind", sorted(ELEMENTWISE, key=lambda kind: kind.__name__))
def test_output_and_slope_of_each_are_those_of_autograd(kind: type[nn.Module]) -> None:
    # GIVEN an activation, and pre-activations up to where it saturates
    module = made(kind)
    x = torch.linspace(-40.0, 40.0, 97, dtype=torch.float64).view(1, 97).requires_grad_()
    expected = module(x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    # WHEN it is fired in place and opened again
    activation = Activation.of((module,))
    kept = x.detach() * activation.scale
    output = activation.fire(kept)
    again, slopes = activation.open(kept[None])
    room = torch.empty_like(kept)
    activation.back(torch.ones_like(kept), again[0], None if slopes is None else slopes[0], room)
    # THEN both are the same, also on the flats
    assert torch.equal(output, expected.detach())
    assert torch.equal(again[0], expected.detach())
    assert torch.allclose(room, slope, rtol=1e-13, atol=0.0)


def test_modules_of_one_type_are_told_apart_by_their_options() -> None:
    # GIVEN activations that differ in one number
    pairs = (
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.GELU(), nn.GELU("tanh")),
        (Tailored("tanh"), Tailored("tanh", input_scale=1.1)),
        (CentredSigmoid(), ScaledSigmoid()),
        (Shifted.around(nn.ReLU(), 1.0), Shifted.around(nn.ReLU(), 2.0)),
        (Shifted.around(nn.ELU(), 1.0), Shifted.around(nn.ReLU(), 1.0)),
        (Shifted.around(nn.ELU(0.5), 1.0), Shifted.around(nn.ELU(), 1.0)),
    )
    # THEN they differ, and equals do not; being in eval mode is no difference
    for one, other in pairs:
        assert options_of(one) != options_of(other)
    assert options_of(nn.Tanh().eval()) == options_of(nn.Tanh())
    assert options_of(Tailored("tanh")) == options_of(Tailored("tanh"))
    assert options_of(Shifted.around(nn.ReLU(), 1.0)) == options_of(Shifted.around(nn.ReLU(), 1.0))
