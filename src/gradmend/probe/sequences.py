"""What a recurrent layer was given, in one form: time first, batched, and wide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

WIDE = 1 << 22
"""Numbers kept per layer up to which the shadow runs in float64; above, in float32 at least."""

MOST = 1 << 24
"""Numbers kept per layer at most: of more, the first sequences of the batch are unrolled."""

_KEPT = {"RNN_TANH": 4, "RNN_RELU": 4, "GRU": 10, "LSTM": 12}
"""Numbers kept per unit and step: gates before and after, state, output."""

Pair = tuple[Tensor | None, ...]
"""h, and of an LSTM c, each [layers and directions, B, H]."""


@dataclass(slots=True)
class Given:
    """Arguments of one call of a recurrent layer and the gradients of what it returned."""

    x: Tensor
    """Shape [T, B, I]."""
    lengths: Tensor
    """Steps of each sequence, shape [B]."""
    cot: Tensor | None
    """Gradient by the output, shape [T, B, D H]."""
    states: Pair
    ends: Pair
    """Gradients by the final states."""
    notes: list[str]
    """What was left out."""


def read(
    module: nn.RNNBase,
    inputs: Tensor | PackedSequence,
    state: Any,
    grad_output: Any,
    grad_state: Any,
    most_steps: int,
) -> Given:
    """Bring everything into one form.

    Args:
        module: The layer.
        inputs: As for ``through_time.unroll``, like all that follow.
        state: Initial state.
        grad_output: Gradient by the output.
        grad_state: Gradient by the final state.
        most_steps: Steps to keep of each sequence, the last ones.
    """
    notes: list[str] = []
    if isinstance(inputs, PackedSequence):
        if isinstance(grad_output, Tensor):
            grad_output = inputs._replace(data=grad_output)
        x, lengths = pad_packed_sequence(inputs)
        cot = None if grad_output is None else pad_packed_sequence(grad_output)[0]
        lengths = lengths.to(x.device)
    else:
        x, cot = _time_first(module, inputs), _time_first(module, grad_output)
        lengths = torch.full((x.shape[1],), x.shape[0], device=x.device)
    batched = isinstance(inputs, PackedSequence) or inputs.dim() == 3
    states, ends = _pair(state, batched), _pair(grad_state, batched)
    if x.shape[0] > most_steps:
        notes.append(f"the last {most_steps} of {x.shape[0]} steps, from the initial state")
        x, cot, lengths = _last_steps(x, cot, lengths, most_steps)
    per_sequence = x.shape[0] * module.hidden_size * _KEPT[module.mode]
    few = max(1, min(x.shape[1], MOST // max(per_sequence, 1)))
    if few < x.shape[1]:
        notes.append(f"the first {few} of {x.shape[1]} sequences of the batch")
        x, lengths = x[:, :few], lengths[:few]
        cot = None if cot is None else cot[:, :few]
        states = tuple(None if s is None else s[:, :few] for s in states)
        ends = tuple(None if s is None else s[:, :few] for s in ends)
    if module.dropout and module.training and module.num_layers > 1:
        notes.append("dropout between layers is not seen, and left out")
    own = cast(Tensor, module.weight_hh_l0).dtype
    wide = per_sequence * few <= WIDE and x.device.type != "mps"
    dtype = torch.float64 if wide or own == torch.float64 else torch.float32
    return Given(
        x=x.detach().to(dtype),
        lengths=lengths,
        cot=None if cot is None else cot.detach().to(dtype),
        states=tuple(None if s is None else s.detach().to(dtype) for s in states),
        ends=tuple(None if s is None else s.detach().to(dtype) for s in ends),
        notes=notes,
    )


def _time_first(module: nn.RNNBase, x: Any) -> Any:
    if x is None:
        return None
    if x.dim() == 2:
        return x.unsqueeze(1)
    return x.transpose(0, 1) if module.batch_first else x


def _pair(state: Any, batched: bool) -> Pair:
    pair = tuple(state) if isinstance(state, tuple | list) else (state, None)
    return tuple(s if s is None or batched else s.unsqueeze(1) for s in pair)


def _last_steps(
    x: Tensor, cot: Tensor | None, lengths: Tensor, most: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    kept = lengths.clamp(max=most)
    time = torch.arange(most, device=x.device)[:, None] + (lengths - kept)
    columns = torch.arange(x.shape[1], device=x.device)
    return x[time, columns], None if cot is None else cot[time, columns], kept
