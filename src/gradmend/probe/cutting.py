"""What ends a tensor's history in a forward pass: calls, and recording that is off."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(slots=True)
class CutCall:
    """A call whose result has no history although what it was given has one."""

    name: str
    path: str
    source: str | None
    node: Any
    """The node that made what it was given."""


CUTTING = frozenset(
    {"detach", "data", "item", "tolist", "numpy", "argmax", "argmin", "argsort", "tensor"}
    | {"as_tensor", "long", "int", "new_tensor", "searchsorted", "bucketize", "multinomial"}
    | {"one_hot", "asarray", "__array__", "__float__", "__int__", "from_numpy", "topk"}
)
"""Functions that end a tensor's history."""
recording_off: ContextVar[str] = ContextVar("recording_off", default="")
"""Why recording is off, where it is not the user's own ``no_grad``."""


def why_unrecorded() -> str:
    """``no_grad``, ``inference_mode`` or ``reentrant_checkpoint``; empty where it is recorded."""
    if torch.is_grad_enabled():
        return ""
    if torch.is_inference_mode_enabled():
        return "inference_mode"
    return recording_off.get() or "no_grad"
