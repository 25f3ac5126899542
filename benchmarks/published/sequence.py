"""Recurrent nets and attention."""

from __future__ import annotations

import torch
from planted import data
from planted.training import Training
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from published.material import Draw, changed, fault, recall, waves


class Reader(nn.Module):
    """A recurrent layer, and a head on its last output."""

    def __init__(self, cell: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.rnn = cell
        self.head = nn.Linear(cell.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """What it makes of a sequence."""
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def read(cell: nn.RNNBase, draw: Draw, **more: object) -> Training:
    """A training that is to recall what came first."""
    more = {"rate": 3e-3, **more}
    return Training("rnn", "classify", Reader(cell, 4), draw, F.cross_entropy, **more)  # type: ignore[arg-type]


def recurrent(cell: nn.RNNBase, how: object) -> nn.RNNBase:
    """Recurrent weights drawn anew."""
    with torch.no_grad():
        for name, weight in cell.named_parameters():
            if name.startswith("weight_hh"):
                how(weight)  # type: ignore[operator]
    return cell


@fault("user-needs 9: mratsim/Arraymancer#339", "gradient-lost-through-time", "init-gain-too-small",
       "vanishing-gradient")  # fmt: skip
def forgets_the_beginning(sick: bool) -> Training:
    """A plain recurrence as torch draws it, over 30 steps; its twin begins orthogonal."""
    cell = nn.RNN(5, 32, batch_first=True)
    return read(cell if sick else recurrent(cell, nn.init.orthogonal_), recall(30), rate=1e-3)


@fault("user-needs 11: lstmp.pytorch#2, pytorch/pytorch#2623", "gradient-grown-through-time",
       "exploding-gradient", "learning-rate-too-high", "init-gain-too-large", "diverging-loss",
       "saturated-activation", "non-finite-value")  # fmt: skip
def explodes_through_time(sick: bool) -> Training:
    """A rectified recurrence whose state grows by half at every step."""
    cell = nn.RNN(5, 32, batch_first=True, nonlinearity="relu")
    recurrent(cell, lambda w: nn.init.orthogonal_(w, 3.0 if sick else 1.0))
    return read(cell, recall(8), optimizer_name="momentum", rate=5e-3)


@fault("karpathy/char-rnn#60; pytorch/pytorch#750", "forget-gate-closed",
       "gradient-lost-through-time")  # fmt: skip
def forget_gate_half_open(sick: bool) -> Training:
    """An LSTM whose forget gate begins at a half and below, over 40 steps."""
    cell = nn.LSTM(5, 24, batch_first=True)
    with torch.no_grad():
        for name, bias in cell.named_parameters():
            if name.startswith("bias"):
                bias[24:48] = -1.0 if sick else 1.5
    return read(cell, recall(40), rate=1e-2)


@fault("SO 38319898 (sequences)", "unscaled-input", "unscaled-target", "saturated-activation")
def raw_series(sick: bool) -> Training:
    """A series of values from 500 to 1500 into an LSTM, and its next value out of it."""
    draw = changed(waves(), lambda x, y: (500 * x + 1000, 500 * y + 1000)) if sick else waves()
    model = Reader(nn.LSTM(1, 24, batch_first=True), 1)
    return Training("rnn", "regress", model, draw, F.mse_loss, rate=1e-2)


@fault("AutoTrainer IMDB, oscillating loss", "learning-rate-too-high", "oscillating-loss",
       "diverging-loss", "gradient-grown-through-time", "saturated-activation",
       "update-norm-spike")  # fmt: skip
def gates_torn_open(sick: bool) -> Training:
    """An LSTM with Adam at a rate of three."""
    return read(nn.LSTM(5, 24, batch_first=True), recall(10), rate=3.0 if sick else 1e-2)


@fault("AutoTrainer Reuters, slow convergence", "learning-rate-too-low")
def series_at_no_rate(sick: bool) -> Training:
    """A GRU with Adam at a rate of 1e-6."""
    return read(nn.GRU(5, 24, batch_first=True), recall(10), rate=1e-6 if sick else 1e-2)


class Encoder(nn.Module):
    """Torch's own encoder layers over tokens."""

    def __init__(self, depth: int, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(data.VOCABULARY, 24)
        layer = nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.head(self.encoder(self.embed(x)).mean(dim=1))
        return out


def sentences() -> Draw:
    """Tokens and their class, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(10)
        return data.sentences(10, 4, batch=16)


@fault("pytorch/pytorch#55270", "post-norm-without-warm-up", "learning-rate-too-high",
       "vanishing-gradient", "stalled-layers")  # fmt: skip
def post_norm_twelve(sick: bool) -> Training:
    """Twelve layers of ``nn.Transformer``'s default, norm last, and no warm-up."""
    model = Encoder(10, norm_first=not sick)
    return Training(
        "transformer", "classify", model, sentences(), F.cross_entropy, rate=1e-2, steps=70
    )


class Attention(nn.Module):
    """One attention over normalised queries and keys, and a head."""

    def __init__(self, scale: float, gain: float) -> None:
        super().__init__()
        self.scale = scale
        self.embed, self.norm = nn.Embedding(data.VOCABULARY, 32), nn.LayerNorm(32)
        self.query, self.key, self.value = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)
        for layer in (self.query, self.key):
            nn.init.orthogonal_(layer.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.norm(self.embed(x))
        read = (self.query(h) @ self.key(h).transpose(1, 2) * self.scale).softmax(dim=-1)
        out: Tensor = self.head((read @ self.value(h)).mean(dim=1))
        return out


@fault("user-needs 14: huggingface/transformers#45676", "unscaled-attention", "saturated-attention",
       "init-gain-too-large")  # fmt: skip
def attention_without_scale(sick: bool) -> Training:
    """Logits of the size of the width: each token reads one other."""
    model = Attention(1.0 if sick else 32**-0.5, 8.0 if sick else 1.0)
    return Training(
        "transformer",
        "classify",
        model,
        sentences(),
        F.cross_entropy,
        optimizer_name="SGD",
        rate=0.3,
    )


@fault("user-needs 10: two layers and more could not learn", "gradient-lost-through-time",
       "init-gain-too-small", "learning-rate-too-low", "vanishing-gradient",
       "collapsed-signal")  # fmt: skip
def three_plain_recurrences(sick: bool) -> Training:
    """Three recurrent layers drawn so narrow that little of the input is left."""
    cell = nn.RNN(5, 32, num_layers=3, batch_first=True)
    with torch.no_grad():
        for name, weight in cell.named_parameters():
            if name.startswith("weight"):
                weight.mul_(0.1) if sick else nn.init.orthogonal_(weight)
    return read(cell, recall(12), rate=1e-3)
