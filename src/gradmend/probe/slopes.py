"""Slopes of elementwise activations at what they are fed: flat entries and dead units.

Slopes are computed by torch's own derivative kernels in the tensor's own number format, so a slope
is zero here exactly where the real backward pass multiplies with zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradmend.theory.activations import activation

FLAT = 0.05
"""An entry is flat where |phi'| is below this share of the activation's steepest slope."""

DEAD = 1e-6
"""A slope below this share of the steepest counts as zero. ReLU's is exactly zero; tanh's is less
than this beyond |x| = 7.6, the sigmoid's beyond 15."""

MOST_UNITS = 1 << 16
"""Units of one activation whose death is followed, at most."""

Flags = NDArray[np.bool_]
"""Of units, shape [units]."""

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Slope:
    """The derivative of a called activation."""

    name: str
    steepest: float
    of: Callable[[Tensor], Tensor]
    """phi' at a tensor, same shape."""
    of_output: bool = False
    """Whether ``of`` takes what the activation returned instead of what it was fed."""
    bounds: tuple[float, float, float, float] | None = None
    """Flat is what the activation returned at or beyond the first two, and without slope at or
    beyond the others; NaN bounds nothing. None where that does not tell."""


def _ones(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def known(name: str) -> Slope | None:
    """The slope of an activation that is told by its name alone, from what it returns.

    Args:
        name: Name of the called function, without a trailing underscore.
    """
    slope = _SLOPES.get(name)
    return slope if slope is not None and slope.of_output else None


def slope_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Slope | None:
    """The slope of an activation, from the arguments of the call.

    Args:
        name: Name of the called function, without a trailing underscore.
        args: Its positional arguments; the first is the input.
        kwargs: Its keyword arguments.

    Returns:
        None where the function is no elementwise activation with a known slope.
    """
    if name in _SLOPES:
        return _SLOPES[name]

    def get(place: int, key: str, default: Any) -> Any:
        return args[place] if len(args) > place else kwargs.get(key, default)

    if name == "leaky_relu":
        a = float(get(1, "negative_slope", 0.01))
        return Slope(name, max(1.0, abs(a)), lambda x: torch.where(x > 0, _ones(x), a * _ones(x)))
    if name in ("elu", "celu"):
        a = float(get(1, "alpha", 1.0))
        inner = 1 / a if name == "celu" else 1.0
        steepest = 1.0 if name == "celu" else max(1.0, a)
        return Slope(
            name, steepest, lambda x: _aten.elu_backward(_ones(x), a, 1.0, inner, False, x)
        )
    if name == "gelu" and get(1, "approximate", "none") == "tanh":
        steepest = activation("gelu_tanh").max_slope
        return Slope(
            "gelu_tanh", steepest, lambda x: _aten.gelu_backward(_ones(x), x, approximate="tanh")
        )
    if name == "gelu":
        steepest = activation("gelu").max_slope
        return Slope(name, steepest, lambda x: _aten.gelu_backward(_ones(x), x))
    if name == "softplus":
        beta, limit = float(get(1, "beta", 1.0)), float(get(2, "threshold", 20.0))
        return Slope(name, 1.0, lambda x: _aten.softplus_backward(_ones(x), x, beta, limit))
    if name == "hardtanh":
        low, high = float(get(1, "min_val", -1.0)), float(get(2, "max_val", 1.0))
        return Slope(name, 1.0, lambda x: _aten.hardtanh_backward(_ones(x), x, low, high))
    if name == "threshold":
        at = float(get(1, "threshold", 0.0))
        return Slope(name, 1.0, lambda x: _aten.threshold_backward(_ones(x), x, at))
    if name in ("softshrink", "hardshrink"):
        lam = float(get(1, "lambd", 0.5))
        return Slope(name, 1.0, lambda x: (x.abs() > lam).to(x.dtype))
    if name == "prelu":
        weight = get(1, "weight", None)
        if isinstance(weight, Tensor):
            return _prelu(weight.detach())
    return None


def _prelu(weight: Tensor) -> Slope:
    def of(x: Tensor) -> Tensor:
        shape = [-1 if d == 1 else 1 for d in range(x.dim())] if x.dim() > 1 else [-1]
        each = weight.to(x.dtype).reshape(shape if weight.numel() > 1 else [1])
        return torch.where(x > 0, _ones(x), each.expand_as(x))

    return Slope("prelu", max(1.0, float(weight.abs().max())), of)


def _selu(x: Tensor) -> Tensor:
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    slope: Tensor = _aten.elu_backward(_ones(x), alpha, scale, 1.0, False, x)
    return slope


_FIXED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "relu": ("relu", lambda y: (y > 0).to(y.dtype)),
    "selu": ("selu", _selu),
    "sigmoid": ("sigmoid", lambda y: y * (1 - y)),
    "tanh": ("tanh", lambda y: 1 - y * y),
    "silu": ("silu", lambda x: _aten.silu_backward(_ones(x), x)),
    "mish": ("mish", lambda x: _aten.mish_backward(_ones(x), x)),
    "softsign": ("softsign", lambda x: (1 + x.abs()).square().reciprocal()),
    "tanhshrink": ("tanhshrink", lambda x: x.tanh().square()),
    "relu6": ("relu6", lambda x: _aten.hardtanh_backward(_ones(x), x, 0.0, 6.0)),
    "hardsigmoid": ("hardsigmoid", lambda x: _aten.hardsigmoid_backward(_ones(x), x)),
    "hardswish": ("hardswish", lambda x: _aten.hardswish_backward(_ones(x), x)),
    "logsigmoid": ("logsigmoid", lambda x: (-x).sigmoid()),
    "log_sigmoid": ("logsigmoid", lambda x: (-x).sigmoid()),
}


def _bounds(name: str) -> tuple[float, float, float, float] | None:
    """Solutions for y of slope = share of the steepest."""
    if name == "relu":
        return 0.0, math.nan, 0.0, math.nan
    if name == "tanh":  # 1 - y^2
        flat, dead = math.sqrt(1 - FLAT), math.sqrt(1 - DEAD)
        return -flat, flat, -dead, dead
    if name == "sigmoid":  # y (1 - y), steepest 1/4
        flat, dead = (share / 4 / (0.5 + math.sqrt(1 - share) / 2) for share in (FLAT, DEAD))
        return flat, 1 - flat, dead, 1 - dead
    return None


_OF_OUTPUT = frozenset({"relu", "sigmoid", "tanh"})
"""These need not be computed twice; their derivatives in torch read the output as well."""

_SLOPES = {
    name: Slope(known, activation(known).max_slope, of, known in _OF_OUTPUT, _bounds(known))
    for name, (known, of) in _FIXED.items()
}


@dataclass(slots=True)
class DeadUnits:
    """Which units had no slope on any sample, kept from one sampled batch to the next.

    A unit counts as dead when all samples of the last ``window`` to ``2 window`` sampled batches
    found it so: long enough for rare inputs, and a unit that dies late is still told.
    """

    window: int = 8
    _now: dict[Hashable, tuple[int, Flags]] = field(default_factory=dict)
    _before: dict[Hashable, Flags] = field(default_factory=dict)

    def add(self, name: Hashable, dead: Flags) -> None:
        """Take in one batch.

        Args:
            name: The activation.
            dead: Whether each unit had no slope on any sample of the batch.
        """
        if dead.size > MOST_UNITS:
            return
        count, held = self._now.get(name, (0, dead))
        if held.shape != dead.shape:  # another layer by the same name, or another input size
            count, held = 0, dead
            self._before.pop(name, None)
        if count >= self.window:
            self._before[name] = held
            count, held = 0, dead
        self._now[name] = (count + 1, held & dead)

    def share(self, name: Hashable) -> float:
        """Share of units dead so far; NaN for an activation never seen."""
        if name not in self._now:
            return math.nan
        dead = self._now[name][1]
        if name in self._before:
            dead = dead & self._before[name]
        return int(np.count_nonzero(dead)) / dead.size


def judge(x: Tensor, part: Tensor, slope: Slope, dim: int) -> tuple[float, Flags]:
    """Share of flat entries in a part of a tensor, and which units are dead in all of it.

    A unit is dead if it has no slope on any entry. The part tells which units live; only the
    others are looked at in full.

    Args:
        x: What the activation was fed, or what it returned, as the slope wants it.
        part: A part of it that holds all units; ``x`` itself where it is small.
        slope: The activation's.
        dim: The dimension of the units.

    Returns:
        The share, and flags; none where ``part`` does not hold all units.
    """
    steep = slope.of(part).abs()
    flat = int(torch.count_nonzero(steep < FLAT * slope.steepest)) / steep.numel()
    if part.shape[dim] != x.shape[dim]:
        return flat, np.zeros(0, dtype=np.bool_)
    dead = (_most(steep, dim) < DEAD * slope.steepest).cpu().numpy()
    if part is not x:
        revive(dead, x, slope, dim)
    return flat, dead


def revive(dead: Flags, x: Tensor, slope: Slope, dim: int) -> None:
    """Clear the flags of units that a part of a tensor showed dead and all of it does not.

    Args:
        dead: By a part of ``x``; changed.
        x: As for :func:`judge`.
        slope: The activation's.
        dim: The dimension of the units.
    """
    suspects = np.flatnonzero(dead)
    if not suspects.size:
        return
    few = max(1, (1 << 20) * x.shape[dim] // x.numel())
    for start in range(0, suspects.size, few):
        some = suspects[start : start + few]
        whole = slope.of(x.index_select(dim, torch.from_numpy(some).to(x.device))).abs()
        dead[some] = (_most(whole, dim) < DEAD * slope.steepest).cpu().numpy()


def _most(steep: Tensor, dim: int) -> Tensor:
    others = [d for d in range(steep.dim()) if d != dim % steep.dim()]
    return steep.amax(dim=others) if others else steep
