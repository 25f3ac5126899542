"""One time step of each kind of recurrent layer, forward and backward, in closed form.

Conventions and gate orders are those of torch.nn.RNN, LSTM (i, f, g, o) and GRU (r, z, n). K
gradients are carried back at once: everything named ``g`` has shape [K, B, ...].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Saved = tuple[Tensor, ...]
State = tuple[Tensor, ...]
"""(h,) with h [B, H]; of an LSTM (h, c) with c [B, C]."""


class Cell(Protocol):
    """One step of a recurrent layer."""

    def step(self, x: Tensor, state: State) -> tuple[State, Saved]:
        """One step forward.

        Args:
            x: The input's share of the gates, x W_ih^T + b_ih, shape [B, G].
            state: What the step before left.
        """

    def back(self, saved: Saved, g: State) -> tuple[State, Tensor, State]:
        """One step back.

        Args:
            saved: What :meth:`step` kept.
            g: Gradient by (h, and for LSTM c) after the step, the way through h left out of c's.

        Returns:
            Total gradient by the state after the step; gradient by ``x`` [K, B, G]; gradient by
            the state before the step, the way through h left out of c's.
        """

    def recurrent(self) -> list[Tensor]:
        """The square matrices that carry the state on, one a gate."""


@dataclass(slots=True)
class RNNCell:
    """h' = phi(x + W h + b)."""

    W: Tensor
    b: Tensor | None
    relu: bool

    def step(self, x: Tensor, state: State) -> tuple[State, Saved]:
        """One step forward."""
        a = x + torch.nn.functional.linear(state[0], self.W, self.b)
        h = a.clamp(min=0) if self.relu else a.tanh()
        return (h,), (h,)

    def back(self, saved: Saved, g: State) -> tuple[State, Tensor, State]:
        """One step back."""
        (h,) = saved
        ga = g[0] * ((h > 0).to(h.dtype) if self.relu else 1 - h * h)
        return g, ga, (ga @ self.W,)

    def recurrent(self) -> list[Tensor]:
        """The matrices that carry the state on."""
        return [self.W]


@dataclass(slots=True)
class LSTMCell:
    """c' = f c + i g, m = o tanh(c'), h' = m or W_hr m."""

    W: Tensor
    b: Tensor | None
    projection: Tensor | None

    def step(self, x: Tensor, state: State) -> tuple[State, Saved]:
        """One step forward."""
        a = x + torch.nn.functional.linear(state[0], self.W, self.b)
        i, f, g, o = a.chunk(4, dim=-1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * state[1] + i * g
        s = c.tanh()
        m = o * s
        h = m if self.projection is None else m @ self.projection.T
        return (h, c), (f, i, g, o, s, state[1])

    def back(self, saved: Saved, g: State) -> tuple[State, Tensor, State]:
        """One step back."""
        f, i, n, o, s, c = saved
        gm = g[0] if self.projection is None else g[0] @ self.projection
        gc = g[1] + gm * (o * (1 - s * s))
        ga = torch.cat(
            [gc * (n * i * (1 - i)), gc * (c * f * (1 - f)), gc * (i * (1 - n * n)),
             gm * (s * o * (1 - o))],
            dim=-1,
        )  # fmt: skip
        return (g[0], gc), ga, (ga @ self.W, gc * f)

    def recurrent(self) -> list[Tensor]:
        """The matrices that carry the state on."""
        back = self.projection
        return [gate if back is None else back @ gate for gate in self.W.chunk(4)]


@dataclass(slots=True)
class GRUCell:
    """h' = (1 - z) n + z h, n = tanh(x_n + r (W_n h + b_n))."""

    W: Tensor
    b: Tensor | None

    def step(self, x: Tensor, state: State) -> tuple[State, Saved]:
        """One step forward."""
        (h,) = state
        own = torch.nn.functional.linear(h, self.W, self.b)
        H = h.shape[-1]
        r = (x[..., :H] + own[..., :H]).sigmoid()
        z = (x[..., H : 2 * H] + own[..., H : 2 * H]).sigmoid()
        q = own[..., 2 * H :]
        n = (x[..., 2 * H :] + r * q).tanh()
        return (n + z * (h - n),), (r, z, n, q, h)

    def back(self, saved: Saved, g: State) -> tuple[State, Tensor, State]:
        """One step back."""
        r, z, n, q, h = saved
        gn = g[0] * ((1 - z) * (1 - n * n))
        gz = g[0] * ((h - n) * z * (1 - z))
        gr = gn * (q * r * (1 - r))
        before = g[0] * z + torch.cat([gr, gz, gn * r], dim=-1) @ self.W
        return g, torch.cat([gr, gz, gn], dim=-1), (before,)

    def recurrent(self) -> list[Tensor]:
        """The matrices that carry the state on."""
        return list(self.W.chunk(3))


def spectral_radius(matrix: Tensor) -> float:
    """Largest |eigenvalue| of a matrix [n, n], by Gelfand's formula |W^k|^(1/k) with k = 2^24.

    Repeated squaring needs no eigenvectors, so it is quick for a thousand units too, and
    rounding at the j-th squaring is divided by 2^j.
    """
    power = matrix.detach().cpu().double()
    log = 0.0
    for squaring in range(24):
        size = float(torch.linalg.matrix_norm(power))
        if not (0 < size < math.inf):
            return 0.0 if size == 0 else math.nan
        power = power / size
        log += math.log(size) / 2**squaring
        power = power @ power
    size = float(torch.linalg.matrix_norm(power))
    if size == 0:
        return 0.0
    log += math.log(size) / 2**24
    return math.exp(log)
