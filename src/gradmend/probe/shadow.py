"""Run a model on copies of its tensors, and put everything back as it was.

The probe never touches a parameter, buffer or gradient of the user's: for the length of a
``with`` block every module reads shadow tensors instead, and afterwards the module tree, the
random state, the train/eval flags and the attributes that the forward pass wrote are the same
objects with the same bits as before, also when the block raises.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from gradmend.probe.cutting import recording_off
from gradmend.probe.graph import postorder
from gradmend.probe.saved import CONTAINERS, Holding, Kinds, Saved


@torch.inference_mode(False)  # tensors made in inference mode cannot be differentiated
def make_shadow(modules: list[nn.Module], dtype: torch.dtype | None) -> dict[int, Tensor]:
    """Copy every parameter and buffer, tied ones once.

    Args:
        modules: Root modules (the model, and the loss where it is a module).
        dtype: Floating type of the copies; ``None`` keeps each tensor's own.

    Returns:
        A map from ``id(original tensor)`` to its copy; copies of trainable parameters are
        leaves that require gradients.
    """
    shadow: dict[int, Tensor] = {}
    for root in modules:
        for tensor in _tensors_of(root):
            if id(tensor) in shadow:
                continue
            copy = convert(tensor.detach(), dtype).clone()
            if isinstance(tensor, nn.Parameter):
                copy.requires_grad_(tensor.requires_grad)
            shadow[id(tensor)] = copy
    return shadow


def convert(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Cast floating (or complex) tensors to the probe's type, leave the others alone."""
    if dtype is None:
        return tensor
    if tensor.is_complex():
        return tensor.to(torch.complex128 if dtype == torch.float64 else tensor.dtype)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _tensors_of(root: nn.Module) -> Iterator[Tensor]:
    for module in root.modules():
        for group in (module._parameters, module._buffers):
            yield from (tensor for tensor in group.values() if tensor is not None)


@contextmanager
def untouched(
    modules: list[nn.Module], shadow: Mapping[int, Tensor], dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Let ``modules`` run on ``shadow`` inside the block and restore every bit after it.

    Backward hooks the user registered are set aside meanwhile: they watch real training,
    and the probe's backward passes are none. Compiled code is, too: it holds the real tensors.

    Args:
        modules: Root modules.
        shadow: Stand-ins by ``id`` of the original, see :func:`make_shadow`.
        dtype: Floating type for stand-ins of tensors that are no parameters or buffers, but
            plain attributes (a mask, a cache, an unregistered layer's weights).
    """
    saved = Saved(modules)
    with _same_randomness(), _same_defaults(), _plain_execution():
        try:
            swap = _Swap(shadow, dtype)
            for module in saved.modules:
                swap.enter(module)
            yield
        finally:
            saved.restore()


_SET_ASIDE = ("_backward_hooks", "_backward_pre_hooks")


class _Swap:
    """Puts stand-ins in the place of every tensor that a module holds."""

    def __init__(self, shadow: Mapping[int, Tensor], dtype: torch.dtype | None) -> None:
        self.shadow = shadow
        self.dtype = dtype
        self.made: dict[int, Tensor] = {}
        self.seen: set[int] = set()
        self.kinds = Kinds()

    def enter(self, module: nn.Module) -> None:
        own = module.__dict__
        for name in _SET_ASIDE:
            own[name].clear()
        if own.get("_compiled_call_impl") is not None:
            own["_compiled_call_impl"] = None
        kinds = self.kinds
        for name, value in list(own.items()):
            kind = kinds[type(value)]
            if kind is Holding.PLAIN or kind is Holding.MODULE:
                continue
            if kind is Holding.CONTAINER and not value:
                continue
            changed = self.replaced(value)
            if changed is not value:
                own[name] = changed

    def replaced(self, value: Any) -> Any:
        """The value, with tensors swapped; plain containers are changed in place."""
        if isinstance(value, Tensor):
            return self.stand_in(value)
        if isinstance(value, tuple):
            items = [self.replaced(item) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if type(value) not in CONTAINERS or id(value) in self.seen:
            return value
        self.seen.add(id(value))
        if isinstance(value, dict):
            for key, item in list(value.items()):
                changed = self.replaced(item)
                if changed is not item:
                    value[key] = changed  # keeps the key's place
        elif not isinstance(value, set):
            for index, item in enumerate(list(value)):
                changed = self.replaced(item)
                if changed is not item:
                    value[index] = changed
        return value

    def stand_in(self, tensor: Tensor) -> Tensor:
        """A parameter's or buffer's shadow, or a copy of any other tensor."""
        if id(tensor) in self.shadow:
            return self.shadow[id(tensor)]
        if id(tensor) not in self.made:
            with torch.enable_grad():
                if tensor.grad_fn is not None:  # computed from others; the model may rely on it
                    made = convert(tensor, self.dtype).clone()
                else:
                    made = convert(tensor.detach(), self.dtype).clone()
                    made.requires_grad_(tensor.requires_grad)
            self.made[id(tensor)] = made
        return self.made[id(tensor)]


@contextmanager
def _plain_execution() -> Iterator[None]:
    """No inference mode, no compiled code, no reentrant checkpoints inside the block."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        if "torch._dynamo" in sys.modules:  # importing it takes longer than a look
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            # It warns that our hooks fire for the compiled wrapper as well; they may.
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there")
        original = CheckpointFunction.__dict__.get("apply")
        token = data_leaves.set(frozenset())  # ids of another look's leaves may be in use again
        CheckpointFunction.apply = staticmethod(_run_plainly)  # type: ignore[method-assign]
        try:
            yield
        finally:
            data_leaves.reset(token)
            if original is None:
                del CheckpointFunction.apply
            else:
                CheckpointFunction.apply = original  # type: ignore[method-assign]


def _run_plainly(function: Any, preserve: bool, *args: Any) -> Any:
    """What a reentrant checkpoint computes, without its node, which refuses autograd.grad.

    It gives no gradient to parameters when no tensor handed in wants one. Here the data wants
    one, for the books' sake; so ask whether a trainable tensor led to what is handed in.
    """
    del preserve  # nothing is recomputed
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if any(_from_trainable(tensor) for tensor in tensors):
        return function(*args)
    why = recording_off.set("reentrant_checkpoint")
    try:
        with torch.no_grad():
            return function(*args)
    finally:
        recording_off.reset(why)


def _from_trainable(tensor: Tensor) -> bool:
    if tensor.grad_fn is None:
        return tensor.requires_grad and id(tensor) not in data_leaves.get()
    every, _ = postorder(tensor.grad_fn)
    return any(
        id(node.variable) not in data_leaves.get()
        for node in every.values()
        if hasattr(node, "variable")
    )


data_leaves: ContextVar[frozenset[int]] = ContextVar("data_leaves", default=frozenset())
"""ids of the differentiable copies of the batch: leaves that want a gradient only here."""


@contextmanager
def _same_randomness() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _same_defaults() -> Iterator[None]:
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
