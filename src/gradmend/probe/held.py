"""One call of a fused recurrent layer, held until its gradients are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradmend.probe.capture import tensors_in
from gradmend.probe.through_time import unroll
from gradmend.records.recurrence import Recurrence

MOST = 1 << 23
"""Entries of input and output that are held in one watched call of a model, at most."""


@dataclass(slots=True)
class HeldCall:
    """Input and initial state of a call, and the gradients of what it returned as they come."""

    name: str
    module: nn.RNNBase
    inputs: Any
    state: Any
    versions: list[tuple[Tensor, int]]
    """Everything that the unrolling reads, with its version at the call."""
    entries: int = 0
    """Of input and output."""
    grads: dict[int, Tensor] = field(default_factory=dict)
    """Gradient by output (0), final h (1), final c (2)."""

    @staticmethod
    def of(
        name: str,
        module: nn.RNNBase,
        inputs: Any,
        state: Any,
        output: Any,
        held_already: int = 0,
    ) -> HeldCall | str:
        """Hold a call, or say why not.

        Args:
            name: Path of the module.
            module: The layer.
            inputs: What it was fed, a tensor or packed.
            state: The initial state it was given, or None.
            output: What it returned.
            held_already: Entries of other calls that are held.
        """
        made = list(tensors_in(_returned(output)))
        size = sum(t.numel() for t in (*tensors_in(inputs), *made))
        if held_already + size > MOST:
            return f"{name}: too big a call, or too many, to go through it step by step"
        kept = _detached(inputs), _detached(state)
        read = [*tensors_in(kept), *module.parameters()]
        held = HeldCall(name, module, *kept, [(t, t._version) for t in read], size)
        for part, tensor in enumerate(made):
            if tensor.grad_fn is not None:
                _keep(tensor, part, held.grads)
        return held

    def unrolled(self, notes: list[str]) -> list[Recurrence]:
        """The books through time; asks for them before weights change.

        Args:
            notes: Takes in why there are none.
        """
        if any(tensor._version != version for tensor, version in self.versions):
            notes.append(f"{self.name}: input or weights changed before they could be unrolled")
            return []
        state: Any = self.grads.get(1)
        if self.module.mode == "LSTM" and (1 in self.grads or 2 in self.grads):
            state = (self.grads.get(1), self.grads.get(2))
        return unroll(
            self.module, self.inputs, self.state, self.grads.get(0), state, name=self.name
        )

    def release(self) -> None:
        """Let go of every tensor."""
        self.inputs = self.state = None
        self.versions.clear()
        self.grads.clear()


def _keep(tensor: Tensor, part: int, grads: dict[int, Tensor]) -> None:
    number = tensor.output_nr

    def hook(arrived: tuple[Tensor | None, ...]) -> None:
        grad = arrived[number] if number < len(arrived) else None
        if grad is not None and part not in grads:
            with torch._C.DisableTorchFunction():
                grads[part] = grad.detach()

    assert tensor.grad_fn is not None
    tensor.grad_fn.register_prehook(hook)


def _returned(output: Any) -> list[Tensor]:
    """(output or its packed data, final h, and of an LSTM final c)."""
    sequence, end = output
    data = sequence.data if isinstance(sequence, PackedSequence) else sequence
    return [data, *tensors_in(end)]


def _detached(value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.detach())
    if isinstance(value, Tensor):
        return value.detach()
    return None if value is None else tuple(part.detach() for part in value)
