"""The gradient's way back through time in one recurrent layer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MOST_POINTS = 200
"""Points of a curve that are kept: a figure is a few hundred pixels wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """What one direction of one recurrent layer does to the gradient, step by step.

    Steps are counted in the order in which the direction reads them: for ``"backward"`` the first
    one is the last in time. Sequences of different lengths are aligned at the step read last.

    The state h_t of an LSTM is its output and its cell together; gradients are total derivatives
    with respect to the state after step t.
    """

    name: str
    """Path of the module."""
    kind: str
    """``RNN_TANH``, ``RNN_RELU``, ``LSTM``, ``GRU``, or the class of a cell."""
    layer: int = 0
    direction: str = "forward"
    """``"forward"`` or ``"backward"`` in time."""
    steps: int
    log10_grads: tuple[float, ...] = ()
    """log10 |dL/dh_t| of the loss itself, by step: everything that the loss reads is in it."""
    log10_curve: tuple[tuple[int, float], ...] = ()
    """(step, log10 |dL/dh_t|): what a look keeps of ``log10_grads``, at ``MOST_POINTS`` steps at
    most, evenly, the first and the last among them. The first step is 1."""
    log10_jacobian: tuple[float, ...] = ()
    """log10 |g dh_T/dh_t| / |g|, by step: how much of a gradient g that starts at the last step
    alone arrives at each step. Zero at the last. Empty where only the loss's own is known."""
    log10_gain: float = math.nan
    """Slope of ``log10_jacobian`` per step, going back in time; negative where gradients vanish.
    Of ``log10_grads`` where the former is empty."""
    log10_loss_gain: float = math.nan
    """Slope of ``log10_grads`` per step, going back in time. A loss that reads every step hides
    in it what becomes of the gradient of each."""
    log10_span: float = math.nan
    """``log10_grads`` at the first step less that at the last."""
    horizon: float = math.nan
    """Steps until ``log10_jacobian`` (else ``log10_grads``) has fallen to 1/e of what it was at
    the last step; infinite if it does not within the sequence."""
    spectral_radius: float = math.nan
    """Of the recurrent weights; the largest over gates."""
    forget_gate: float = math.nan
    """Mean opening of an LSTM's forget gate, in [0, 1]."""
    note: str = ""
    """What was left out, and why."""


def thinned(logs: Sequence[float], most: int = MOST_POINTS) -> tuple[tuple[int, float], ...]:
    """Evenly spread points of a curve over steps, its ends among them, as ``log10_curve``.

    Args:
        logs: One number by step, shape [steps].
        most: Points, at least 2.
    """
    points = min(len(logs), most)
    apart = (len(logs) - 1) / max(points - 1, 1)
    kept = [round(point * apart) for point in range(points)]
    return tuple((step + 1, float(logs[step])) for step in kept)


def slope_back(logs: Sequence[float]) -> float:
    """Slope per step of a curve over time, read backwards from its end.

    The median of the slopes between points half a curve apart (Theil's incomplete method): a
    third of the points may lie anywhere. Only the finite run at the end counts.

    Args:
        logs: log10 of a gradient by step, shape [steps].

    Returns:
        Decades per step; ``-inf`` where nothing at all arrives one step back, NaN where there is
        nothing to fit.
    """
    run: list[float] = []
    for value in reversed(logs):
        if not math.isfinite(value):
            break
        run.append(value)
    if len(run) < 2:
        lost = len(run) == 1 and len(logs) > 1 and logs[-2] == -math.inf
        return -math.inf if lost else math.nan
    apart = len(run) // 2
    return statistics.median((b - a) / apart for a, b in zip(run, run[apart:], strict=False))


def horizon(logs: Sequence[float]) -> float:
    """Steps back from the end until a curve has fallen to 1/e of its last value.

    Args:
        logs: log10 of a gradient by step, shape [steps]; between steps it is taken as linear.

    Returns:
        Steps, seldom a whole number; infinite if it does not fall that far; NaN for a curve that
        is NaN on the way or does not start from a finite value.
    """
    if not logs or not math.isfinite(logs[-1]):
        return math.nan
    floor = logs[-1] - math.log10(math.e)
    before = logs[-1]
    for step, value in enumerate(reversed(logs)):
        if math.isnan(value):
            return math.nan
        if value <= floor:
            if value == -math.inf:
                return float(step)
            return step - 1 + (before - floor) / (before - value)
        before = value
    return math.inf
