"""Architectures for words, tables, densities, spikes and differential equations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from _third_party_subjects import (
    CLASSES,
    Build,
    Subject,
    classes,
    cross_entropy,
    features,
    generator,
    next_word,
    waves,
    words,
)
from torch import Tensor, nn

LAYOUTS: dict[str, dict[str, Any]] = {
    "pre-norm": {},
    "post-norm": {"pre_norm": False},
    "sandwich-norm": {"sandwich_norm": True},
    "residual-attention": {"residual_attn": True},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True, "alibi_num_heads": 2},
    "relative-positions": {"rel_pos_bias": True},
    "dynamic-positions": {"dynamic_pos_bias": True},
    "glu": {"ff_glu": True},
    "swish-glu": {"ff_swish": True, "ff_glu": True},
    "relu-squared": {"ff_relu_squared": True},
    "ff-post-norm": {"ff_post_act_ln": True},
    "no-bias": {"ff_no_bias": True},
    "scale-norm": {"use_scalenorm": True},
    "rms-norm": {"use_rmsnorm": True},
    "simple-rms-norm": {"use_simple_rmsnorm": True},
    "qk-norm": {"attn_qk_norm": True},
    "qk-norm-dim-scale": {"attn_qk_norm": True, "attn_qk_norm_dim_scale": True},
    "attention-gates": {"attn_gate_values": True},
    "attention-on-attention": {"attn_on_attn": True},
    "talking-heads": {"attn_pre_talking_heads": True, "attn_post_talking_heads": True},
    "one-kv-head": {"attn_one_kv_head": True},
    "sparse-topk": {"attn_sparse_topk": 8},
    "layer-scale": {"use_layerscale": True},
    "gated-residual": {"gate_residual": True},
    "scaled-residual": {"scale_residual": True},
    "hyper-connections": {"num_residual_streams": 2},
    "macaron": {"macaron": True},
    "shift-tokens": {"shift_tokens": 1},
    "sandwich-coefficient": {"sandwich_coef": 2},
    "resi-dual": {"pre_norm": False, "resi_dual": True},
    "memory-key-values": {"attn_num_mem_kv": 4},
    "zero-init-branch": {"zero_init_branch_output": True},
    "softclamp-logits": {"attn_softclamp_logits": True},
    "selective-attention": {"attn_selective": True},
    "learned-value-residual": {"add_value_residual": True, "learned_value_residual_mix": True},
    "unet-skips": {"unet_skips": True},
    "forgetting": {"attn_data_dependent_alibi": True},
    "laser": {"attn_laser": True},
    "dynamic-tanh": {"use_dynamic_tanh": True},
}


def x_transformers_source() -> Iterator[tuple[str, Build]]:
    """A small language model in each layout."""
    for name, more in LAYOUTS.items():
        yield f"x-transformers/{name}", lambda more=more: x_transformer(more)
    yield "x-transformers/encoder-decoder", x_pair


def x_transformer(more: dict[str, Any]) -> Subject:
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    model = TransformerWrapper(
        num_tokens=256,
        max_seq_len=64,
        attn_layers=Decoder(dim=64, depth=4, heads=4, attn_dim_head=16, **more),
    )

    def batch(n: int) -> tuple[Tensor, Tensor]:
        line = words(n, 8, 33)
        return line, line

    return Subject(model.train(), batch, next_word)


def x_pair() -> Subject:
    from x_transformers import XTransformer

    torch.manual_seed(0)
    model = XTransformer(
        dim=64,
        enc_num_tokens=256, enc_depth=3, enc_heads=4, enc_max_seq_len=32,
        dec_num_tokens=256, dec_depth=3, dec_heads=4, dec_max_seq_len=33,
    )  # fmt: skip

    def batch(n: int) -> tuple[Any, Tensor]:
        line = words(n, 8, 32)
        return (line, line), line

    return Subject(model.train(), batch, lambda loss, _: loss)


def table_source() -> Iterator[tuple[str, Build]]:
    """Rows of features."""
    for name in ("MLP", "ResNet", "FTTransformer"):
        yield f"rtdl/{name}", lambda name=name: table(name)


def table(name: str) -> Subject:
    import rtdl_revisiting_models as rtdl

    torch.manual_seed(0)
    if name == "MLP":
        model: nn.Module = rtdl.MLP(d_in=16, d_out=CLASSES, n_blocks=3, d_block=64, dropout=0.1)
    elif name == "ResNet":
        model = rtdl.ResNet(
            d_in=16, d_out=CLASSES, n_blocks=3, d_block=64, d_hidden=None,
            d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.0,
        )  # fmt: skip
    else:
        settings = rtdl.FTTransformer.get_default_kwargs()
        model = rtdl.FTTransformer(
            n_cont_features=16, cat_cardinalities=[], d_out=CLASSES, **settings
        )

    def batch(n: int) -> tuple[Any, Tensor]:
        x, y = features(n, 64, 16)
        return ((x, None) if name == "FTTransformer" else x), y

    return Subject(model.train(), batch, cross_entropy)


def density_source() -> Iterator[tuple[str, Build]]:
    """Flows and mixtures, fitted by likelihood to noisy rings."""
    for name in ("MAF", "NSF", "NICE", "UNAF", "SOSPF", "NCSF", "GMM", "CNF", "BPF", "GF", "NAF"):
        yield f"zuko/{name}", lambda name=name: density(name)


class LogLikelihood(nn.Module):
    """A flow, called for the log-density of points."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.flow().log_prob(x)
        return value


def density(name: str) -> Subject:
    import zuko

    torch.manual_seed(0)
    more: dict[str, Any] = {} if name in ("GMM",) else {"hidden_features": (32, 32)}
    if name in ("CNF", "GMM"):
        flow = getattr(zuko.flows, name)(2, 0, **more)
    elif name == "GF":
        flow = zuko.flows.GF(2, 0, transforms=3, **more)
    else:
        flow = getattr(zuko.flows, name)(2, 0, transforms=3, **more)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        draw = generator(n)
        angle = 6.283 * torch.rand(128, generator=draw)
        radius = 1 + 0.1 * torch.randn(128, generator=draw)
        x = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return x, x

    return Subject(LogLikelihood(flow).train(), batch, lambda density, _: -density.mean())


def odd_source() -> Iterator[tuple[str, Build]]:
    """State spaces, spikes, differential equations, torch's own recurrent and attention nets."""
    yield "mambapy/Mamba", lambda: state_space(2)
    yield "mambapy/deep", lambda: state_space(8)
    yield "snntorch/Leaky", lambda: spiking("Leaky")
    yield "snntorch/Synaptic", lambda: spiking("Synaptic")
    yield "snntorch/Alpha", lambda: spiking("Alpha")
    yield "torchdiffeq/odeint", lambda: equation(False)
    yield "torchdiffeq/adjoint", lambda: equation(True)
    yield "torch/Transformer", torch_transformer
    for name in ("LSTM", "GRU", "RNN"):
        yield f"torch/{name}", lambda name=name: recurrent(name)


class StateSpace(nn.Module):
    """A language model of Mamba blocks."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        from mambapy.mamba import Mamba, MambaConfig

        self.words = nn.Embedding(256, 32)
        self.body = Mamba(MambaConfig(d_model=32, n_layers=depth))
        self.head = nn.Linear(32, 256)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(self.words(x)))
        return scores


def state_space(depth: int) -> Subject:
    torch.manual_seed(0)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        line = words(n, 8, 32)
        return line, line

    return Subject(StateSpace(depth).train(), batch, next_word)


class Spiking(nn.Module):
    """Two spiking layers, run for some steps; the class is the unit that fires most."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        import snntorch as snn

        more = {
            "Leaky": {"beta": 0.9},
            "Synaptic": {"alpha": 0.8, "beta": 0.9},
            "Alpha": {"alpha": 0.9, "beta": 0.8},
        }
        self.one, self.two = nn.Linear(64, 128), nn.Linear(128, CLASSES)
        self.spikes = getattr(snn, kind)(**more[kind], init_hidden=True)
        self.outputs = getattr(snn, kind)(**more[kind], init_hidden=True, output=True)

    def forward(self, x: Tensor) -> Tensor:
        from snntorch import utils

        utils.reset(self)
        total = torch.zeros(len(x), CLASSES)
        for _ in range(12):
            total = total + self.outputs(self.two(self.spikes(self.one(x))))[-1]
        return total / 4


def spiking(kind: str) -> Subject:
    torch.manual_seed(0)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        return waves(n, 32, (1, 64)).squeeze(1), classes(n, 32)

    return Subject(Spiking(kind).train(), batch, cross_entropy)


class Equation(nn.Module):
    """A neural ordinary differential equation between linear layers."""

    def __init__(self, adjoint: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, CLASSES)
        self.field = Field()
        self.adjoint = adjoint

    def forward(self, x: Tensor) -> Tensor:
        import torchdiffeq

        solve = torchdiffeq.odeint_adjoint if self.adjoint else torchdiffeq.odeint
        path = solve(
            self.field,
            self.first(x),
            torch.tensor([0.0, 1.0]),
            method="rk4",
            options={"step_size": 0.25},
        )
        scores: Tensor = self.last(path[-1])
        return scores


class Field(nn.Module):
    """The right-hand side."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32))

    def forward(self, time: Tensor, state: Tensor) -> Tensor:
        slope: Tensor = self.net(state)
        return slope


def equation(adjoint: bool) -> Subject:
    torch.manual_seed(0)
    return Subject(Equation(adjoint).train(), lambda n: features(n, 64, 16), cross_entropy)


class Sequence(nn.Module):
    """A recurrent net over words."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.words = nn.Embedding(256, 64)
        self.body = getattr(nn, name)(64, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 256)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(self.words(x))[0])
        return scores


def recurrent(name: str) -> Subject:
    torch.manual_seed(0)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        line = words(n, 8, 32)
        return line, line

    return Subject(Sequence(name).train(), batch, next_word)


class Encoder(nn.Module):
    """torch's own transformer encoder over words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(256, 64), nn.Linear(64, 256)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 4)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        scores: Tensor = self.head(self.body(self.words(x), mask=mask, is_causal=True))
        return scores


def torch_transformer() -> Subject:
    torch.manual_seed(0)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        line = words(n, 8, 32)
        return line, line

    return Subject(Encoder().train(), batch, next_word)
