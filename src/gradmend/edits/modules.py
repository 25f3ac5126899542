"""Edits that put a module into the place of another, or around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers import REPLACEMENTS, CentredSigmoid, Standardised
from gradmend.records.prescription import Edit


@edit_kind
def replace_module(bench: Bench, edit: Edit) -> None:
    """Put another activation in the place of each target; ``module`` names its class.

    ``dim``, ``negative_slope`` and ``init`` are handed to the class where given.
    """
    name = str(edit.args.get("module"))
    if name not in REPLACEMENTS:
        raise CannotApply(f"'{name}' cannot be put in", "", f"one of {', '.join(REPLACEMENTS)}")
    options: dict[str, Any] = {
        key: number(edit.args[key]) for key in ("dim", "negative_slope", "init") if key in edit.args
    }
    for path in edit.targets:
        bench.put(path, REPLACEMENTS[name](**options))


@edit_kind
def standardise_input(bench: Bench, edit: Edit) -> None:
    """Let the target module read (x - mean) / std; ``mean`` and ``std`` per feature or for all."""
    if not list_of(edit, "mean") or not list_of(edit, "std"):
        raise CannotApply("the edit 'standardise_input' has an empty 'mean' or 'std'")
    for path in edit.targets:
        inner = inside(bench.module(path))
        like = next(inner.parameters(), next(bench.model.parameters()))
        mean, std = (
            torch.tensor(
                [float(number(v)) for v in list_of(edit, key)], device=like.device, dtype=like.dtype
            )
            for key in ("mean", "std")
        )
        bench.put(path, Standardised(inner, mean, std))


@edit_kind
def centre_sigmoids(bench: Bench, edit: Edit) -> None:
    """Put the sigmoid into centred coordinates: targets become :class:`CentredSigmoid`.

    ``feeds`` names the layer in front of each and ``readers`` those behind it; export folds them.
    """
    for path in edit.targets:
        if type(inside(bench.module(path))) is not nn.Sigmoid:
            raise CannotApply(
                f"'{path}' is a {type(bench.module(path)).__name__}, not an nn.Sigmoid",
                "only the sigmoid has these coordinates",
            )
        bench.put(path, CentredSigmoid())
