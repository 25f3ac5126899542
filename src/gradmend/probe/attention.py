"""What attention looks at: entropy, largest probability, largest logit, rows with nothing to see.

Logits are computed again from queries and keys, on a bounded sample: at most ``PAIRS`` of them,
for groups (sequence and head) and query rows spread evenly over all, the first included. Every
row that is looked at sees all its keys. Nothing is drawn at random.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gradmend.probe.kinds import short
from gradmend.probe.statistics import wide

PAIRS = 1 << 15
"""Logits that are looked at, at most; a single row with more keys is looked at in full."""

GROUPS = 16
"""Sequences and heads that are looked at, at most."""

MASKED = -9000.0
"""Logits at or below are masked: people write -1e4 (for fp16), -1e9 or the smallest number."""

FAR_MASKED = -1e8
"""The same where logits above 1,000 show that large ones are meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """How one call of attention spread its probability; NaN where that has no meaning."""

    entropy: float = math.nan
    """Mean entropy of a row over the log of the keys it may look at: 1 even, 0 on a single key.
    Rows with fewer than two keys are left out."""
    largest_share: float = math.nan
    """Mean of a row's largest probability, over the same rows."""
    largest_logit: float = math.nan
    """Largest |logit| that is not masked: scale included, before the softmax."""
    masked_rows: float = math.nan
    """Share of the rows without a single key to look at."""
    logit_std: float = math.nan
    """Standard deviation of the logits of a row, rms over rows."""
    scale_ratio: float = math.nan
    """The factor on the product of queries and keys, times sqrt(width): 1 as published, sqrt(width)
    where it is missing."""


def of_scores(scores: Tensor) -> Attention:
    """Attention from its logits, as an explicit ``softmax(scores, dim=-1)`` gets them.

    Args:
        scores: Logits [..., queries, keys]; masked ones are -inf or very negative.
    """
    with torch.no_grad():
        groups = math.prod(scores.shape[:-2])
        at, rows = _sample(groups, scores.shape[-2], scores.shape[-1])
        batch = torch.unravel_index(at.to(scores.device), scores.shape[:-2])
        picked = scores.detach()[batch] if batch else scores.detach()[None]
        found = _summary(picked[:, rows.to(scores.device)].to(wide(scores)))
        return replace(found, scale_ratio=scale_ratio_of(scores))


_ARRANGED = frozenset(
    {"View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Expand", "Clone", "ToCopy"}
    | {"Squeeze", "Unsqueeze", "MaskedFill", "Where", "Add", "Sub", "NativeDropout", "Select"}
    | {"Slice", "SplitWithSizes", "Split", "Unbind", "Alias", "AsStrided", "Repeat", "Tril"}
)
_PRODUCTS = frozenset({"Bmm", "Mm", "Matmul"})
_MOST_STEPS = 24


def scale_ratio_of(scores: Tensor) -> float:
    """:attr:`Attention.scale_ratio` of logits from a product, read from the graph's names.

    A plain number that multiplies or divides them counts as what it is. 1 where something else
    does, or scales queries or keys on the way (a temperature, a rotation).
    """
    factor, node = 1.0, scores.grad_fn
    for _ in range(_MOST_STEPS):
        product = _first(node, _PRODUCTS)
        if product is not None:
            break
        node = _first(node, None)
        number = _number(node)
        if node is None or number is None:
            return math.nan
        factor, node = factor * number, node.next_functions[0][0]
    else:
        return math.nan
    for side, _ in product.next_functions[-2:]:
        node = _first(side, None)
        if node is not None and short(node.name()) in ("Mul", "Div", "Cat", "Neg", "Pow"):
            return 1.0
    try:
        width = float(product.next_functions[0][0]._input_metadata[0].shape[-1])
        return abs(factor) * math.sqrt(width)
    except (AttributeError, IndexError, TypeError, RuntimeError):
        return math.nan


def _number(node: Any) -> float | None:
    """What a multiplication or division by a plain number multiplies with."""
    kind = "" if node is None else short(node.name())
    if kind not in ("Mul", "Div"):
        return None
    edges = node.next_functions
    try:
        other = node._saved_other
        if len(edges) > 1 and edges[1][0] is not None:
            return None  # learned
        if other.dim() or other.device.type != "cpu":
            return None  # reading it would wait for the device
        value = float(other)
    except (AttributeError, RuntimeError, TypeError):
        return None
    if not math.isfinite(value) or value == 0.0:
        return None
    return value if kind == "Mul" else 1.0 / value


def _first(node: Any, wanted: frozenset[str] | None) -> Any:
    """The first node behind that does more than rearrange; ``None`` if it is none of those wanted.

    Along the first edge: what is added (a mask, a bias) comes second.
    """
    for _ in range(_MOST_STEPS):
        if node is None or hasattr(node, "variable"):
            return None
        kind = short(node.name())
        if wanted is not None and kind in wanted:
            return node
        if kind not in _ARRANGED:
            return node if wanted is None else None
        node = next((child for child, _ in node.next_functions if child is not None), None)
    return None


def of_queries(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Attention:
    """Attention from the arguments of ``scaled_dot_product_attention``.

    Args:
        query: [..., H, L, E].
        key: [..., H, S, E]; with ``enable_gqa`` it may have fewer heads, each shared by several.
        attn_mask: Broadcasts to [..., H, L, S]; True (or an added number) takes part.
        is_causal: Query i sees keys 0 to i.
        scale: 1 / sqrt(E) if None.
        enable_gqa: Grouped queries.
    """
    with torch.no_grad(), _full_precision(query):
        L, S = query.shape[-2], key.shape[-2]
        shared = query.shape[-3] // key.shape[-3] if enable_gqa and query.dim() > 2 else 1
        heads = key.shape[:-2] if shared == 1 else (*key.shape[:-3], key.shape[-3] * shared)
        batch = torch.broadcast_shapes(query.shape[:-2], heads)  # type: ignore[no-untyped-call]
        at, rows = _sample(math.prod(batch), L, S)
        at, rows = at.to(query.device), rows.to(query.device)
        where = torch.unravel_index(at, batch) if batch else ()
        q = _pick(query.detach(), where, batch)[:, rows].to(wide(query))
        if shared > 1:
            where = (*where[:-1], where[-1] // shared)
            k = _pick(key.detach(), where, (*batch[:-1], key.shape[-3])).to(q.dtype)
            where = torch.unravel_index(at, batch)
        else:
            k = _pick(key.detach(), where, batch).to(q.dtype)
        scores = (
            q @ k.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        )
        if attn_mask is not None:
            mask = attn_mask.detach().expand(*batch, L, S)
            mask = (mask[where] if batch else mask[None])[:, rows]
            scores = (
                scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
            )
        if is_causal:
            seen = torch.arange(S, device=q.device) <= rows[:, None]
            scores = scores.masked_fill(~seen, -math.inf)
        width = math.sqrt(query.shape[-1])
        return replace(_summary(scores), scale_ratio=1.0 if scale is None else scale * width)


def of_module(
    module: nn.MultiheadAttention, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Attention:
    """Attention of one call of nn.MultiheadAttention, from its weights and arguments.

    Args:
        module: The module; only read.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
    """
    names = list(inspect.signature(nn.MultiheadAttention.forward).parameters)[1:]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    query, key = given["query"].detach(), given["key"].detach()
    padding, mask = given.get("key_padding_mask"), given.get("attn_mask")
    with torch.no_grad(), _full_precision(query):
        if query.dim() == 2:
            query, key = query[None], key[None]
            padding = None if padding is None else padding[None]
        elif not module.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        heads, width, B = module.num_heads, module.head_dim, len(query)
        few = torch.linspace(0, B - 1, min(B, max(1, GROUPS // heads))).long().to(query.device)
        query, key = query[few], key[few]
        Wq, Wk = _projections(module)
        bias = module.in_proj_bias
        bq, bk = (None, None) if bias is None else bias.chunk(3)[:2]
        q = F.linear(_plain(query), _plain(Wq), None if bq is None else _plain(bq))
        k = F.linear(_plain(key), _plain(Wk), None if bk is None else _plain(bk))
        S = key.shape[1]
        blocked = torch.zeros(len(few), 1, 1, S, dtype=q.dtype, device=q.device)
        if mask is not None:
            mask = _added(mask.detach(), q.dtype)
            if mask.dim() == 3:
                mask = mask.reshape(B, heads, *mask.shape[1:])[few]
            blocked = blocked + mask
        if padding is not None:
            blocked = blocked + _added(padding.detach()[few], q.dtype)[:, None, None, :]
        more = 0
        if module.bias_k is not None:
            k = torch.cat([k, _plain(module.bias_k).expand(len(few), 1, -1)], dim=1)
            more += 1
        if module.add_zero_attn:
            k = torch.cat([k, k.new_zeros(len(few), 1, k.shape[-1])], dim=1)
            more += 1
        q = q.reshape(*q.shape[:-1], heads, width).transpose(1, 2)
        k = k.reshape(*k.shape[:-1], heads, width).transpose(1, 2)
        return of_queries(q, k, F.pad(blocked, (0, more)))


def looks_like_attention(scores: Tensor, dim: int | None, module: str) -> bool:
    """Whether a softmax is attention's: over the last of at least three dimensions, and either
    with heads [B, H, Q, K], or square [B, T, T], or called in a module that is named after it.

    Args:
        scores: What the softmax gets.
        dim: Over which dimension.
        module: Path and class of the module that called it.
    """  # noqa: D205
    if scores.dim() < 3 or dim is None or dim % scores.dim() != scores.dim() - 1:
        return False
    if not scores.is_floating_point() or min(scores.shape) < 1 or scores.shape[-1] < 2:
        return False
    square = scores.shape[-1] == scores.shape[-2]
    return scores.dim() >= 4 or square or "att" in module.lower()


def _summary(scores: Tensor) -> Attention:
    """Of logits [G, Q, K] in a wide type."""
    if not scores.numel():
        return Attention()
    if bool(torch.isnan(scores).any()):
        return Attention()
    limit = FAR_MASKED if float(scores.max()) > 1000 else MASKED
    visible = scores > limit
    keys = visible.sum(dim=-1)
    chosen = keys >= 2
    largest = torch.where(visible, scores.abs(), 0.0).max() if bool(visible.any()) else None
    entropy = share = deviation = math.nan
    if bool(chosen.any()):
        kept, count = visible[chosen], keys[chosen].to(scores.dtype)
        values = torch.where(kept, scores[chosen], 0.0)
        centred = torch.where(kept, values - (values.sum(-1) / count)[:, None], 0.0)
        deviation = float((centred.square().sum(-1) / count).mean().sqrt())
        logs = torch.log_softmax(scores[chosen].masked_fill(~visible[chosen], -math.inf), dim=-1)
        p = logs.exp()
        rows = -(p * logs.masked_fill(p == 0, 0.0)).sum(dim=-1)
        entropy = float((rows / keys[chosen].to(rows.dtype).log()).mean())
        share = float(p.amax(dim=-1).mean())
    return Attention(
        entropy=entropy,
        largest_share=share,
        largest_logit=math.nan if largest is None else float(largest),
        masked_rows=float((keys == 0).to(scores.dtype).mean()),
        logit_std=deviation,
    )


def _sample(groups: int, rows: int, keys: int) -> tuple[Tensor, Tensor]:
    """Groups and rows to look at, spread evenly."""
    groups_kept = min(groups, GROUPS)
    rows_kept = max(1, min(rows, PAIRS // max(1, keys * groups_kept)))
    groups_kept = max(1, min(groups_kept, PAIRS // max(1, keys * rows_kept)))
    return (
        torch.linspace(0, groups - 1, groups_kept, device="cpu").long(),
        torch.linspace(0, rows - 1, rows_kept, device="cpu").long(),
    )


def _pick(x: Tensor, where: tuple[Tensor, ...], batch: tuple[int, ...]) -> Tensor:
    return x.expand(*batch, *x.shape[-2:])[where] if batch else x[None]


def _plain(x: Tensor) -> Tensor:
    return x.detach().to(wide(x))


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of nn.MultiheadAttention, where True is left out, as something to add."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def _projections(module: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    if module.in_proj_weight is not None:
        Wq, Wk, _ = module.in_proj_weight.chunk(3)
        return Wq, Wk
    return module.q_proj_weight, module.k_proj_weight


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(device_type=x.device.type, enabled=False)
