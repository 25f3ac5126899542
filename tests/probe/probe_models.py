"""Hand-written models, one for each way people wire a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Case(NamedTuple):
    model: nn.Module
    batch: Any
    loss_fn: Any = None
    forward: Any = None


def xy(features: int = 6, classes: int = 3, size: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(size, features), torch.randint(classes, (size,))


MODELS: dict[str, Callable[[], Case]] = {}


def case(build: Callable[[], Case]) -> Callable[[], Case]:
    MODELS[build.__name__] = build
    return build


class Written(nn.Module):
    """A module whose forward is a function of (self, x)."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


@case
def mlp() -> Case:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
    return Case(model, xy(), F.cross_entropy)


@case
def cnn_strided() -> Case:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, groups=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    return Case(model, (torch.randn(5, 2, 8, 8), torch.randint(3, (5,))), F.cross_entropy)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.inner = inner
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.inner(x)


def mlp_part(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))


@case
def residual() -> Case:
    model = nn.Sequential(*(Residual(mlp_part(), 0.5) for _ in range(4)), nn.Linear(6, 3))
    return Case(model, xy(), F.cross_entropy)


@case
def skip_around_and_inside() -> Case:
    inner = Residual(nn.Sequential(Residual(mlp_part()), nn.Sigmoid(), Residual(mlp_part())))
    return Case(nn.Sequential(Residual(inner), nn.Linear(6, 3)), xy(), F.cross_entropy)


@case
def transformer() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Case(model, (torch.randn(3, 5, 8), torch.randn(3, 5, 8)), F.mse_loss)


@case
def lstm() -> Case:
    model = Written(
        lambda s, x: s.head(s.body(x)[0][:, -1]),
        body=nn.LSTM(6, 5, num_layers=2, batch_first=True),
        head=nn.Linear(5, 3),
    )
    return Case(model, (torch.randn(4, 7, 6), torch.randint(3, (4,))), F.cross_entropy)


@case
def gru_two_ways() -> Case:
    model = Written(
        lambda s, x: s.head(s.body(x)[0].mean(1)),
        body=nn.GRU(6, 5, batch_first=True, bidirectional=True),
        head=nn.Linear(10, 3),
    )
    return Case(model, (torch.randn(4, 7, 6), torch.randint(3, (4,))), F.cross_entropy)


@case
def lstm_cell_unrolled() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 5)
        c = x.new_zeros(x.shape[0], 5)
        for t in range(x.shape[1]):
            h, c = s.cell(x[:, t], (h, c))
        return s.head(h)

    model = Written(run, cell=nn.LSTMCell(6, 5), head=nn.Linear(5, 3))
    return Case(model, (torch.randn(4, 6, 6), torch.randint(3, (4,))), F.cross_entropy)


@case
def functional() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        h = F.elu(F.linear(x, s.w, s.b))
        h = torch.tanh(h @ s.v)
        return torch.einsum("bi,oi->bo", F.softplus(h), s.u)

    model = Written(
        run,
        w=nn.Parameter(torch.randn(7, 6) / 2),
        b=nn.Parameter(torch.randn(7)),
        v=nn.Parameter(torch.randn(7, 5) / 2),
        u=nn.Parameter(torch.randn(3, 5)),
    )
    return Case(model, xy(), F.cross_entropy)


@case
def in_place() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        x.mul_(2.0)
        h = s.a(x)
        h += x
        h = torch.relu_(h)
        h = s.b(h).sigmoid_() * 3.0
        h[:, 0] *= 2.0
        return s.c(h)

    model = Written(run, a=nn.Linear(6, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3))
    return Case(model, xy(), F.cross_entropy)


@case
def dense_concat() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        for layer in s.layers:
            x = torch.cat([x, torch.relu(layer(x))], dim=1)
        return s.out(x)

    model = Written(
        run,
        layers=nn.ModuleList(nn.Linear(6 + 4 * i, 4) for i in range(4)),
        out=nn.Linear(22, 3),
    )
    return Case(model, xy(), F.cross_entropy)


@case
def shared_module() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        h = s.block(x)
        return s.head(s.block(h) + s.block(h * 0.5))

    return Case(Written(run, block=mlp_part(), head=nn.Linear(6, 3)), xy(), F.cross_entropy)


@case
def tied_weights() -> Case:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return Case(model, xy(), F.cross_entropy)


@case
def outputs_tuple() -> Case:
    def run(s: Any, x: Tensor) -> Any:
        h = torch.tanh(s.a(x))
        return s.b(h), (s.c(h), [h])  # the last one is a hidden state that it also consumes

    def loss(out: Any, y: Tensor) -> Tensor:
        return F.cross_entropy(out[0], y) + out[1][0].square().mean() + out[1][1][0].abs().mean()

    parts = {"a": nn.Linear(6, 6), "b": nn.Linear(6, 3), "c": nn.Linear(6, 2)}
    return Case(Written(run, **parts), xy(), loss)


@case
def outputs_dict_one_unused() -> Case:
    def run(s: Any, x: Tensor) -> Any:
        h = torch.tanh(s.a(x))
        return {"logits": s.b(h), "unused": s.c(h)}

    parts = {"a": nn.Linear(6, 6), "b": nn.Linear(6, 3), "c": nn.Linear(6, 2)}
    return Case(Written(run, **parts), xy(), lambda out, y: F.cross_entropy(out["logits"], y))


@dataclass
class Outputs:
    logits: Tensor
    hidden: Tensor


@case
def outputs_dataclass() -> Case:
    def run(s: Any, x: Tensor) -> Outputs:
        h = torch.tanh(s.a(x))
        return Outputs(logits=s.b(h), hidden=h)

    def loss(out: Outputs, y: Tensor) -> Tensor:
        return F.cross_entropy(out.logits, y) + out.hidden.square().sum()

    return Case(Written(run, a=nn.Linear(6, 6), b=nn.Linear(6, 3)), xy(), loss)


@case
def hidden_states_of_every_block() -> Case:
    def run(s: Any, x: Tensor) -> Any:
        seen = []
        for block in s.blocks:
            x = x + block(x)
            seen.append(x)
        return s.head(x), tuple(seen)

    def loss(out: Any, y: Tensor) -> Tensor:
        return F.cross_entropy(out[0], y) + sum(h.square().mean() for h in out[1])

    blocks = nn.ModuleList(mlp_part() for _ in range(3))
    return Case(Written(run, blocks=blocks, head=nn.Linear(6, 3)), xy(), loss)


@case
def inputs_tuple() -> Case:
    x, y = xy()
    model = Written(
        lambda s, a, b: s.out(torch.tanh(s.f(a)) * torch.sigmoid(s.g(b)) + b),
        f=nn.Linear(6, 4),
        g=nn.Linear(4, 4),
        out=nn.Linear(4, 3),
    )
    return Case(model, ((x, torch.randn(5, 4)), y), F.cross_entropy)


@case
def inputs_mapping_of_integers_and_floats() -> Case:
    model = Written(
        lambda s, ids, extra, labels: s.out(torch.tanh(s.table(ids).mean(1) + s.f(extra))),
        table=nn.Embedding(9, 4),
        f=nn.Linear(2, 4),
        out=nn.Linear(4, 3),
    )
    batch = {
        "ids": torch.randint(9, (5, 4)),
        "extra": torch.randn(5, 2),
        "labels": torch.randint(3, (5,)),
    }
    return Case(model, batch, lambda out, b: F.cross_entropy(out, b["labels"]))


@case
def keyword_arguments_inside() -> Case:
    model = Written(
        lambda s, x: s.b(input=torch.tanh(s.a(input=x))), a=nn.Linear(6, 6), b=nn.Linear(6, 3)
    )
    return Case(model, xy(), F.cross_entropy)


@case
def float_target_in_a_mapping() -> Case:
    model = Written(lambda s, x, y: s.b(torch.tanh(s.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 3))
    batch = {"x": torch.randn(5, 6), "y": torch.randn(5, 3)}
    return Case(model, batch, lambda out, b: F.mse_loss(out, b["y"]))


@case
def unet() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        a = s.down1(x)
        b = s.down2(a)
        c = s.down3(b)
        u = s.up3(c)
        u = s.up2(torch.cat([u, b], 1))
        return s.up1(torch.cat([u, a], 1)) + x

    def level(i: int, o: int) -> nn.Module:
        return nn.Sequential(nn.Linear(i, o), nn.LayerNorm(o), nn.SiLU())

    model = Written(
        run,
        down1=level(6, 5),
        down2=level(5, 4),
        down3=level(4, 3),
        up3=level(3, 4),
        up2=level(8, 5),
        up1=nn.Linear(10, 6),
    )
    return Case(model, (torch.randn(5, 6), torch.randn(5, 6)), F.mse_loss)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s + x * s * (1 - s))


@case
def custom_function() -> Case:
    model = Written(lambda s, x: s.b(Swish.apply(s.a(x))), a=nn.Linear(6, 6), b=nn.Linear(6, 3))
    return Case(model, xy(), F.cross_entropy)


@case
def attention_by_hand() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        q, k, v = s.qkv(x).chunk(3, dim=-1)
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
        return s.out(x + weights @ v).mean(1)

    model = Written(run, qkv=nn.Linear(8, 24), out=nn.Linear(8, 3))
    return Case(model, (torch.randn(4, 5, 8), torch.randint(3, (4,))), F.cross_entropy)


@case
def scaled_dot_product() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        q, k, v = s.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v)
        return s.out(h.transpose(1, 2).flatten(2)).mean(1)

    model = Written(run, qkv=nn.Linear(8, 24), out=nn.Linear(8, 3))
    return Case(model, (torch.randn(4, 5, 8), torch.randint(3, (4,))), F.cross_entropy)


@case
def checkpointed() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        for block in s.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return s.head(x)

    blocks = nn.ModuleList(nn.Sequential(mlp_part(), nn.Dropout(0.2)) for _ in range(3))
    return Case(Written(run, blocks=blocks, head=nn.Linear(6, 3)), xy(), F.cross_entropy)


@case
def embedding_only() -> Case:
    model = Written(
        lambda s, x: s.head(torch.tanh(s.mix(s.table(x))).mean(1)),
        table=nn.Embedding(11, 6),
        mix=nn.Linear(6, 6),
        head=nn.Linear(6, 3),
    )
    return Case(model, (torch.randint(11, (5, 4)), torch.randint(3, (5,))), F.cross_entropy)


@case
def tied_embedding() -> Case:
    model = Written(
        lambda s, x: F.linear(torch.tanh(s.mix(s.table(x))), s.table.weight),
        table=nn.Embedding(11, 6),
        mix=nn.Linear(6, 6),
    )
    x = torch.randint(11, (5, 4))
    return Case(model, (x, x), lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()))


@case
def parametrized() -> Case:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)),
        nn.Tanh(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
        nn.Tanh(),
        nn.Linear(6, 3),
    )
    return Case(model, xy(), F.cross_entropy)


@case
def scalar_gate() -> Case:
    def run(s: Any, x: Tensor) -> Tensor:
        h = torch.tanh(s.a(x))
        return s.b(h * torch.sigmoid(h.mean()))

    return Case(Written(run, a=nn.Linear(6, 6), b=nn.Linear(6, 3)), xy(), F.cross_entropy)


@case
def module_without_arguments() -> Case:
    class Latent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.randn(6))

        def forward(self) -> Tensor:
            return self.value * 2

    model = Written(
        lambda s, x: s.head(torch.tanh(x + s.latent())), latent=Latent(), head=nn.Linear(6, 3)
    )
    return Case(model, xy(), F.cross_entropy)


@case
def skips_a_module_by_attribute() -> Case:
    """A block reads what another block left behind on itself, not what it was handed."""

    def first(s: Any, x: Tensor) -> Tensor:
        s.kept = torch.sin(s.f(x))
        return torch.tanh(s.kept)

    def run(s: Any, x: Tensor) -> Tensor:
        h = s.first(x)
        return s.head(s.second(h) + s.first.kept)

    model = Written(
        run,
        first=Written(first, f=nn.Linear(6, 6)),
        second=mlp_part(),
        head=nn.Linear(6, 3),
    )
    return Case(model, xy(), F.cross_entropy)
