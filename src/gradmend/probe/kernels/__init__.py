"""Sufficient statistics of many tensors at once: what the watcher looks at on every step.

``sweep`` measures tensors in one pass, ``exponents`` counts them by power of two, ``sample`` and
``compare`` tell what a step changed, ``channels`` looks at the units of one layer. Nothing here
changes a tensor, draws a random number, starts a thread or touches a setting.

Two backends give the same numbers: loops compiled by numba (``pip install gradmend[fast]``), and
torch operations, which also serve devices and float8. The first use of numba loads it; ``warm``
does so at a time of one's own choosing.
"""

from __future__ import annotations

import torch

from gradmend.probe.kernels._backend import backend as backend
from gradmend.probe.kernels._backend import interpreted as interpreted
from gradmend.probe.kernels._channels import CHANNELS as CHANNELS
from gradmend.probe.kernels._channels import channels as channels
from gradmend.probe.kernels._moves import Sampled as Sampled
from gradmend.probe.kernels._moves import compare as compare
from gradmend.probe.kernels._moves import launch_compare as launch_compare
from gradmend.probe.kernels._moves import sample as sample
from gradmend.probe.kernels._pending import Pending as Pending
from gradmend.probe.kernels._rows import MOVES as MOVES
from gradmend.probe.kernels._rows import STATS as STATS
from gradmend.probe.kernels._rows import combine as combine
from gradmend.probe.kernels._rows import log10_max as log10_max
from gradmend.probe.kernels._rows import log10_min as log10_min
from gradmend.probe.kernels._rows import log10_norm as log10_norm
from gradmend.probe.kernels._rows import log10_rms as log10_rms
from gradmend.probe.kernels._rows import mean_share as mean_share
from gradmend.probe.kernels._rows import zero_share as zero_share
from gradmend.probe.kernels._sweep import exponents as exponents
from gradmend.probe.kernels._sweep import exponents_of as exponents_of
from gradmend.probe.kernels._sweep import launch as launch
from gradmend.probe.kernels._sweep import sweep as sweep


def warm() -> None:
    """Load and compile everything now: under a second, or about 15 where nothing is cached yet."""
    one = [torch.ones(1, device="cpu")]
    sweep(one)
    exponents(one)
    compare(sample(one, None), one, one)
    from gradmend.probe.sample import measure, norm_of  # which uses these kernels itself

    square = torch.ones(1, 1, device="cpu")
    measure(square, 1)
    norm_of(square)
