"""Edits that insert, exchange and move normalisation."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers import Followed, WeightStandardised, norm_layer
from gradmend.records.prescription import Edit


@edit_kind
def insert_norm(bench: Bench, edit: Edit) -> None:
    """Put a norm behind each target, which keeps its name.

    ``norm`` is ``BatchNorm``, ``LayerNorm``, ``RMSNorm`` or ``GroupNorm``; the lists ``features``
    (channels or units), ``dims`` (dimensions of positions) and ``groups`` run parallel to the
    targets.
    """
    kind = str(edit.args.get("norm"))
    lists = (list_of(edit, key) for key in ("features", "dims", "groups"))
    new: list[nn.Parameter] = []
    for path, features, dims, groups in zip(edit.targets, *lists, strict=True):
        inner = inside(bench.module(path))
        norm = norm_layer(kind, _whole(features), dims=_whole(dims, 0), groups=_whole(groups))
        _like(bench, inner, norm)
        norm.training = inner.training
        bench.put(path, Followed(inner, norm))
        new += norm.parameters()
    bench.register(new)


@edit_kind
def replace_norm(bench: Bench, edit: Edit) -> None:
    """Put a group norm in the place of each batch norm, with the same scale and offset.

    ``groups`` runs parallel to the targets; one group behind a linear layer is a layer norm.
    """
    for path, groups in zip(edit.targets, list_of(edit, "groups"), strict=True):
        old = inside(bench.module(path))
        if not isinstance(old, nn.modules.batchnorm._BatchNorm) or old.num_features < 1:
            raise CannotApply(
                f"'{path}' is a {type(old).__name__}, not a batch norm",
                "there is nothing to exchange",
                "prescribe anew with gradmend.fix",
            )
        new = nn.GroupNorm(_whole(groups), old.num_features, eps=old.eps, affine=False)
        # The very same Parameters, so that the optimizer's state for them stays.
        new.affine = old.affine
        new.weight, new.bias = old.weight, old.bias
        bench.put(path, new)


@edit_kind
def standardise_weights(bench: Bench, edit: Edit) -> None:
    """Let each target layer compute with its weight standardised; ``gains`` to begin with."""
    new: list[nn.Parameter] = []
    for path, gain in zip(edit.targets, list_of(edit, "gains"), strict=True):
        inner = inside(bench.module(path))
        if type(inner) not in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
            raise CannotApply(
                f"'{path}' is a {type(inner).__name__}, not a plain linear or convolutional layer",
                "its weight has no rows that belong to units",
            )
        wrapped = WeightStandardised(inner, float(number(gain)))
        bench.put(path, wrapped)
        new.append(wrapped.gain)
    bench.register(new)


@edit_kind
def move_norm_first(bench: Bench, edit: Edit) -> None:
    """Set ``norm_first`` of each target, and put a norm behind the last of each stack.

    ``stacks`` names the ``nn.TransformerEncoder`` or ``Decoder`` that lack a final norm, or the
    last layers of stacks that are held otherwise: those are followed by one.
    """
    for path in edit.targets:
        layer = inside(bench.module(path))
        if not isinstance(layer, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            raise CannotApply(
                f"'{path}' is a {type(layer).__name__}, not a transformer layer of torch.nn",
                "where its norms stand is written in its own code",
            )
        bench.set_attribute(layer, "norm_first", True)
    new: list[nn.Parameter] = []
    for name in list_of(edit, "stacks"):
        path = str(name)
        stack = inside(bench.module(path))
        whole = isinstance(stack, nn.TransformerEncoder | nn.TransformerDecoder)
        layer = inside(stack.layers[-1]) if whole else stack  # type: ignore[index,arg-type]
        like: Any = getattr(layer, "norm1", None)
        if not isinstance(like, nn.LayerNorm):
            raise CannotApply(f"'{path}' is no stack of transformer layers with layer norms")
        norm = nn.LayerNorm(like.normalized_shape, eps=like.eps, bias=like.bias is not None)
        _like(bench, layer, norm)
        norm.training = stack.training
        if whole:
            bench.set_attribute(stack, "norm", norm)
        else:
            bench.put(path, Followed(stack, norm))
        new += norm.parameters()
    bench.register(new)


def _like(bench: Bench, inner: nn.Module, norm: nn.Module) -> None:
    """Give a new norm the device and the type of the module in front of it."""
    like = next(inner.parameters(), next(bench.model.parameters(), None))
    if like is not None and like.is_floating_point():
        norm.to(like.device, like.dtype)


def _whole(value: Any, least: int = 1) -> int:
    """A whole number that a layer can be built with."""
    found = number(value)
    if found != math.floor(found) or not least <= found <= 1_000_000:
        raise CannotApply(f"{value!r} stands where an edit needs a whole number from {least}")
    return int(found)
