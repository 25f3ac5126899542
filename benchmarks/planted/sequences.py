"""Recurrence and attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from planted.plants import LOOP, plant, rate_of
from planted.training import Training


def cell_of(t: Training) -> tuple[str, Any] | None:
    """The recurrent layer and its name."""
    names = t.named(nn.RNN, nn.LSTM, nn.GRU)
    return (names[0], t.at(names[0])) if names else None


@plant("gradient-lost-through-time", "init-gain-too-small")
def forgetful(t: Training) -> Iterable[str] | None:
    """Recurrent weights of which nothing survives a few steps."""
    found = cell_of(t)
    if found is None or not isinstance(found[1], nn.RNN):
        return None
    with torch.no_grad():
        for name, weight in found[1].named_parameters():
            if name.startswith("weight_hh"):
                weight.mul_(0.02)
    return (found[0],)


@plant("gradient-grown-through-time", "init-gain-too-large", "learning-rate-too-high")
def echoing(t: Training) -> Iterable[str] | None:
    """A rectified recurrence that doubles its state at every step."""
    found = cell_of(t)
    if found is None or not isinstance(found[1], nn.RNN):
        return None
    name, old = found
    new = nn.RNN(old.input_size, old.hidden_size, batch_first=True, nonlinearity="relu")
    with torch.no_grad():
        nn.init.orthogonal_(new.get_parameter("weight_hh_l0"), 3.0)
    t.put(name, new)
    return (name,)


@plant("forget-gate-closed", "gradient-lost-through-time")
def closed_gate(t: Training) -> Iterable[str] | None:
    """A forget gate (an update gate, for a GRU) that begins closed."""
    found = cell_of(t)
    if found is None or isinstance(found[1], nn.RNN):
        return None
    size = found[1].hidden_size
    with torch.no_grad():
        for name, bias in found[1].named_parameters():
            if name.startswith("bias_hh"):
                bias[size : 2 * size] = -8.0
    return (found[0],)


class Stepped(nn.Module):
    """A recurrent layer as a loop over a cell, its state detached at every step."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        kinds = {nn.RNN: nn.RNNCell, nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell}
        self.cell = kinds[type(layer)](layer.input_size, layer.hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """All outputs."""
        state: Any = None
        seen = []
        for at in range(x.shape[1]):
            if state is not None:
                state = (
                    tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
                )
            state = self.cell(x[:, at], state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(seen, dim=1), None


@plant("truncated-backpropagation", exact=True)
def detached_state(t: Training) -> Iterable[str] | None:
    """The state detached at every time step."""
    found = cell_of(t)
    if found is None:
        return None
    t.put(found[0], Stepped(found[1]))
    return found[0], f"{found[0]}.cell"


# ---- attention


def attentions(t: Training) -> list[str]:
    """Attention modules: torch's own, and those written out."""
    return [
        name
        for name, module in t.model.named_modules()
        if isinstance(module, nn.MultiheadAttention) or hasattr(module, "scale")
    ]


def queries_and_keys(module: Any) -> list[Tensor]:
    """The weights that make an attention's logits; views of them."""
    if isinstance(module, nn.MultiheadAttention):
        return [module.in_proj_weight[: 2 * module.embed_dim]]
    names = ("query", "key") if hasattr(module, "query") else ("q_proj", "k_proj")
    parts = [getattr(module, name) for name in names]
    return [getattr(part, "base", part).weight for part in parts]


def places(t: Training, names: list[str]) -> set[str]:
    """Attention modules and what belongs to them."""
    found = set(names)
    for name, _ in t.model.named_modules():
        parent, _, leaf = name.rpartition(".")
        part = leaf in ("query", "key", "q_proj", "k_proj", "base", "out_proj", "v_proj", "value")
        if part and any(parent == n or parent.startswith(f"{n}.") for n in names):
            found.add(name)
    return found


@plant("saturated-attention", "init-gain-too-large", "unscaled-attention")
def wide_queries(t: Training) -> Iterable[str] | None:
    """Queries and keys so large that each token reads one other."""
    names = attentions(t)
    if not names:
        return None
    with torch.no_grad():
        for name in names:
            for weight in queries_and_keys(t.at(name)):
                weight.mul_(12.0)
    return places(t, names)


@plant("unscaled-attention", "saturated-attention", exact=True)
def missing_scale(t: Training) -> Iterable[str] | None:
    """No division by the square root of the width, on normalised queries and keys."""
    names = [n for n in attentions(t) if not isinstance(t.at(n), nn.MultiheadAttention)]
    if not names or t.name == "lora":
        return None
    for name in names:
        module = t.at(name)
        module.scale = 1.0
        with torch.no_grad():
            for weight in queries_and_keys(module):
                nn.init.normal_(weight, std=1.5 * weight.shape[1] ** -0.5)
    return places(t, names)


@plant("fully-masked-row")
def all_padding(t: Training) -> Iterable[str] | None:
    """A sentence that is nothing but padding; torch's own attention answers zero to it."""
    names = [n for n, m in t.model.named_modules() if hasattr(m, "blind")]
    if not names:
        return None
    for name in names:
        t.at(name).blind = True
    guilty = places(t, attentions(t))
    return {*guilty, *names}


@plant(
    "query-key-growth",
    *("attention-logit-growth", "learning-rate-too-high", "saturated-attention"),
    entries=LOOP,
)
def runaway_queries(t: Training) -> Iterable[str] | None:
    """Queries and keys at a hundred times the rate of everything else."""
    names = attentions(t)
    if not names or t.name == "lora":
        return None
    chosen: list[Any] = []
    for name in names:
        module = t.at(name)
        if isinstance(module, nn.MultiheadAttention):
            chosen.append(module.in_proj_weight)
        else:
            chosen += queries_and_keys(module)
    rate = rate_of(t)

    def groups(model: nn.Module) -> list[Any]:
        fast = {id(p) for p in chosen}
        rest = [p for p in model.parameters() if id(p) not in fast]
        return [{"params": rest}, {"params": chosen, "lr": 100.0 * rate}]

    t.held = groups
    return places(t, names)


class Aligned(nn.Module):
    """A recurrent layer that spells a word out, for a CTC loss."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.body = layer
        self.spell = nn.Linear(layer.hidden_size, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [time, batch, letters]."""
        out: Tensor = self.spell(self.body(x)[0]).log_softmax(dim=-1).transpose(0, 1)
        return out


@plant("infeasible-ctc", exact=True)
def word_too_long(t: Training) -> Iterable[str] | None:
    """Words with more letters than there are steps to spell them in."""
    found = cell_of(t)
    if found is None or t.task != "classify":
        return None
    t.model = Aligned(found[1])
    letters = torch.randint(1, 6, (32, 40))

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        times = torch.full((len(y),), logits.shape[0])
        return F.ctc_loss(logits, letters[: len(y)], times, torch.full((len(y),), 40))

    t.loss_fn = loss
    return ()
