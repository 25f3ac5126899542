"""Attention whose queries and keys are normalised, and norms for heads (QK norm)."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
EPS = 1e-6
"""Added to the mean square, as usual in RMSNorm: far below that of a head in use."""


class HeadNorm(nn.Module):
    """RMS norm of each head of a projection, with one learned gain for each of a head's units.

    A head's logits q k / sqrt(d) are then at most sqrt(d) times the gains, however large the
    weights grow (Henry et al. 2020; Dehghani et al. 2023).

    Args:
        width: Units of a head, d; heads lie one after the other.
        thirds: For a packed projection of queries, keys and values, each a third of the units:
            normalises the first two and leaves the values. Two gains then.
        like: A tensor whose type and device the gains have.
    """

    def __init__(self, width: int, *, thirds: bool = False, like: Tensor) -> None:
        super().__init__()
        self.width = width
        self.thirds = thirds
        self.gain = nn.Parameter(
            torch.ones(2 if thirds else 1, width, dtype=like.dtype, device=like.device)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., heads * width], or three times as many units."""
        if not self.thirds:
            return self._normed(x, 0)
        q, k, v = x.chunk(3, dim=-1)
        return torch.cat([self._normed(q, 0), self._normed(k, 1), v], dim=-1)

    def _normed(self, x: Tensor, row: int) -> Tensor:
        heads = x.reshape(*x.shape[:-1], -1, self.width)
        return F.rms_norm(heads, (self.width,), self.gain[row].to(x.dtype), EPS).flatten(-2)


class NormedAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with RMS-normalised queries and keys; same parameters, same names.

    Made from a module by :meth:`of`: it shares its parameters, which stay the same objects.
    """

    normed: HeadNorm

    @classmethod
    def of(cls, plain: nn.MultiheadAttention) -> NormedAttention:
        """One that has the parameters, hooks and settings of ``plain``."""
        new = take_over(cls, plain)
        # torch's fused pass for inference reads the weights past this module.
        new._qkv_same_embed_dim = False
        like = plain.out_proj.weight
        new.normed = HeadNorm(plain.head_dim, thirds=True, like=like)
        return new

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``: outputs, and the weights where they are wanted."""
        if query.is_nested:  # nn.TransformerEncoder packs padded batches so, for inference
            return self._of_nested(query), None
        batched = query.dim() == 3
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = self._heads(query, key, value)
        mask = _blocked(attn_mask, key_padding_mask, q, k)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            seen = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            causal = is_causal and mask is None
            seen = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal
            )
        out = self.out_proj(seen.transpose(1, 2).flatten(-2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _of_nested(self, x: Tensor) -> Tensor:
        """Self-attention within each of several sequences [length, embed]."""
        lengths = [len(sequence) for sequence in x.unbind()]
        padded = x.to_padded_tensor(0.0)
        at = torch.arange(padded.shape[1], device=padded.device)
        padding = at >= torch.tensor(lengths, device=padded.device)[:, None]
        out, _ = self(padded, padded, padded, key_padding_mask=padding, need_weights=False)
        return torch.nested.as_nested_tensor(
            [sequence[:length] for sequence, length in zip(out, lengths, strict=True)]
        )

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both normed) and values [B, heads, length, width]."""
        if self.in_proj_weight is not None:
            matrices: Any = self.in_proj_weight.chunk(3)
        else:
            matrices = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b) for x, w, b in zip((query, key, value), matrices, biases, strict=True)
        )
        q, k = self.normed._normed(q, 0), self.normed._normed(k, 1)
        q, k, v = (t.reshape(*t.shape[:-1], self.num_heads, -1).transpose(1, 2) for t in (q, k, v))
        return q, k, v


def take_over(cls: type[M], old: nn.Module) -> M:
    """An instance of ``cls`` with everything that ``old`` has: the same parameters and hooks.

    Tables of parameters, buffers and modules are its own, so that what is put into it stays out
    of ``old``.
    """
    new = cls.__new__(cls)
    new.__dict__.update(old.__dict__)
    for table in ("_parameters", "_buffers", "_modules"):
        new.__dict__[table] = dict(old.__dict__[table])
    return new


def _blocked(
    attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor
) -> Tensor | None:
    """Both masks as one to add to the logits [B, heads, L, S]; ``None`` where there is none."""
    (batch, heads), keys = q.shape[:2], k.shape[-2]
    found = None
    if attn_mask is not None:
        found = _added(attn_mask, q)
        if found.dim() == 3:
            found = found.reshape(batch, heads, *found.shape[1:])
    if padding is not None:
        padded = _added(padding, q).reshape(batch, 1, 1, keys)
        found = padded if found is None else found + padded
    return found


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask, where True is left out, as something to add."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    zeros = torch.zeros(mask.shape, dtype=like.dtype, device=like.device)
    return zeros.masked_fill(mask, -math.inf)
