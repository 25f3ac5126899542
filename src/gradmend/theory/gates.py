"""Gate biases that a memory of many steps needs, in closed form.

A gated cell keeps c_t = f c_{t-1} + i g_t. A gate that stays open by f = n / (n + 1) forgets to
1/e in about n steps, whatever the input; sigma(b) = n / (n + 1) is b = log n.
"""

from __future__ import annotations

import math

FEWEST_STEPS = 3
"""Below this many steps no gate needs to be opened: log(T - 1) would close it."""
MANY_STEPS = 100
"""Time steps from which the rate is asked, too; over fewer the usual one of 1e-3 was learned with
in a trial's length (our trainings of 300 to 400 steps over 40 to 100 time steps)."""
PUSH = 0.32
"""Most that one step of an adaptive optimizer may change a gate's pre-activation by: its rate at
each of H weights. Chrono LSTMs of 32 units on the adding problem, batch 32, Adam: solved (mean of
100 losses below 0.01) over 500 time steps after 1,259 steps at 3e-3, 659 and 596 at 1e-2, 409 at
2e-2; over 1,000 after 680 at 1e-2, which is 0.32 here; over 100 after 531 (and 128 units at 2.5e-3
after about 1,060). Our measurements on the data of benchmarks/_depth_recurrent.py."""


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


def memory_rate(units: int) -> float:
    """Learning rate of an adaptive optimizer for an open gate: 0.32 / H.

    Where a memory is open and unused, the loss stays at a guess until its gates have learned what
    to admit; that takes a number of steps in inverse proportion to the rate.

    Args:
        units: H, the hidden units of the layer.
    """
    return PUSH / max(units, 1)


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
