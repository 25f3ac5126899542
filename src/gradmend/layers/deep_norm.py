"""Transformer layers with DeepNorm: LN(alpha x + f(x)) in the place of LN(x + f(x))."""

from __future__ import annotations

from torch import Tensor, nn

from gradmend.layers.attention import take_over


class DeepNormEncoderLayer(nn.TransformerEncoderLayer):
    """``nn.TransformerEncoderLayer`` whose skips count ``alpha`` times (Wang et al. 2022).

    Made from a post-norm layer by :meth:`of`: it shares its parameters, under the same names.
    """

    alpha: float

    @classmethod
    def of(cls, plain: nn.TransformerEncoderLayer, alpha: float) -> DeepNormEncoderLayer:
        """One that has the parameters, hooks and settings of ``plain``."""
        new = take_over(cls, plain)
        new.alpha = alpha
        # nn.TransformerEncoder would hand nested tensors to a layer of torch's own kind.
        new.activation_relu_or_gelu = 0
        return new

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """As ``nn.TransformerEncoderLayer`` with ``norm_first=False``, up to ``alpha``."""
        seen = self.self_attn(
            src, src, src, attn_mask=src_mask, key_padding_mask=src_key_padding_mask,
            need_weights=False, is_causal=is_causal,
        )[0]  # fmt: skip
        x = self.norm1(self.alpha * src + self.dropout1(seen))
        fed = self.linear2(self.dropout(self.activation(self.linear1(x))))
        result: Tensor = self.norm2(self.alpha * x + self.dropout2(fed))
        return result

    def extra_repr(self) -> str:
        """The factor on the skips."""
        return f"alpha={self.alpha:.4g}"


class DeepNormDecoderLayer(nn.TransformerDecoderLayer):
    """``nn.TransformerDecoderLayer`` whose skips count ``alpha`` times (Wang et al. 2022).

    Made from a post-norm layer by :meth:`of`: it shares its parameters, under the same names.
    """

    alpha: float

    @classmethod
    def of(cls, plain: nn.TransformerDecoderLayer, alpha: float) -> DeepNormDecoderLayer:
        """One that has the parameters, hooks and settings of ``plain``."""
        new = take_over(cls, plain)
        new.alpha = alpha
        return new

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """As ``nn.TransformerDecoderLayer`` with ``norm_first=False``, up to ``alpha``."""
        seen = self.self_attn(
            tgt, tgt, tgt, attn_mask=tgt_mask, key_padding_mask=tgt_key_padding_mask,
            is_causal=tgt_is_causal, need_weights=False,
        )[0]  # fmt: skip
        x = self.norm1(self.alpha * tgt + self.dropout1(seen))
        heard = self.multihead_attn(
            x, memory, memory, attn_mask=memory_mask, key_padding_mask=memory_key_padding_mask,
            is_causal=memory_is_causal, need_weights=False,
        )[0]  # fmt: skip
        x = self.norm2(self.alpha * x + self.dropout2(heard))
        fed = self.linear2(self.dropout(self.activation(self.linear1(x))))
        result: Tensor = self.norm3(self.alpha * x + self.dropout3(fed))
        return result

    def extra_repr(self) -> str:
        """The factor on the skips."""
        return f"alpha={self.alpha:.4g}"
