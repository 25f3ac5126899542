"""The calls of root modules in the step that is going on, held so that they can be run again."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.probe.batch import Feeder
from gradmend.probe.capture import tensors_in
from gradmend.probe.look import look
from gradmend.records.trace import Trace

MOST_CALLS = 64
"""Calls held of one step; a model called more often is told as not replayable."""


@dataclass
class HeldCall:
    """One call of a root module: references only, let go of when the step is over."""

    root: weakref.ref[nn.Module]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: tuple[int, ...]
    """How often each argument had been written to in place."""
    shape: list[int] | None
    """Of the first tensor that was handed over."""
    randomness: Tensor
    autocast: torch.dtype | None
    cotangents: list[Tensor | None] = field(default_factory=list)
    """Gradient of the loss with respect to each output tensor, where it was caught."""

    @classmethod
    def of(cls, root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> HeldCall:
        """Hold a call that is about to be made."""
        tensors = list(tensors_in((args, kwargs) if kwargs else args))
        return cls(
            root=weakref.ref(root),
            args=args,
            kwargs=dict(kwargs),
            versions=_versions(tensors),
            shape=list(tensors[0].shape) if tensors else None,
            randomness=torch.get_rng_state(),
            autocast=torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
        )

    def catch_cotangents(self, output: object) -> None:
        """Keep the gradients that the backward pass will bring to the outputs."""
        outputs = [t for t in tensors_in(output) if t.is_floating_point()]
        self.cotangents = [None] * len(outputs)
        for at, tensor in enumerate(outputs):
            if tensor.requires_grad:
                tensor.register_hook(_Keep(self.cotangents, at))  # type: ignore[no-untyped-call]

    @property
    def was_trained(self) -> bool:
        """Whether a gradient came back to an output."""
        return any(cotangent is not None for cotangent in self.cotangents)

    def why_not(self) -> str | None:
        """Why the call cannot be made again; ``None`` if it can."""
        if self.root() is None:
            return "the model is gone"
        tensors = list(tensors_in((self.args, self.kwargs) if self.kwargs else self.args))
        if _versions(tensors) != self.versions:
            return "the batch was changed in place after the call"
        return None

    def look_again(self, *, precision: str, step: int) -> Trace:
        """Look at the model on this call as it was made, with the loss's own cotangent.

        The pass is ours: weights, buffers, attributes, random state and output streams are left
        as they were.

        Raises:
            BadInput: If the model raises, or nothing leads back from its outputs.
        """
        root = self.root()
        assert root is not None
        inner = getattr(root, "_orig_mod", root)
        before = torch.get_rng_state()
        torch.set_rng_state(self.randomness)
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                trace = look(
                    inner,
                    {"args": self.args, "kwargs": self.kwargs},
                    Feeder(forward=self._loss),
                    precision=precision,
                    step=step,
                )
        finally:
            torch.set_rng_state(before)
        return replace(trace, run=replace(trace.run, loss=None))

    def _loss(self, model: nn.Module, fed: Any) -> Tensor:
        """A stand-in with the loss's own gradient: the inner product with the cotangents."""
        with torch.autocast("cpu", dtype=self.autocast, enabled=self.autocast is not None):
            output = model(*fed["args"], **fed["kwargs"])
        total: Tensor | None = None
        outputs = [t for t in tensors_in(output) if t.is_floating_point()]
        caught = self.cotangents if len(self.cotangents) == len(outputs) else [None] * len(outputs)
        known = any(c is not None for c in caught)
        for tensor, cotangent in zip(outputs, caught, strict=True):
            if not tensor.requires_grad or (known and cotangent is None):
                continue
            weight = torch.ones_like(tensor) if cotangent is None else cotangent.to(tensor.dtype)
            part = (tensor * weight).sum()
            total = part if total is None else total + part
        if total is None:
            raise ValueError("no output of the model depends on a parameter")
        return total


class _Keep:
    """A tensor hook that keeps the gradient and returns nothing."""

    def __init__(self, into: list[Tensor | None], at: int) -> None:
        self.into, self.at = into, at

    def __call__(self, grad: Tensor) -> None:
        self.into[self.at] = grad.detach()


def _versions(tensors: list[Tensor]) -> tuple[int, ...]:
    return tuple(-1 if t.is_inference() else t._version for t in tensors)
