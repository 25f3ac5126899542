"""Trainings of models that cut their own graph, and of healthy ones beside them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradmend.zoo.miswired_trainings import BATCH, FEATURES, descend, samples, truth
from gradmend.zoo.training import Training, training


class _TwoStages(nn.Module):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.stem = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh())
        self.body = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.other = nn.Linear(16, 1)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor, other: bool = False) -> Tensor:
        if self.fault == "no_grad":
            with torch.no_grad():
                h = self.stem(x)
        elif self.fault in ("checkpoint", "reentrant_checkpoint"):
            with warnings.catch_warnings(action="ignore"):  # torch warns, and few read it
                reentrant = self.fault == "reentrant_checkpoint"
                h = checkpoint(self.stem, x, use_reentrant=reentrant)
        else:
            h = self.stem(x)
        if self.fault == "detach":
            h = h.detach()
        h = self.body(h)
        y: Tensor = (self.other if other else self.head)(h)
        return y


@training
def two_stages(*, fault: str = "") -> Training:
    """A stem, a body and two heads.

    Args:
        fault: ``detach`` or ``no_grad`` behind the stem, ``reentrant_checkpoint`` of it; harmless
            are ``checkpoint``, ``unused_head`` and ``head_by_turns``.
    """
    model = _TwoStages(fault)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = samples()

    def step(number: int) -> None:
        x = next(data)
        by_turns = fault == "head_by_turns" and number % 40 < 20
        output = model(x, other=by_turns)
        if fault not in ("unused_head", "head_by_turns"):
            output = output + model(x, other=True)
        descend(optimizer, functional.mse_loss(output.squeeze(1), truth(x)))

    return Training(model, optimizer, step, steps=60)


class _Quantised(nn.Module):
    def __init__(self, operation: str, at: int) -> None:
        super().__init__()
        self.operation, self.at = operation, at
        self.layers = nn.ModuleList([nn.Linear(FEATURES, 16), nn.Linear(16, 16), nn.Linear(16, 1)])
        self.table = nn.Embedding(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        side = torch.zeros(len(x), 1)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number < 2:
                x = torch.tanh(x)
            if number != self.at:
                continue
            if self.operation == "round":
                x = torch.round(x)
            elif self.operation == "sign":
                x = torch.sign(x)
            elif self.operation == "straight_through":
                x = x + (torch.round(x) - x).detach()
            elif self.operation == "side_branch":
                side = 0.01 * torch.round(x).mean(dim=1, keepdim=True)
            elif self.operation == "argmax":
                x = self.table(x.argmax(dim=1))
        return x + side


@training
def quantised(*, operation: str = "", at: int = 0) -> Training:
    """A network with a step function inside.

    Args:
        operation: ``round``, ``sign`` or ``argmax``; harmless are ``straight_through`` and
            ``side_branch``.
        at: Layer behind which it is.
    """
    model = _Quantised(operation, at)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = samples()

    def step(number: int) -> None:
        x = next(data)
        descend(optimizer, functional.mse_loss(model(x).squeeze(1), truth(x)))

    return Training(model, optimizer, step, steps=50)


class _CellLoop(nn.Module):
    def __init__(self, detach: str) -> None:
        super().__init__()
        self.detach = detach
        self.cell = nn.GRUCell(FEATURES, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        for time in range(x.shape[1]):
            state = self.cell(x[:, time], state)
            if self.detach == "every" or (self.detach == "half" and time % 4 == 3):
                state = state.detach() if time < x.shape[1] - 1 else state
        y: Tensor = self.head(state)
        return y, state


@training
def cell_loop(*, detach: str = "", carry: bool = False, length: int = 8) -> Training:
    """A GRU cell in a hand-written loop over time.

    Args:
        detach: ``every`` time step, or every fourth (``half``).
        carry: Whether the state of a batch goes on into the next, detached.
        length: Time steps of a batch.
    """
    model = _CellLoop(detach)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = samples(BATCH, FEATURES * length)
    states = [torch.zeros(BATCH, 16)]

    def step(number: int) -> None:
        x = next(data).view(BATCH, length, FEATURES)
        output, state = model(x, states[0])
        descend(optimizer, functional.mse_loss(output.squeeze(1), x[:, -1, 0]))
        if carry:
            states[0] = state.detach()

    return Training(model, optimizer, step, steps=40)
