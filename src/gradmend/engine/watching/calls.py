"""The calls of root modules in the step that is going on, held so that they can be run again."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.probe.batch import Feeder
from gradmend.probe.capture import tensors_in
from gradmend.probe.graph import key_of
from gradmend.probe.influence import Influence
from gradmend.probe.look import look
from gradmend.probe.loss_again import Again
from gradmend.probe.native import first_bad_of
from gradmend.probe.operands import kind_of
from gradmend.records.badvalue import BadValue
from gradmend.records.trace import Trace, Use

MOST_CALLS = 64
"""Calls held of one step; a model called more often is told as not replayable."""


def place_of(tensor: Tensor) -> int:
    """Where a tensor's storage begins; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


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
    ends: frozenset[int] = frozenset()
    """Keys of the autograd nodes that made its outputs."""
    made: frozenset[int] = frozenset()
    """Where the numbers of its outputs lie in memory: a detached output is still one."""

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

    def ended(self, output: object) -> None:
        """The call has returned; numbers of nodes are kept, no tensor."""
        outputs = list(tensors_in(output))
        self.made = frozenset(map(place_of, outputs)) - {0}
        nodes = (tensor.grad_fn for tensor in outputs)
        self.ends = frozenset(key_of(node) for node in nodes if node is not None)

    def is_fed(self, tensor: Tensor, calls: Iterable[HeldCall]) -> bool:
        """Whether an input is what another model has put out in this step: a critic is fed so.

        Memory of this model's own outputs may be in use again, by the batch that came next.
        """
        place, root = place_of(tensor), self.root()
        return any(place in call.made for call in calls if call.root() is not root)

    def has_data(self, calls: Iterable[HeldCall]) -> bool:
        """Whether all that it was given is data, and nothing what another model has put out."""
        calls = list(calls)
        return not any(self.is_fed(t, calls) for t in tensors_in(tuple(self._fed.values())))

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

    @property
    def loss_output(self) -> int | None:
        """Which output backward began at: that of a model that computes its own loss."""
        ones = [
            at
            for at, caught in enumerate(self.cotangents)
            if caught is not None and caught.numel() == 1 and float(caught) == 1.0
        ]
        return ones[0] if len(ones) == 1 else None

    def why_not(self) -> str | None:
        """Why the call cannot be made again; ``None`` if it can."""
        if self.root() is None:
            return "the model is gone"
        tensors = list(tensors_in((self.args, self.kwargs) if self.kwargs else self.args))
        if _versions(tensors) != self.versions:
            return "the batch was changed in place after the call"
        return None

    def look_again(self, *, precision: str, step: int, loss: Again | None = None) -> Trace:
        """Look at the model on this call as it was made, with the loss's own cotangent.

        The pass is ours: weights, buffers, attributes, random state and output streams are left
        as they were.

        Args:
            precision: As of :func:`gradmend.probe.look.look`.
            step: Noted in the trace.
            loss: The call that made the loss of an output, to make it again; without it the
                cotangents stand in for the loss, and the trace knows no loss.

        Raises:
            BadInput: If the model raises, or nothing leads back from its outputs.
        """
        root = self.root()
        assert root is not None
        inner = getattr(root, "_orig_mod", root)
        feeder = Feeder(forward=self._loss if loss is None else _Loss(self, loss))
        with self._as_it_was():
            trace = look(inner, self._fed, feeder, precision=precision, step=step)
        return trace if loss is not None else replace(trace, run=replace(trace.run, loss=None))

    def unused(self, names: list[str]) -> list[str]:
        """Of some parameters of the root, by name, those that the loss does not depend on.

        As :meth:`look_again`, the passes are ours; they are few, and forward only.
        """
        root = self.root()
        assert root is not None
        inner = getattr(root, "_orig_mod", root)
        with self._as_it_was():
            uses = Influence(inner, self._fed, Feeder(forward=self._loss)).uses(names)
        return [name for name, use in uses.items() if use is not Use.CUT_OFF]

    def first_bad(self) -> BadValue | None:
        """Make the call again and find the first value that is not finite; ``None`` if all are.

        As :meth:`look_again`, the pass is ours. Where the loss's own cotangent was not caught,
        the gradient of the outputs' sum is followed.
        """
        root = self.root()
        assert root is not None
        inner = getattr(root, "_orig_mod", root)
        with self._as_it_was():
            return first_bad_of(inner, self._fed, Feeder(forward=self._loss))[1]

    @property
    def _fed(self) -> dict[str, Any]:
        return {"args": self.args, "kwargs": self.kwargs}

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """With the call's random state, and the user's output streams left alone."""
        before = torch.get_rng_state()
        torch.set_rng_state(self.randomness)
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                yield
        finally:
            torch.set_rng_state(before)

    def called(self, model: nn.Module, fed: Any) -> Any:
        """What the model answers."""
        with torch.autocast("cpu", dtype=self.autocast, enabled=self.autocast is not None):
            return model(*fed["args"], **fed["kwargs"])

    def _loss(self, model: nn.Module, fed: Any) -> Tensor:
        """A stand-in with the loss's own gradient: the inner product with the cotangents."""
        output = self.called(model, fed)
        total: Tensor | None = None
        outputs = [t for t in tensors_in(output) if t.is_floating_point()]
        caught = self.cotangents if len(self.cotangents) == len(outputs) else [None] * len(outputs)
        if any(c is not None and kind_of(c) for c in caught):  # the loss broke, not the model
            caught = [None] * len(outputs)
        known = any(c is not None for c in caught)
        if known and self.loss_output is not None:  # gradients of other outputs came through it
            return outputs[self.loss_output].reshape(())
        for tensor, cotangent in zip(outputs, caught, strict=True):
            if not tensor.requires_grad or (known and cotangent is None):
                continue
            weight = torch.ones_like(tensor) if cotangent is None else cotangent.to(tensor.dtype)
            part = (tensor * weight).sum()
            total = part if total is None else total + part
        if total is None:
            raise ValueError("no output of the model depends on a parameter")
        return total


@dataclass(frozen=True, slots=True)
class _Loss:
    """A call's loss by the function that made it."""

    call: HeldCall
    loss: Again

    def __call__(self, model: nn.Module, fed: Any) -> Tensor:
        for output in tensors_in(self.call.called(model, fed)):
            found = self.loss(output) if output.is_floating_point() else None
            if found is not None:
                return found
        raise ValueError("the loss was not computed from an output of the model")


class _Keep:
    """A tensor hook that keeps the gradient and returns nothing."""

    def __init__(self, into: list[Tensor | None], at: int) -> None:
        self.into, self.at = into, at

    def __call__(self, grad: Tensor) -> None:
        self.into[self.at] = grad.detach()


def _versions(tensors: list[Tensor]) -> tuple[int, ...]:
    return tuple(-1 if t.is_inference() else t._version for t in tensors)
