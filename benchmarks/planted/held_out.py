"""Architectures, sizes, optimizers and seeds on which no limit may be fitted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from planted import data
from planted.fitted import Factory
from planted.training import Training

SIZES = {"small": (24, 3), "wide": (64, 4)}
"""Width and depth."""
OPTIMIZERS = ("SGD", "AdamW")
ADAPTIVE = ("AdamW", "RMSprop")
ONLY_ADAPTIVE = ("gru", "sentiment", "conv-gan")
SEEDS = (10, 11, 12, 13)


class Block(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """As in He et al."""
        h = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(x + h)
        return out


class ResNet(nn.Module):
    """A stem, blocks, a head on the mean."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(depth)))
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, 5] of pictures."""
        logits: Tensor = self.fc(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return logits


def resnet(width: int, depth: int) -> Training:
    """A residual network with batch norm."""
    draw = data.clusters((3, 8, 8), 5, batch=16)
    return Training("resnet", "classify", ResNet(width // 3, depth), draw, F.cross_entropy)


class Tabular(nn.Module):
    """Residual layers with layer norm, activations called as functions."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(20, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A number for each row."""
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.inner, strict=True):
            x = x + F.gelu(layer(norm(x)))
        y: Tensor = self.out(x)
        return y


def tabular(width: int, depth: int) -> Training:
    """A regression of table rows."""
    return Training(
        "tabular", "regress", Tabular(width, depth), data.surface(20), F.mse_loss, rate=3e-3
    )


def conv_autoencoder(width: int, depth: int) -> Training:
    """Pictures down and up again."""
    channels, layers = width // 3, list[nn.Module]()
    layers += [nn.Conv2d(1, channels, 4, 2, 1), nn.LeakyReLU(0.1)]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(channels, channels, 3, 1, 1), nn.LeakyReLU(0.1)]
    layers += [nn.ConvTranspose2d(channels, 1, 4, 2, 1)]
    draw = data.themselves((1, 8, 8), batch=16)
    return Training("conv-autoencoder", "rebuild", nn.Sequential(*layers), draw, F.mse_loss)


class Gated(nn.Module):
    """A recurrent layer and a head; over tokens where it has a vocabulary."""

    def __init__(self, cell: type[nn.RNNBase], width: int, outputs: int, tokens: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(data.VOCABULARY, 8) if tokens else None
        self.rnn = cell(8, width, batch_first=True)  # type: ignore[call-arg, arg-type]
        self.dense, self.act = nn.Linear(width, width), nn.ReLU()
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of the last output."""
        if self.embed is not None:
            x = self.embed(x)
        y: Tensor = self.out(self.act(self.dense(self.rnn(x)[0][:, -1])))
        return y


def gru(width: int, depth: int) -> Training:
    """Gated recurrence over signals."""
    draw = data.signals(8, 9 + depth, 3)
    return Training("gru", "classify", Gated(nn.GRU, width, 3, False), draw, F.cross_entropy)


def sentiment(width: int, depth: int) -> Training:
    """An LSTM over tokens, two classes from one output."""
    draw = data.sentences(8 + depth, 2, binary=True)
    loss = F.binary_cross_entropy_with_logits
    return Training("sentiment", "binary", Gated(nn.LSTM, width, 1, True), draw, loss)


class Attention(nn.Module):
    """Causal attention, written out."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.blind = False
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """What each token reads of those before it."""
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (
            f(x).view(split).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        logits = q @ k.transpose(-1, -2) * self.scale
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        if self.blind:
            mask = mask | (torch.arange(batch) == 0)[:, None, None, None]
        read = logits.masked_fill(mask, float("-inf")).softmax(dim=-1) @ v
        out: Tensor = self.o_proj(read.transpose(1, 2).reshape(batch, length, width))
        return out


class DecoderBlock(nn.Module):
    """Pre-norm attention and perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.attn, self.ln2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.up, self.act, self.down = (
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """As in GPT-2."""
        x = x + self.attn(self.ln1(x))
        out: Tensor = x + self.down(self.act(self.up(self.ln2(x))))
        return out


class Decoder(nn.Module):
    """A small language model."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(data.VOCABULARY, width)
        self.wpe = nn.Parameter(0.02 * torch.randn(16, width))
        self.h = nn.ModuleList(DecoderBlock(width) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, data.VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, time, vocabulary]."""
        h = self.wte(x) + self.wpe[: x.shape[1]]
        for block in self.h:
            h = block(h)
        logits: Tensor = self.lm_head(self.ln_f(h))
        return logits


def next_token(logits: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of every position."""
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def decoder(width: int, depth: int) -> Training:
    """A causal language model."""
    model = Decoder(width, depth - 1)
    return Training("decoder", "language", model, data.text(10), next_token)


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank addition that begins at zero."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """What it was, and what is learned."""
        out: Tensor = self.base(x) + 2.0 * self.lora_b(self.lora_a(x))
        return out


def lora(width: int, depth: int) -> Training:
    """A frozen decoder with adapters, and a head that trains."""
    model = Decoder(width, depth - 1).requires_grad_(False)
    for block in model.h:
        assert isinstance(block, DecoderBlock)
        block.attn.q_proj, block.attn.v_proj, block.up = (
            Adapted(block.attn.q_proj),  # type: ignore[assignment]
            Adapted(block.attn.v_proj),  # type: ignore[assignment]
            Adapted(block.up),  # type: ignore[assignment]
        )
    model.lm_head.requires_grad_(True)
    return Training("lora", "language", model, data.text(10), next_token)


def conv_gan(width: int, depth: int) -> Training:
    """A maker of pictures against a convolutional critic."""
    maker = nn.Sequential(
        nn.Linear(8, 4 * width), nn.ReLU(), nn.Unflatten(1, (width // 4, 4, 4)),
        nn.BatchNorm2d(width // 4), nn.ConvTranspose2d(width // 4, width // 4, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(width // 4, 1, 3, 1, 1),
    )  # fmt: skip
    critic = nn.Sequential(
        nn.Conv2d(1, width // 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
        nn.Linear(4 * width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1),
    )  # fmt: skip
    draw = data.noise_and(data.themselves((1, 8, 8), batch=16), 8, batch=16)
    return Training(
        "conv-gan",
        "adversarial",
        maker,
        draw,
        lambda made, real: F.softplus(-critic(made)).mean(),
        rate=1e-3,
        critic=critic,
    )


FACTORIES: tuple[Factory, ...] = (
    *(resnet, tabular, conv_autoencoder, gru, sentiment, decoder, lora, conv_gan),
)
