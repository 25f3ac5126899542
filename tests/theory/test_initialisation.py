"""Initial scales against torch's own initialisers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from gradmend.theory import initialisation as init

FAN_IN, FAN_OUT = 300, 500

TORCH: dict[str, Callable[[torch.Tensor], object]] = {
    "xavier": torch.nn.init.xavier_normal_,
    "he": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "lecun": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "torch_default": lambda w: torch.nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
}


@pytest.mark.parametrize("scheme", init.SCHEMES)
def test_std_is_that_of_torch(scheme: init.Scheme) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = torch.empty(FAN_OUT, FAN_IN, dtype=torch.float64)
        TORCH[scheme](weight)
    expected = init.init_std(FAN_IN, FAN_OUT, scheme)
    # A standard deviation of n normal numbers has a relative standard error of 1 / sqrt(2 n).
    error = 4 / math.sqrt(2 * weight.numel())
    assert weight.std().item() == pytest.approx(expected, rel=error)


def test_leaky_he_takes_the_slope_into_account() -> None:
    assert init.init_std(8, 8, "he", negative_slope=1.0) == pytest.approx(math.sqrt(1 / 8))
    assert init.he_gain(0.25) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.25))


def test_square_layers_have_unit_xavier_gain() -> None:
    assert init.xavier_gain(64, 64) == 1.0
    assert init.lecun_gain() == 1.0


def test_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'glorot'.*xavier, he, lecun, torch_default"):
        init.init_std(8, 8, "glorot")  # type: ignore[arg-type]


def test_empty_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        init.init_std(0, 8, "he")
