"""Edits that bound the logits of attention."""

from __future__ import annotations

from torch import nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers.attention import HeadNorm, NormedAttention
from gradmend.layers.wrappers import Followed
from gradmend.records.prescription import Edit


@edit_kind
def normalise_attention(bench: Bench, edit: Edit) -> None:
    """Normalise queries and keys of every target, an ``nn.MultiheadAttention``."""
    new: list[nn.Parameter] = []
    for path in edit.targets:
        old = inside(bench.module(path))
        if type(old) is not nn.MultiheadAttention or old.bias_k is not None or old.add_zero_attn:
            raise CannotApply(
                f"'{path}' is no plain nn.MultiheadAttention, but a {type(old).__name__}",
                "only of that is the way through known, without extra keys",
                "prescribe anew with gradmend.fix",
            )
        normed = NormedAttention.of(old)
        normed.normed.training = old.training
        bench.put(path, normed)
        new += normed.normed.parameters()
    bench.register(new)


@edit_kind
def normalise_heads(bench: Bench, edit: Edit) -> None:
    """Put an RMS norm for each head behind projections: ``widths`` run parallel to targets.

    With ``thirds`` a target is a packed projection of queries, keys and values, in that order,
    and the values are left alone.
    """
    thirds = edit.args.get("thirds") is True
    new: list[nn.Parameter] = []
    for path, width in zip(edit.targets, list_of(edit, "widths"), strict=True):
        inner = inside(bench.module(path))
        each = int(number(width))
        if not isinstance(inner, nn.Linear) or each < 1:
            raise CannotApply(f"'{path}' is no linear layer with heads of {width}")
        if inner.out_features % ((3 if thirds else 1) * each):
            raise CannotApply(
                f"the {inner.out_features} outputs of '{path}' are no heads of {each}"
            )
        norm = HeadNorm(each, thirds=thirds, like=inner.weight)
        norm.training = inner.training
        bench.put(path, Followed(inner, norm))
        new += norm.parameters()
    bench.register(new)
