"""The output layer of a deep net: drawn to bring a small signal to size."""

import pytest

from gradmend.theory.layer_gain import LOUDEST, head_gain
from gradmend.theory.reference_gain import reference_gain


def test_the_head_makes_up_for_the_small_signal_of_odd_activations() -> None:
    gain = reference_gain("sin", 30)
    assert gain is not None
    head = head_gain("sin", 30)
    assert head == pytest.approx(gain.q**-0.5) and head < LOUDEST
    assert head_gain("centred_sigmoid", 1000) == LOUDEST
    assert head_gain("tanh", 100_000) == LOUDEST


@pytest.mark.parametrize(
    ("function", "depth"), [("tanh", 29), ("relu", 100), ("gelu", 100), ("?", 99)]
)
def test_shallow_nets_and_others_keep_theirs(function: str, depth: int) -> None:
    assert head_gain(function, depth) is None
