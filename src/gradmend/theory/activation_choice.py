"""Which activations are worth trying in a network, and how each is initialised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradmend.theory.initialisation import he_gain, lecun_gain
from gradmend.theory.reference_gain import reference_gain

SHALLOW = 20
"""Layers up to which ReLU at He's gain keeps samples apart: its correlations collapse
sub-exponentially, and plain ReLU nets of 100 layers at He's gain reach 9-31 % where tanh reaches
87 % (reference measurements, section 4.1)."""

SELU_DEPTH, ELU_DEPTH = 30, 50
"""Layers up to which these two are offered. Plain nets of width 64 on digits, 300 steps of Adam at
1e-3, two seeds, each activation with its own initialisation: at 30 layers SELU 85-88 %, ELU
87-90 %, tanh 90-91 %, ReLU 83-84 %; at 50 SELU 10-16 %, ELU 86-90 %, tanh 73-86 %, ReLU 41-49 %."""

SMOOTH_DEPTH = 10
"""Layers up to which GELU and SiLU are offered: their q drifts away from its fixed point, and at
15 layers of the same runs they end at 61-67 %, at 30 at chance."""

LEAK = 0.1
"""Slope below zero of a leaky ReLU that is put in where units died: at torch's 0.01 such a unit
would come back a hundred times more slowly than the others move (our choice)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An activation to put in, and the weights that go with it."""

    module: str
    """Its class in :mod:`gradmend.layers`."""
    function: str
    gain: float
    bias_std: float = 0.0
    scheme: str = "orthogonal"
    options: Mapping[str, float] = field(default_factory=dict)


def choice(module: str, depth: int) -> Choice:
    """One activation with the initialisation that it needs at this depth."""
    if module == "LeakyReLU":
        return Choice(module, "leaky_relu", he_gain(LEAK), options={"negative_slope": LEAK})
    if module == "PReLU":
        return Choice(module, "prelu", he_gain(0.25), options={"init": 0.25})
    if module == "SELU":  # Klambauer et al. 2017: its fixed point is made for these
        return Choice(module, "selu", lecun_gain(), scheme="normal")
    function = module.lower()
    gain = reference_gain(function, depth)
    assert gain is not None
    return Choice(module, function, gain.sigma_w, gain.sigma_b)


def worth_trying(
    function: str, depth: int, *, convolutional: bool, died: bool, transformer: bool
) -> tuple[Choice, ...]:
    """At most three activations for the place of ``function``, best first.

    Args:
        function: What stands there.
        depth: Layers in a row.
        convolutional: Whether the layers are convolutions, which are shared over positions.
        died: Whether units of it are off for good.
        transformer: Whether the network is built around attention.
    """
    names: tuple[str, ...]
    if died:
        names = ("LeakyReLU", "PReLU" if convolutional else "ELU")
    elif transformer and depth <= SMOOTH_DEPTH:
        names = ("GELU", "SiLU")
    elif depth > SHALLOW:
        names = ("Tanh", *(("ELU",) if depth <= ELU_DEPTH else ()))
        if depth <= SELU_DEPTH and not convolutional:
            names += ("SELU",)  # its fixed point is that of independent weights, not of shared ones
    else:
        names = ("ReLU", "ELU")
    found = tuple(choice(name, depth) for name in names)
    return tuple(c for c in found if c.function != function)
