"""Gate biases that a memory of many steps needs, in closed form.

A gated cell keeps c_t = f c_{t-1} + i g_t. A gate that stays open by f = n / (n + 1) forgets to
1/e in about n steps, whatever the input; sigma(b) = n / (n + 1) is b = log n.
"""

from __future__ import annotations

import math

FEWEST_STEPS = 3
"""Below this many steps no gate needs to be opened: log(T - 1) would close it."""


def keep_bias(steps: int) -> float:
    """Bias of a gate that keeps a memory over a whole sequence: log(T - 1).

    Tallec and Ollivier 2018; theirs is the longest of a range, log(U[1, T - 1]).

    Args:
        steps: T, the time steps of a sequence.
    """
    return math.log(max(steps, FEWEST_STEPS) - 1)


def keep_opening(steps: int) -> float:
    """The share that such a gate lets through at each step: 1 - 1/T."""
    return 1.0 - 1.0 / max(steps, FEWEST_STEPS)


def balanced_bias(opening: float) -> float:
    """Bias of an input gate beside a forget gate: sigma(b) = sqrt(1 - f^2), at most a half.

    A cell that adds independent inputs of variance s^2 at each step settles at a variance of
    i^2 s^2 / (1 - f^2): with this gate at s^2, however long it remembers. (The normalisation of
    linear recurrent units, Orvieto et al. 2023, for a gate.) With i a half, as without a bias, a
    gate open over a hundred steps would fill its cell to several times that, and the tanh behind
    it would saturate.

    Args:
        opening: f, in (0, 1).
    """
    i = min(math.sqrt(1.0 - opening * opening), 0.5)
    return math.log(i / (1.0 - i))
