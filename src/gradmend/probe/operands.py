"""What an operation was given, as numbers that tell why its result is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradmend.probe.small import small_array
from gradmend.records.badvalue import Operand

MASKS = frozenset(
    {"masked_fill", "where", "full", "full_like", "new_full", "tensor", "triu", "tril", "fill"}
    | {"scatter", "index_fill", "masked_scatter", "float", "to", "as_tensor", "__setitem__"}
    | {"expand", "view", "reshape", "unsqueeze", "getitem", "__getitem__", "clone", "contiguous"}
)
"""Operations that put minus infinity where nothing is to be looked at, or pass it on."""
FEWEST_ROWS = 2
"""Keys of a row that may be masked: a single number is no row."""


def operand(x: Tensor, lineage: Sequence[str] = (), name: str = "") -> Operand:
    """Count what makes an operation fail: zeros, negative numbers, NaN, infinities, empty rows."""
    with torch.no_grad():
        values = x.detach()
        if values.is_complex():
            values = torch.view_as_real(values)
        told: dict[str, Any] = {
            "shape": tuple(x.shape),
            "dtype": str(x.dtype).removeprefix("torch."),
            "entries": x.numel(),
            "lineage": tuple(lineage),
            "name": name,
        }
        if not values.numel() or values.layout != torch.strided:
            return Operand(**told)
        if values.dtype == torch.bool:
            return Operand(**told, zeros=int((~values).sum()))
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        finite = torch.isfinite(values)
        kept = values[finite]
        below = values == -math.inf
        if values.is_floating_point() and values.dim() and values.shape[-1] >= FEWEST_ROWS:
            told["masked_rows"] = int(below.all(dim=-1).sum())
        return Operand(
            **told,
            zeros=int((kept == 0).sum()),
            negative=int((kept < 0).sum()),
            nan=int(torch.isnan(values).sum()),
            infinite=int((values == math.inf).sum()),
            minus_infinite=int(below.sum()),
            largest=float(kept.max()) if kept.numel() else 0.0,
            least=float(kept.min()) if kept.numel() else 0.0,
        )


def kind_of(x: Tensor) -> str:
    """``nan``, ``inf`` or ``-inf``, the first of these that a tensor holds; empty if finite."""
    values = torch.view_as_real(x) if x.is_complex() else x
    if not values.is_floating_point() or not values.numel() or values.layout != torch.strided:
        return ""
    small = small_array(values)
    if small is not None and math.isfinite(small.min()) and math.isfinite(small.max()):
        return ""
    if bool(torch.isfinite(values).all()):
        return ""
    if bool(torch.isnan(values).any()):
        return "nan"
    return "inf" if bool((values == math.inf).any()) else "-inf"


def is_mask(x: Tensor, name: str) -> bool:
    """Whether all that is not finite in a call's output is minus infinity written on purpose."""
    return name.rstrip("_") in MASKS and kind_of(x) == "-inf"


def bad_entries(x: Tensor) -> int:
    """How many entries are not finite."""
    values = torch.view_as_real(x) if x.is_complex() else x
    return int((~torch.isfinite(values)).sum()) if values.is_floating_point() else 0
