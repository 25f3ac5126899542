"""Calls of torch functions inside a watched forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradmend.probe import attention
from gradmend.probe.attention import Attention
from gradmend.probe.kinds import ACTIVATION_CALLS

DROPOUTS = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
)
WATCHED = ACTIVATION_CALLS | DROPOUTS | {"log_sigmoid", "softmax", "scaled_dot_product_attention"}
"""Names of the functions that are measured, without trailing underscores."""


class FunctionCalls(TorchFunctionMode):
    """Hands the calls that are watched to somebody, and all others straight on.

    Args:
        call: Runs a watched function, given its bare name, itself and its arguments.
        channel_dim: Takes where the units lie, by number of dimensions.
    """

    def __init__(self, call: Callable[..., Any], channel_dim: dict[int, int]) -> None:
        super().__init__()
        self.call, self.channel_dim = call, channel_dim

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        bare = name.strip("_")
        if bare in WATCHED and not torch.compiler.is_compiling():
            return self.call(bare, func, args, kwargs)
        result = func(*args, **kwargs)
        if name.startswith("conv") and isinstance(result, Tensor):
            self.channel_dim[result.dim()] = 1
        elif name == "linear" and isinstance(result, Tensor):
            self.channel_dim[result.dim()] = -1
        return result


def dropout_of(args: Any, kwargs: Any, name: str) -> dict[str, Any]:
    """Facts of a dropout that is called as a function, as of a module's state."""
    given = dict(zip(("input", "p", "training"), args, strict=False)) | dict(kwargs)
    return {
        "class": name,
        "training": bool(given.get("training", True)),
        "p": float(given.get("p", 0.5)),
        "function": True,
    }


def attention_of(args: Any, kwargs: Any) -> Attention:
    """Attention of one call of ``scaled_dot_product_attention``, from its arguments."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | kwargs
    return attention.of_queries(
        given["query"],
        given["key"],
        given.get("attn_mask"),
        is_causal=bool(given.get("is_causal", False)),
        scale=given.get("scale"),
        enable_gqa=bool(given.get("enable_gqa", False)),
    )
