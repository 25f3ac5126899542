"""The gradient's books through time: an unrolled shadow of a fused recurrent layer.

torch runs nn.RNN, nn.LSTM and nn.GRU as one node, so nobody sees what the gradient does from step
to step. Here the same weights are unrolled, and the gradient is carried back in closed form with
its scale kept as a logarithm, sequence by sequence, so that no number of steps makes it underflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gradmend.probe.unrolled import Cell, GRUCell, LSTMCell, RNNCell, State, spectral_radius
from gradmend.records.recurrence import Recurrence, horizon, slope_back

WIDE = 1 << 22
"""Numbers kept per layer up to which the shadow runs in float64; above, in float32 at least."""

NEVER = -math.inf
"""Logarithm of an exactly zero norm."""

MOST = 1 << 24
"""Numbers kept per layer at most: of more, the first sequences of the batch are unrolled."""


@dataclass(slots=True)
class _Logged:
    """A tensor [T, B, H] whose rows may lie outside the range of floats: values exp(logs)."""

    values: Tensor
    logs: Tensor
    """Natural logarithm of the scale, shape [T, B]; -inf where a row is zero."""


@dataclass(slots=True)
class _Alignment:
    """Where each sequence's own steps lie: all of them end at the last step of the unrolling."""

    lengths: Tensor
    """Shape [B]."""
    steps: int

    def times(self, reverse: bool) -> Tensor:
        """Place in time of each step of the unrolling, shape [T, B]; clamped where not begun."""
        step = torch.arange(self.steps, device=self.lengths.device)[:, None]
        if reverse:
            return (self.steps - 1 - step).expand(-1, len(self.lengths))
        return (step - (self.steps - self.lengths)).clamp(min=0)

    def places(self, reverse: bool) -> Tensor:
        """Step of the unrolling of each place in time, shape [T, B]; the inverse of ``times``."""
        time = torch.arange(self.steps, device=self.lengths.device)[:, None]
        if reverse:
            return (self.steps - 1 - time).expand(-1, len(self.lengths))
        return (time + (self.steps - self.lengths)).clamp(max=self.steps - 1)

    def begun(self) -> Tensor:
        """Whether a sequence has begun at a step of the unrolling, shape [T, B]."""
        step = torch.arange(self.steps, device=self.lengths.device)[:, None]
        return step >= self.steps - self.lengths

    def inside(self) -> Tensor:
        """Whether a place in time belongs to the sequence, shape [T, B]."""
        time = torch.arange(self.steps, device=self.lengths.device)[:, None]
        return time < self.lengths


def unroll(
    module: nn.RNNBase,
    inputs: Tensor | PackedSequence,
    state: Tensor | tuple[Tensor, Tensor] | None = None,
    grad_output: Tensor | PackedSequence | None = None,
    grad_state: Tensor | tuple[Tensor | None, Tensor | None] | None = None,
    *,
    most_steps: int = 10_000,
    name: str = "",
) -> list[Recurrence]:
    """Books through time of one call of a recurrent layer.

    Reads weights, and changes nothing: no flag, no random number, no tensor. Dropout between
    layers is left out, since the mask that the call drew is not known, and noted.

    Args:
        module: nn.RNN, nn.LSTM or nn.GRU, of any options.
        inputs: As the module got them: [T, B, I], [B, T, I] with ``batch_first``, [T, I] or
            packed.
        state: Initial state as the module got it; zeros if None.
        grad_output: Gradient of the loss by the output, shaped like it (for a packed output:
            packed, or its data [N, D H]); None is zero.
        grad_state: Gradient by the final state(s), shaped like them; None is zero.
        most_steps: Of longer sequences, the last so many steps are unrolled, from the given
            initial state; noted.
        name: Written into the records.

    Returns:
        One record for each layer and direction, layers first.
    """
    with torch.no_grad():
        return _Unrolling(module, inputs, state, grad_output, grad_state, most_steps, name).run()


class _Unrolling:
    def __init__(
        self,
        module: nn.RNNBase,
        inputs: Tensor | PackedSequence,
        state: Any,
        grad_output: Any,
        grad_state: Any,
        most_steps: int,
        name: str,
    ) -> None:
        self.module, self.name = module, name
        self.notes: list[str] = []
        if isinstance(inputs, PackedSequence):
            if isinstance(grad_output, Tensor):
                grad_output = inputs._replace(data=grad_output)
            x, lengths = pad_packed_sequence(inputs)
            cot = None if grad_output is None else pad_packed_sequence(grad_output)[0]
            lengths = lengths.to(x.device)
        else:
            x, cot = self._time_first(inputs), self._time_first(grad_output)
            lengths = torch.full((x.shape[1],), x.shape[0], device=x.device)
        batched = isinstance(inputs, PackedSequence) or inputs.dim() == 3
        states = self._pair(state, batched)
        ends = self._pair(grad_state, batched)
        if x.shape[0] > most_steps:
            x, cot, lengths = self._last_steps(x, cot, lengths, most_steps)
        per_sequence = x.shape[0] * module.hidden_size * _KEPT[module.mode]
        few = max(1, min(x.shape[1], MOST // max(per_sequence, 1)))
        if few < x.shape[1]:
            self.notes.append(f"the first {few} of {x.shape[1]} sequences of the batch")
            x, lengths = x[:, :few], lengths[:few]
            cot = None if cot is None else cot[:, :few]
            states = tuple(None if s is None else s[:, :few] for s in states)
            ends = tuple(None if s is None else s[:, :few] for s in ends)
        wide = per_sequence * few <= WIDE and x.device.type != "mps"
        own = cast(Tensor, module.weight_hh_l0).dtype
        narrow = own if own == torch.float64 else torch.float32
        self.dtype: torch.dtype = torch.float64 if wide else narrow
        if module.dropout and module.training and module.num_layers > 1:
            self.notes.append("dropout between layers is not seen, and left out")
        self.x = self._wide(x)
        self.cot = None if cot is None else self._wide(cot)
        self.states = tuple(None if s is None else self._wide(s) for s in states)
        self.ends = tuple(None if s is None else self._wide(s) for s in ends)
        self.align = _Alignment(lengths, x.shape[0])
        self.begun = self.align.begun()
        self.ragged = not bool(self.begun.all())
        self.columns = torch.arange(x.shape[1], device=x.device)
        self.directions = 2 if module.bidirectional else 1

    def run(self) -> list[Recurrence]:
        """Forward through all layers, then back."""
        layers, x = [], self.x
        for layer in range(self.module.num_layers):
            runs = [self._forward(x, layer, direction) for direction in range(self.directions)]
            layers.append(runs)
            x = torch.cat([run.output for run in runs], dim=-1)
        self.output = x
        cots: list[_Logged | None] = [None] * self.directions
        if self.cot is not None:
            cots = [_logged(part) for part in self.cot.chunk(self.directions, dim=-1)]
        found: list[list[Recurrence]] = []
        for layer in reversed(range(self.module.num_layers)):
            records, below = [], None
            for direction, run in enumerate(layers.pop()):
                record, dx = self._backward(run, layer, direction, cots[direction])
                records.append(record)
                below = dx if below is None or dx is None else _sum(below, dx)
            found.insert(0, records)
            cots = [None] * self.directions
            if below is not None:
                parts = below.values.chunk(self.directions, dim=-1)
                cots = [_logged(part, below.logs) for part in parts]
        return [record for records in found for record in records]

    def _forward(self, x: Tensor, layer: int, direction: int) -> _Run:
        cell, W, b = self._cell(layer, direction)
        state = self._initial(layer, direction)
        pre = torch.nn.functional.linear(self._in_order(x, direction), W, b)
        kept, outputs = [], []
        for t in range(self.align.steps):
            new, saved = cell.step(pre[t], state)
            if self.ragged:  # a sequence that has not begun keeps its initial state
                mask = self.begun[t][:, None]
                new = tuple(torch.where(mask, n, s) for n, s in zip(new, state, strict=True))
            state = new
            kept.append(saved)
            outputs.append(state[0])
        place = self.align.places(direction == 1)
        output = torch.stack(outputs)[place, self.columns]
        output = output * self.align.inside()[..., None]
        return _Run(cell=cell, W=W, saved=kept, output=output)

    def _backward(
        self, run: _Run, layer: int, direction: int, cot: _Logged | None
    ) -> tuple[Recurrence, _Logged | None]:
        steps, cell = self.align.steps, run.cell
        like = self._initial(layer, direction)
        loss = self._direct(cot, layer, direction, like)
        alone, guessed = self._alone(loss[0], like[0])
        # The loss's own gradient and that of the last step alone travel together.
        g: State = tuple(torch.zeros((2, *s.shape), dtype=s.dtype, device=s.device) for s in like)
        logs = torch.full((2, len(self.columns)), NEVER, dtype=self.dtype, device=g[0].device)
        norms, sent, scales = [], [], []
        for t in reversed(range(steps)):
            for part, direct in enumerate(loss):
                if direct is not None and (part == 0 or t == steps - 1):
                    row = 0 if part else t
                    g, logs = _add(g, logs, 0, part, direct.values[row], direct.logs[row])
            if t == steps - 1:
                g, logs = _add(g, logs, 1, 0, alone.values[0], alone.logs[0])
            total, ga, g_before = cell.back(run.saved[t], g)
            norms.append(logs + _log_norm(total))
            if layer:
                sent.append(ga[0])
                scales.append(logs[0])
            size = torch.stack([part.abs().amax(dim=-1) for part in g_before]).amax(dim=0)
            safe = torch.where((size > 0) & torch.isfinite(size), size, 1.0)
            held = tuple(part / safe[..., None] for part in g_before)
            after = torch.where(size > 0, logs + safe.log(), NEVER)
            after = torch.where(torch.isnan(size), size, after)
            begun = self.begun[t]
            if self.ragged:  # before it begins, a sequence carries nothing on
                held = tuple(part * begun[:, None] for part in held)
                after = torch.where(begun, after, NEVER)
            g, logs = held, after
        curves = torch.stack(norms[::-1])  # [T, K, B]
        below = None
        if layer:
            values = torch.stack(sent[::-1]) @ run.W
            place = self.align.places(direction == 1)
            level = torch.stack(scales[::-1])[place, self.columns]
            inside = self.align.inside()
            level = torch.where(inside, level, NEVER)
            below = _Logged(values[place, self.columns] * inside[..., None], level)
        return self._record(run, layer, direction, curves, guessed), below

    def _record(
        self, run: _Run, layer: int, direction: int, curves: Tensor, guessed: bool
    ) -> Recurrence:
        begun = self.begun
        own = 0.5 * torch.logsumexp(2 * torch.where(begun, curves[:, 0], NEVER), dim=1)
        alone = curves[:, 1]
        # Compared with the same sequences' start: short ones drop out on the way back.
        start = torch.where(begun, alone[-1], NEVER)
        ratio = 0.5 * (
            torch.logsumexp(2 * torch.where(begun, alone, NEVER), dim=1)
            - torch.logsumexp(2 * start, dim=1)
        )
        grads = tuple((own / math.log(10)).tolist())
        jacobian = tuple((ratio / math.log(10)).tolist())
        forget = math.nan
        if self.module.mode == "LSTM":
            gates = torch.stack([saved[0].mean(dim=-1) for saved in run.saved])
            forget = float(gates[begun].mean())
        notes = list(self.notes)
        if guessed:
            notes.append("the loss reads nothing here: an even gradient was sent back instead")
        return Recurrence(
            name=self.name,
            kind=self.module.mode,
            layer=layer,
            direction="backward" if direction else "forward",
            steps=self.align.steps,
            log10_grads=grads,
            log10_jacobian=jacobian,
            log10_gain=slope_back(jacobian),
            log10_loss_gain=slope_back(grads),
            log10_span=grads[0] - grads[-1] if math.isfinite(grads[-1]) else math.nan,
            horizon=horizon(jacobian),
            spectral_radius=max(spectral_radius(gate) for gate in run.cell.recurrent()),
            forget_gate=forget,
            note="; ".join(notes),
        )

    def _direct(
        self, cot: _Logged | None, layer: int, direction: int, like: State
    ) -> list[_Logged | None]:
        """What reaches the state straight from outside: by step for h, at the end for c."""
        row = layer * self.directions + direction
        parts: list[_Logged | None] = [None] * len(like)
        if cot is not None:
            time = self.align.times(direction == 1)
            logs = cot.logs[time, self.columns]
            logs = torch.where(self.begun, logs, NEVER)
            parts[0] = _Logged(cot.values[time, self.columns] * self.begun[..., None], logs)
        for part, end in enumerate(self.ends[: len(like)]):
            if end is None:
                continue
            last = _logged(end[row][None])
            held = parts[part]
            if part:
                parts[part] = last
                continue
            if held is None:
                shape = (self.align.steps, *like[0].shape)
                held = _logged(torch.zeros(shape, dtype=self.dtype, device=like[0].device))
            both = _sum(_Logged(held.values[-1:], held.logs[-1:]), last)
            parts[0] = _Logged(
                torch.cat([held.values[:-1], both.values]), torch.cat([held.logs[:-1], both.logs])
            )
        return parts

    def _alone(self, direct: _Logged | None, h: Tensor) -> tuple[_Logged, bool]:
        """A gradient to send back from the last step alone, shape [1, B, H].

        What the loss sends there; else what it sends to the latest step that it reads; else an
        even one. Returns whether it is the last for every sequence.
        """
        even = _logged(torch.full_like(h, 1 / math.sqrt(h.shape[-1]))[None])
        if direct is None:
            return even, True
        reads = ~(direct.logs == NEVER)
        steps = torch.arange(len(reads), device=h.device)[:, None]
        latest = torch.where(reads, steps, -1).amax(dim=0)
        some = latest >= 0
        at = latest.clamp(min=0)
        values = torch.where(some[:, None], direct.values[at, self.columns], even.values[0])
        logs = torch.where(some, direct.logs[at, self.columns], even.logs[0])
        if bool(some.any()):  # sequences that the loss leaves out do not count
            logs = torch.where(some, logs, NEVER)
        return _Logged(values[None], logs[None]), not bool(some.any())

    def _cell(self, layer: int, direction: int) -> tuple[Cell, Tensor, Tensor | None]:
        module, end = self.module, f"_l{layer}" + ("_reverse" if direction else "")

        def weight(name: str) -> Tensor | None:
            found = getattr(module, name + end, None)
            return None if found is None else self._wide(found)

        W, W_hh = cast(Tensor, weight("weight_ih")), cast(Tensor, weight("weight_hh"))
        b, b_hh = weight("bias_ih"), weight("bias_hh")
        cell: Cell
        if module.mode == "LSTM":
            cell = LSTMCell(W_hh, b_hh, weight("weight_hr"))
        elif module.mode == "GRU":
            cell = GRUCell(W_hh, b_hh)
        else:
            cell = RNNCell(W_hh, b_hh, relu=module.mode == "RNN_RELU")
        return cell, W, b

    def _initial(self, layer: int, direction: int) -> State:
        row = layer * self.directions + direction
        sizes = [self.module.proj_size or self.module.hidden_size]
        if self.module.mode == "LSTM":
            sizes.append(self.module.hidden_size)
        return tuple(
            torch.zeros(len(self.columns), size, dtype=self.dtype, device=self.x.device)
            if given is None
            else given[row]
            for size, given in zip(sizes, self.states, strict=False)
        )

    def _in_order(self, x: Tensor, direction: int) -> Tensor:
        return x[self.align.times(direction == 1), self.columns]

    def _wide(self, x: Tensor) -> Tensor:
        return x.detach().to(self.dtype)

    def _time_first(self, x: Any) -> Any:
        if x is None:
            return None
        if x.dim() == 2:
            return x.unsqueeze(1)
        return x.transpose(0, 1) if self.module.batch_first else x

    def _pair(self, state: Any, batched: bool) -> tuple[Tensor | None, ...]:
        pair = tuple(state) if isinstance(state, tuple | list) else (state, None)
        return tuple(s if s is None or batched else s.unsqueeze(1) for s in pair)

    def _last_steps(
        self, x: Tensor, cot: Tensor | None, lengths: Tensor, most: int
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        self.notes.append(f"the last {most} of {x.shape[0]} steps, from the initial state")
        kept = lengths.clamp(max=most)
        time = torch.arange(most, device=x.device)[:, None] + (lengths - kept)
        columns = torch.arange(x.shape[1], device=x.device)
        return x[time, columns], None if cot is None else cot[time, columns], kept


@dataclass(slots=True)
class _Run:
    """One direction of one layer, gone forward."""

    cell: Cell
    W: Tensor
    saved: list[tuple[Tensor, ...]]
    output: Tensor
    """In order of time, zero beyond a sequence's end, shape [T, B, H]."""


_KEPT = {"RNN_TANH": 4, "RNN_RELU": 4, "GRU": 10, "LSTM": 12}
"""Numbers kept per unit and step: gates before and after, state, output."""


def _logged(x: Tensor, logs: Tensor | None = None) -> _Logged:
    """Split rows [..., H] into values of about one and the logarithm of their scale."""
    size = x.abs().amax(dim=-1)
    usable = (size > 0) & torch.isfinite(size)
    scale = torch.where(usable, size, 1.0)
    new = torch.where(size == 0, NEVER, scale.log())
    return _Logged(x / scale[..., None], new if logs is None else new + logs)


def _shares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log of the larger scale, a's and b's factor on that scale)."""
    top = torch.maximum(a, b)
    base = torch.where(top == NEVER, 0.0, top)
    return top, (a - base).exp(), (b - base).exp()


def _sum(a: _Logged, b: _Logged) -> _Logged:
    top, fa, fb = _shares(a.logs, b.logs)
    return _Logged(a.values * fa[..., None] + b.values * fb[..., None], top)


def _add(
    g: State, logs: Tensor, k: int, part: int, values: Tensor, scale: Tensor
) -> tuple[State, Tensor]:
    """Add one part's gradient [B, H] to the k-th that travels."""
    top, carried, new = _shares(logs[k], scale)
    parts = []
    for number, tensor in enumerate(g):
        tensor = tensor.clone()
        tensor[k] *= carried[:, None]
        if number == part:
            tensor[k] += values * new[:, None]
        parts.append(tensor)
    logs = logs.clone()
    logs[k] = top
    return tuple(parts), logs


def _log_norm(parts: State) -> Tensor:
    """Natural logarithm of the norm of a state's gradient, shape [K, B]."""
    norm: Tensor = torch.linalg.vector_norm(torch.cat(parts, dim=-1), dim=-1)
    return norm.log()
