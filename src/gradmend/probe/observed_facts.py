"""Facts of the modules that a watched call runs, and of what it is fed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gradmend.probe.sample import plain, thin


def is_told(kind: type[nn.Module]) -> bool:
    """Whether a module's state is a fact that a cause may lie in: normalisation and dropout."""
    if issubclass(kind, (_BatchNorm, _DropoutNd)):
        return True
    return "Norm" in kind.__name__ or "Dropout" in kind.__name__


def module_facts(module: nn.Module, path: str, args: tuple[Any, ...]) -> dict[str, Any]:
    """``module``, ``class``, ``training``; ``p`` of dropout and, of a batch normalisation,
    ``values_per_channel``: over how many values each statistic was taken.

    Args:
        module: The module.
        path: Its path in the model.
        args: Positional arguments of the call.
    """  # noqa: D205
    facts: dict[str, Any] = {
        "module": path,
        "class": type(module).__name__,
        "training": module.training,
    }
    if isinstance(module, _DropoutNd):
        facts["p"] = module.p
    elif isinstance(module, _BatchNorm) and args and isinstance(args[0], Tensor):
        x = args[0]
        facts["values_per_channel"] = x.numel() // max(1, x.shape[1]) if x.dim() > 1 else 0
    return facts


def input_facts(name: str, x: Tensor) -> dict[str, Any]:
    """``name``, ``shape``, ``dtype``; of numbers ``mean``, ``std`` and ``constant_share``, and of
    all of them ``largest`` (the largest |x|) and ``non_finite``.

    Args:
        name: Of the argument.
        x: What was given.
    """  # noqa: D205
    facts: dict[str, Any] = {
        "name": name,
        "shape": tuple(x.shape),
        "dtype": str(x.dtype).removeprefix("torch."),
    }
    values = plain(x)
    if values is not None:
        part = thin(values, 1 if values.dim() >= 4 else -1)
        wide = part.to(torch.float32 if part.device.type == "mps" else torch.float64)
        low, high = values.detach().aminmax()  # NaN if any is
        largest = max(abs(float(low)), abs(float(high)))
        facts["largest"] = largest
        if not math.isfinite(largest):
            facts["non_finite"] = int((~torch.isfinite(values)).sum())
        facts["mean"] = float(wide.mean())
        facts["std"] = float(wide.std(correction=0))
        if part.dim() > 1 and len(part) > 1:
            facts["constant_share"] = float((part == part[:1]).all(dim=0).double().mean())
    return facts
