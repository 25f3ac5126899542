"""Models to edit, every kind of edit for each, and a full record of all their bits."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.records.prescription import Edit


class Custom(nn.Module):
    """Layers as attributes, a nested block, a buffer, a frozen part in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, 6)
        self.act0 = nn.Sigmoid()
        self.block = nn.ModuleDict({"lin": nn.Linear(6, 6), "act": nn.Sigmoid()})
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(6, 3)
        self.register_buffer("steps", torch.zeros(2))
        self.drop.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act0(self.inp(x))
        h = self.drop(self.block["act"](self.block["lin"](h)))
        result: Tensor = self.out(h)
        return result


class Tied(nn.Module):
    """Two layers share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.sa = nn.Linear(6, 6), nn.Sigmoid()
        self.b, self.sb = nn.Linear(6, 6), nn.Sigmoid()
        self.b.weight = self.a.weight
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.sb(self.b(self.sa(self.a(x)))))
        return result


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 3)
    )


def batchnorm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 6), nn.Sigmoid(), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Sigmoid(),
        nn.Linear(6, 3),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "sequential": plain,
    "batchnorm": batchnorm,
    "custom": Custom,
    "tied": Tied,
}
PLACES: dict[str, tuple[list[str], list[str]]] = {
    "sequential": (["0", "2", "4"], ["1", "3"]),
    "batchnorm": (["0", "3", "5"], ["1", "4"]),
    "custom": (["inp", "block.lin", "out"], ["act0", "block.act"]),
    "tied": (["a", "b", "out"], ["sa", "sb"]),
}
"""(linear layers, activations) of each model, in order."""


def draw(layers: list[str], **changes: Any) -> Edit:
    """An edit that draws the layers' weights and biases anew."""
    args: dict[str, Any] = {
        "scheme": "orthogonal",
        "seed": 3,
        "biases": [f"{layer}.bias" for layer in layers],
        "gains": [1.5] * len(layers),
        "centres": [0.5] * len(layers),
        "bias_stds": [0.1] * len(layers),
    }
    return Edit(
        kind="initialise",
        targets=tuple(f"{layer}.weight" for layer in layers),
        args={**args, **changes},
    )


def edits_for(name: str) -> dict[str, Edit]:
    """One edit of every kind for a model."""
    layers, acts = PLACES[name]
    return {
        "initialise": draw(layers),
        "replace_module": Edit(kind="replace_module", targets=tuple(acts), args={"module": "Tanh"}),
        "wrap_residual": Edit(
            kind="wrap_residual", targets=tuple(layers[:2]), args={"parts": [[a] for a in acts]}
        ),
        "standardise_input": Edit(
            kind="standardise_input", targets=(layers[0],), args={"mean": [2.0], "std": [3.0]}
        ),
        "rescale_by_data": Edit(
            kind="rescale_by_data", targets=tuple(layers), args={"std": 1.0, "seed": 1}
        ),
        "scale_to_gain": Edit(
            kind="scale_to_gain",
            targets=tuple(f"{layer}.weight" for layer in layers),
            args={"gains": [2.0] * len(layers), "biases": [f"{layer}.bias" for layer in layers]},
        ),
        "scale_weights": Edit(
            kind="scale_weights",
            targets=tuple(f"{layer}.weight" for layer in layers),
            args={"factors": [0.5, 0.0, 3.0]},
        ),
        "balance_layers": Edit(
            kind="balance_layers",
            targets=tuple(f"{layer}.weight" for layer in layers),
            args={"references": [1.0, 8.0, 0.1], "biases": [f"{layer}.bias" for layer in layers]},
        ),
        "revive_units": Edit(
            kind="revive_units",
            targets=tuple(layers[:2]),
            # All of these units count as dead, or an untrained one might have none that is.
            args={"gains": [1.4] * 2, "readers": [[f"{layers[1]}.weight"], []], "threshold": 1e6},
        ),
        "tailor_activation": Edit(
            kind="tailor_activation",
            targets=tuple(acts),
            args={"function": "tanh", "input_scale": 0.5, "output_scale": 2.0},
        ),
        "scale_sigmoids": Edit(
            kind="scale_sigmoids",
            targets=tuple(acts),
            args={"readers": [[layers[1]], [layers[2]]]},
        ),
        "insert_norm": Edit(
            kind="insert_norm",
            targets=tuple(layers[:2]),
            args={"norm": "BatchNorm", "features": [6, 6], "dims": [0, 0], "groups": [1, 1]},
        ),
        "standardise_weights": Edit(
            kind="standardise_weights", targets=tuple(layers[:2]), args={"gains": [1.0, 1.0]}
        ),
        "scale_learning_rate": Edit(kind="scale_learning_rate", args={"factor": 0.25}),
        "centre_sigmoids": Edit(
            kind="centre_sigmoids",
            targets=tuple(acts),
            args={"feeds": list(layers[:2]), "readers": [[layers[1]], [layers[2]]]},
        ),
        "shift_activations": Edit(
            kind="shift_activations",
            targets=tuple(acts),
            args={
                "feeds": list(layers[:2]),
                "readers": [[layers[1]], [layers[2]]],
                "shifts": [0.5, -1.0],
            },
        ),
    }


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(16, 6, generator=generator) * 2 + 1
    return x, torch.randint(3, (16,), generator=generator)


def loss_of(model: nn.Module) -> Tensor:
    x, y = batch()
    return nn.functional.cross_entropy(model(x), y)


def trained(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with two groups, momentum from earlier steps, and a hook of the user's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = MODELS[name]()
        own = list(model.parameters())
        optimizer = torch.optim.SGD(
            [{"params": own[:2]}, {"params": own[2:], "lr": 0.02}], lr=0.01, momentum=0.9
        )
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
    model.get_submodule(PLACES[name][1][0]).register_forward_hook(lambda *_: None)
    return model, optimizer


class Record:
    """Every bit and every object identity of a model and its optimizer."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.bits = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.keys = list(model.state_dict())
        self.parameters = [(n, id(p), p.requires_grad) for n, p in all_parameters(model)]
        self.grads = [(id(p.grad), None if p.grad is None else p.grad.clone())
                      for _, p in all_parameters(model)]  # fmt: skip
        self.modules = [(n, id(m), m.training) for n, m in all_modules(model)]
        self.hooks = [(dict(m._forward_hooks), dict(m._backward_hooks)) for m in model.modules()]
        self.groups = [(id(g), dict(g), list(map(id, g["params"]))) for g in optimizer.param_groups]
        self.group_list = id(optimizer.param_groups)
        self.state = {id(p): copy.deepcopy(dict(s)) for p, s in optimizer.state.items()}

    def assert_same(self) -> None:
        now = Record(self.model, self.optimizer)
        assert now.keys == self.keys
        for key, bits in self.bits.items():
            assert same_bits(bits, now.bits[key]), key
        assert now.parameters == self.parameters
        assert now.modules == self.modules
        assert now.hooks == self.hooks
        assert now.group_list == self.group_list
        assert [g[0] for g in now.groups] == [g[0] for g in self.groups]
        for (_, was, ids), (_, is_, new_ids) in zip(self.groups, now.groups, strict=True):
            assert ids == new_ids
            assert list(was) == list(is_)
            assert {k: v for k, v in was.items() if k != "params"} == {
                k: v for k, v in is_.items() if k != "params"
            }
        assert list(now.state) == list(self.state)
        for key, state in self.state.items():
            for name, value in state.items():
                assert same_bits(value, now.state[key][name])
        for (was_id, grad), (now_id, new) in zip(self.grads, now.grads, strict=True):
            assert was_id == now_id
            assert grad is None or same_bits(grad, new)


def all_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(model.named_modules(remove_duplicate=False))


def all_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(
            torch.equal(a.contiguous().view(-1).view(torch.uint8)
                        if a.numel() and a.dim() else a.reshape(1).view(torch.uint8),
                        b.contiguous().view(-1).view(torch.uint8)
                        if b.numel() and b.dim() else b.reshape(1).view(torch.uint8))
        )  # fmt: skip
    return bool(a == b)
