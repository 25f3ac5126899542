"""Inserted norms against naive twins."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradmend.layers import WeightStandardised, norm_layer

SHAPES = {0: (4, 6), 1: (4, 6, 5), 2: (4, 6, 5, 5), 3: (2, 6, 3, 3, 3)}


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("kind", ["BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm"])
def test_a_norm_fits_the_outputs_it_was_made_for(kind: str, dims: int) -> None:
    if kind in ("LayerNorm", "RMSNorm") and dims:
        with pytest.raises(ValueError, match="there is no"):
            norm_layer(kind, 6, dims=dims)
        return
    x = torch.randn(SHAPES[dims]) * 3 + 2
    y = norm_layer(kind, 6, dims=dims, groups=2)(x).detach()
    assert y.shape == x.shape
    assert float(y.square().mean()) == pytest.approx(1.0, rel=0.05)
    if kind == "BatchNorm":
        assert y.mean(dim=[0, *range(2, y.dim())]).abs().max() < 1e-4


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="no LocalNorm"):
        norm_layer("LocalNorm", 4)


def test_standardised_weights_are_those_of_a_naive_loop() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1, stride=2, padding_mode="reflect").double()
    wrapped = WeightStandardised(layer, 1.7)
    weight = wrapped.standardised().detach()
    for unit in range(5):
        row = layer.weight[unit].detach().flatten()
        row = row - row.mean()
        expected = 1.7 * row / (math.sqrt(len(row)) * row.std(correction=0))
        assert torch.allclose(weight[unit].flatten(), expected, rtol=1e-6)
    # THEN the layer is an ordinary one with that weight, padding and stride included
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    twin = nn.Conv2d(3, 5, 3, padding=1, stride=2, padding_mode="reflect").double()
    twin.load_state_dict({"weight": weight, "bias": layer.bias.detach()})
    assert torch.allclose(wrapped(x), twin(x))


def test_the_size_of_the_raw_weights_does_not_matter_and_zeros_stay_finite() -> None:
    layer = nn.Linear(20, 4).double()
    wrapped = WeightStandardised(layer, 1.0)
    before = wrapped.standardised().detach().clone()
    with torch.no_grad():
        layer.weight.mul_(100.0).add_(7.0)
    assert torch.allclose(wrapped.standardised(), before, atol=1e-6)
    with torch.no_grad():
        layer.weight.zero_()
    loss = wrapped(torch.randn(3, 20, dtype=torch.float64)).sum()
    loss.backward()
    assert layer.weight.grad is not None
    assert bool(torch.isfinite(layer.weight.grad).all())


def test_what_all_inputs_share_does_not_pass() -> None:
    wrapped = WeightStandardised(nn.Linear(12, 3, bias=False).double())
    x = torch.randn(5, 12, dtype=torch.float64)
    assert torch.allclose(wrapped(x + 40.0), wrapped(x), atol=1e-10)


@pytest.mark.parametrize("wrong", [nn.ConvTranspose2d(2, 2, 3), nn.Embedding(3, 3), nn.ReLU()])
def test_layers_without_rows_of_their_own_are_refused(wrong: nn.Module) -> None:
    with pytest.raises(ValueError, match="no rows"):
        WeightStandardised(wrong)


def test_depthwise_convolutions_are_standardised_channel_by_channel() -> None:
    layer = nn.Conv1d(4, 4, 9, groups=4, padding=4)
    wrapped = WeightStandardised(layer, 1.0)
    x = torch.randn(2, 4, 11)
    expected = F.conv1d(x, wrapped.standardised(), layer.bias, padding=4, groups=4)
    assert torch.equal(wrapped(x), expected)
    assert wrapped.standardised().flatten(1).norm(dim=1).sub(1).abs().max() < 1e-3
