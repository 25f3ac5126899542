"""Where a forward pass cannot be watched without changing it, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch import nn

_FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)

CHECKPOINT = (
    "inside reentrant checkpoints the gradients of outputs were not measured, since their forward "
    "pass records nothing: checkpoint(..., use_reentrant=False) shows them"
)


def blind(modules: Iterable[nn.Module]) -> str | None:
    """Why nothing can be watched now, if so.

    Args:
        modules: All of the model.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "the model is being compiled or traced: its outputs were not measured"
    if any(
        getattr(m, "_compiled_call_impl", None) is not None or type(m).__name__ == "OptimizedModule"
        for m in modules
    ):
        return (
            "the model, or a part of it, is compiled, and hooks would compile it again: "
            "its outputs were not measured"
        )
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
        return "the model is being captured in a CUDA graph: its outputs were not measured"
    return None


def blind_to_calls(modules: Iterable[nn.Module]) -> str | None:
    """Why functional calls cannot be watched, if so.

    Args:
        modules: All of the model.
    """
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is not None and utils.counters["frames"].get("total", 0):
        # Compiled code is specialised on the modes in force and would be compiled again.
        return "compiled functions are in use: calls of functions were not measured, modules were"
    if any(isinstance(m, _FUSED) and not m.training for m in modules):
        # A mode switches their fused path off, whose rounding differs.
        return "attention modules are in eval mode: calls of functions were not measured"
    return None


def in_reentrant_checkpoint() -> bool:
    """Whether the caller runs in the first pass of a reentrant checkpoint, which has no graph."""
    checkpoint = sys.modules.get("torch.utils.checkpoint")
    if checkpoint is None:
        return False
    code = checkpoint.CheckpointFunction.forward.__code__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def why_unrecorded() -> str:
    """Why no graph is recorded: ``inference_mode``, ``reentrant_checkpoint`` or ``no_grad``."""
    if torch.is_inference_mode_enabled():
        return "inference_mode"
    return "reentrant_checkpoint" if in_reentrant_checkpoint() else "no_grad"
