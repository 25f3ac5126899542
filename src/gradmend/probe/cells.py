"""The gradient through time of cells that the user's own loop calls, from hooks on each state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.probe.statistics import wide
from gradmend.probe.unrolled import GRUCell, LSTMCell, RNNCell, spectral_radius
from gradmend.records.recurrence import Recurrence, horizon, slope_back

NOTE = "the loss's own gradient at each call: what the steps alone do to it is not known"

Heard = dict[tuple[int, int], Tensor]
"""|dL/d state|, shape [], by (step, part of the state)."""


@dataclass(slots=True)
class _Sequence:
    steps: int = 0
    heard: Heard = field(default_factory=dict)
    gates: list[Tensor] = field(default_factory=list)


class CellWatch:
    """Collects dL/dh_t of one nn.RNNCell, nn.LSTMCell or nn.GRUCell over its calls.

    Calls are steps in order; one without a state, or with one that needs no gradient, begins a
    new sequence. The longest sequence is reported. Nothing of a step is held but norms.
    """

    def __init__(self, name: str, cell: nn.RNNCellBase) -> None:
        self.name, self.cell = name, cell
        self.sequences: list[_Sequence] = []

    def saw(self, inputs: Tensor, state: Any, output: Any) -> None:
        """Book one call.

        Args:
            inputs: What the cell read, shape [B, I] or [I].
            state: The state it got, None for zeros.
            output: What it returned; a hook is put on the autograd node of each tensor in it.
        """
        given = [] if state is None else list(_parts(state))
        if not self.sequences or not any(part.requires_grad for part in given):
            self.sequences.append(_Sequence())
        sequence = self.sequences[-1]
        with torch.no_grad():
            if isinstance(self.cell, nn.LSTMCell):
                sequence.gates.append(self._forget_gate(inputs, given))
        for part, tensor in enumerate(_parts(output)):
            if tensor.grad_fn is not None:
                listen(tensor, sequence.heard, (sequence.steps, part))
        sequence.steps += 1

    def record(self) -> Recurrence:
        """The books, to be asked for after backward."""
        sequence = max(self.sequences, key=lambda s: s.steps, default=_Sequence())
        squares = [0.0] * sequence.steps
        for (step, _), value in sequence.heard.items():
            squares[step] = math.hypot(squares[step], float(value))
        logs = tuple(_log10(value) for value in squares)
        if not sequence.heard:
            logs = ()
        return Recurrence(
            name=self.name,
            kind=type(self.cell).__name__,
            steps=sequence.steps,
            log10_grads=logs,
            log10_gain=slope_back(logs),
            log10_loss_gain=slope_back(logs),
            log10_span=logs[0] - logs[-1] if logs and math.isfinite(logs[-1]) else math.nan,
            horizon=horizon(logs),
            spectral_radius=max(spectral_radius(gate) for gate in self._gates()),
            forget_gate=float(torch.stack(sequence.gates).mean()) if sequence.gates else math.nan,
            note=NOTE,
        )

    def _gates(self) -> list[Tensor]:
        W = self.cell.weight_hh.detach()
        if isinstance(self.cell, nn.LSTMCell):
            return LSTMCell(W, None, None).recurrent()
        if isinstance(self.cell, nn.GRUCell):
            return GRUCell(W, None).recurrent()
        return RNNCell(W, None, relu=False).recurrent()

    def _forget_gate(self, inputs: Tensor, state: list[Tensor]) -> Tensor:
        H = self.cell.hidden_size
        rows = slice(H, 2 * H)
        a = inputs.detach() @ self.cell.weight_ih[rows].T.to(inputs.dtype)
        if state:
            a = a + state[0].detach() @ self.cell.weight_hh[rows].T.to(state[0].dtype)
        if self.cell.bias:
            a = a + self.cell.bias_ih[rows] + self.cell.bias_hh[rows]
        return a.sigmoid().mean().to(wide(a))


def listen(tensor: Tensor, heard: Heard, key: tuple[int, int]) -> None:
    """Book |gradient| of a tensor when backward computes it, first backward pass only.

    The hook is on the autograd node, so the tensor itself stays free of hooks, and what an
    in-place operation makes of it later is not mistaken for it.
    """
    number = tensor.output_nr

    def hook(grads: tuple[Tensor | None, ...]) -> None:
        grad = grads[number] if number < len(grads) else None
        if grad is not None and key not in heard:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                heard[key] = torch.linalg.vector_norm(grad.detach(), dtype=wide(grad))

    assert tensor.grad_fn is not None
    tensor.grad_fn.register_prehook(hook)


def _parts(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    else:
        yield from (part for part in state if isinstance(part, Tensor))


def _log10(value: float) -> float:
    if math.isnan(value):
        return math.nan
    return math.log10(value) if value > 0 else -math.inf
