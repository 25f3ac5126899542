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
from torch.nn.utils.rnn import PackedSequence

from gradmend.probe.alignment import Alignment
from gradmend.probe.logged import NEVER, Logged, added, log_norm, logged, summed
from gradmend.probe.sequences import read
from gradmend.probe.unrolled import Cell, GRUCell, LSTMCell, RNNCell, State, spectral_radius
from gradmend.records.recurrence import Recurrence, horizon, slope_back


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
        given = read(module, inputs, state, grad_output, grad_state, most_steps)
        self.notes, self.dtype = given.notes, given.x.dtype
        self.x, self.cot, self.states, self.ends = given.x, given.cot, given.states, given.ends
        self.align = Alignment(given.lengths, len(given.x))
        self.begun = self.align.begun()
        self.ragged = not bool(self.begun.all())
        self.columns = torch.arange(given.x.shape[1], device=given.x.device)
        self.directions = 2 if module.bidirectional else 1

    def run(self) -> list[Recurrence]:
        """Forward through all layers, then back."""
        layers, x = [], self.x
        for layer in range(self.module.num_layers):
            runs = [self._forward(x, layer, direction) for direction in range(self.directions)]
            layers.append(runs)
            x = torch.cat([run.output for run in runs], dim=-1)
        self.output = x
        cots: list[Logged | None] = [None] * self.directions
        if self.cot is not None:
            cots = [logged(part) for part in self.cot.chunk(self.directions, dim=-1)]
        found: list[list[Recurrence]] = []
        for layer in reversed(range(self.module.num_layers)):
            records, below = [], None
            for direction, run in enumerate(layers.pop()):
                record, dx = self._backward(run, layer, direction, cots[direction])
                records.append(record)
                below = dx if below is None or dx is None else summed(below, dx)
            found.insert(0, records)
            cots = [None] * self.directions
            if below is not None:
                parts = below.values.chunk(self.directions, dim=-1)
                cots = [logged(part, below.logs) for part in parts]
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
        self, run: _Run, layer: int, direction: int, cot: Logged | None
    ) -> tuple[Recurrence, Logged | None]:
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
                    g, logs = added(g, logs, 0, part, direct.values[row], direct.logs[row])
            if t == steps - 1:
                g, logs = added(g, logs, 1, 0, alone.values[0], alone.logs[0])
            total, ga, g_before = cell.back(run.saved[t], g)
            norms.append(logs + log_norm(total))
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
            below = Logged(values[place, self.columns] * inside[..., None], level)
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
        self, cot: Logged | None, layer: int, direction: int, like: State
    ) -> list[Logged | None]:
        """What reaches the state straight from outside: by step for h, at the end for c."""
        row = layer * self.directions + direction
        parts: list[Logged | None] = [None] * len(like)
        if cot is not None:
            time = self.align.times(direction == 1)
            logs = cot.logs[time, self.columns]
            logs = torch.where(self.begun, logs, NEVER)
            parts[0] = Logged(cot.values[time, self.columns] * self.begun[..., None], logs)
        for part, end in enumerate(self.ends[: len(like)]):
            if end is None:
                continue
            last = logged(end[row][None])
            held = parts[part]
            if part:
                parts[part] = last
                continue
            if held is None:
                shape = (self.align.steps, *like[0].shape)
                held = logged(torch.zeros(shape, dtype=self.dtype, device=like[0].device))
            both = summed(Logged(held.values[-1:], held.logs[-1:]), last)
            parts[0] = Logged(
                torch.cat([held.values[:-1], both.values]), torch.cat([held.logs[:-1], both.logs])
            )
        return parts

    def _alone(self, direct: Logged | None, h: Tensor) -> tuple[Logged, bool]:
        """A gradient to send back from the last step alone, shape [1, B, H].

        What the loss sends there; else what it sends to the latest step that it reads; else an
        even one. Returns whether it is the last for every sequence.
        """
        even = logged(torch.full_like(h, 1 / math.sqrt(h.shape[-1]))[None])
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
        return Logged(values[None], logs[None]), not bool(some.any())

    def _cell(self, layer: int, direction: int) -> tuple[Cell, Tensor, Tensor | None]:
        module, end = self.module, f"_l{layer}" + ("_reverse" if direction else "")

        def weight(name: str) -> Tensor | None:
            found = getattr(module, name + end, None)
            return None if found is None else found.detach().to(self.dtype)

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


@dataclass(slots=True)
class _Run:
    """One direction of one layer, gone forward."""

    cell: Cell
    W: Tensor
    saved: list[tuple[Tensor, ...]]
    output: Tensor
    """In order of time, zero beyond a sequence's end, shape [T, B, H]."""
