"""Run a model on copies of its tensors, and put everything back as it was.

The probe never touches a parameter, buffer or gradient of the user's: for the length of a
``with`` block every module reads shadow tensors instead, and afterwards the module tree, the
random state, the train/eval flags and the attributes that the forward pass wrote are the same
objects with the same bits as before, also when the block raises.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


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
def untouched(modules: list[nn.Module], shadow: Mapping[int, Tensor]) -> Iterator[None]:
    """Let ``modules`` run on ``shadow`` inside the block and restore every bit after it.

    Backward hooks the user registered are set aside meanwhile: they watch real training,
    and the probe's backward passes are none.
    """
    every = list(dict.fromkeys(m for root in modules for m in root.modules()))
    saved = [(module, _State(module)) for module in every]
    with _same_randomness(), _same_defaults():
        try:
            for module in every:
                _swap(module, shadow)
            yield
        finally:
            for module, state in saved:
                state.restore(module)


_SET_ASIDE = ("_backward_hooks", "_backward_pre_hooks")
_TABLES = ("_parameters", "_buffers", "_modules", *_SET_ASIDE)


class _State:
    """A module's attributes, with the contents of the plain containers among them."""

    def __init__(self, module: nn.Module) -> None:
        self.attributes = dict(module.__dict__)
        self.contents = {
            name: value.copy()
            for name, value in self.attributes.items()
            if name in _TABLES or type(value) in (list, dict, set)
        }

    def restore(self, module: nn.Module) -> None:
        module.__dict__.clear()
        module.__dict__.update(self.attributes)
        for name, content in self.contents.items():
            container: Any = self.attributes[name]
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)


def _swap(module: nn.Module, shadow: Mapping[int, Tensor]) -> None:
    for group in (module._parameters, module._buffers):
        for name, tensor in group.items():
            if tensor is not None:
                # dict.__setitem__ keeps the name; registration would check for Parameter.
                group[name] = shadow[id(tensor)]  # type: ignore[assignment]
    if isinstance(module, nn.RNNBase):
        # RNNs keep a second list of their weights for the fused kernels.
        names = module._flat_weights_names
        module.__dict__["_flat_weights"] = [module._parameters[name] for name in names]
    for name in _SET_ASIDE:
        module.__dict__[name].clear()


@contextmanager
def _same_randomness() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
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
