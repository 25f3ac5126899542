"""Architectures for graphs and molecules: torch-geometric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from _third_party_subjects import CLASSES, Build, Subject, cross_entropy, generator
from torch import Tensor, nn


def graph_source() -> Iterator[tuple[str, Build]]:
    """Nets over one graph of two hundred nodes in four groups; and over small clouds of points."""
    for name in ("GCN", "GraphSAGE", "GIN", "GAT", "PNA", "EdgeCNN"):
        yield f"pyg/{name}", lambda name=name: graph_model(name)
    for name in (
        "TransformerConv", "GATv2Conv", "TAGConv", "ARMAConv", "SGConv", "APPNP", "ChebConv",
        "GraphConv", "GatedGraphConv", "LEConv", "ClusterGCNConv", "FiLMConv", "GENConv",
        "GeneralConv", "SuperGATConv", "ResGatedGraphConv", "GCN2Conv", "MFConv", "AGNNConv",
        "SSGConv", "EGConv", "FAConv",
    ):  # fmt: skip
        yield f"pyg/{name}", lambda name=name: graph_conv(name)
    for name in ("SchNet", "DimeNetPlusPlus", "ViSNet"):
        yield f"pyg/{name}", lambda name=name: molecule(name)


NODES, NODE_FEATURES = 200, 16


def graph() -> Tensor:
    """[2, edges]: five times likelier within a group than across."""
    draw = torch.Generator().manual_seed(3)
    group = torch.arange(NODES) % CLASSES
    chance = torch.where(group[:, None] == group[None], 0.1, 0.01)
    there = torch.rand(NODES, NODES, generator=draw) < chance
    there = (there | there.T).fill_diagonal_(False)
    return there.nonzero().T.contiguous()


def nodes(n: int) -> tuple[Tensor, Tensor]:
    """Features that tell a little of the group."""
    group = torch.arange(NODES) % CLASSES
    centre = torch.randn(CLASSES, NODE_FEATURES, generator=torch.Generator().manual_seed(7))
    return centre[group] + 1.5 * torch.randn(NODES, NODE_FEATURES, generator=generator(n)), group


def on_graph(model: nn.Module) -> Subject:
    edges = graph()

    def batch(n: int) -> tuple[Any, Tensor]:
        x, group = nodes(n)
        return (x, edges), group

    return Subject(model.train(), batch, cross_entropy)


def graph_model(name: str) -> Subject:
    import torch_geometric.nn as pyg

    torch.manual_seed(0)
    more: dict[str, Any] = {}
    if name == "PNA":
        degrees = torch.bincount(torch.bincount(graph()[0], minlength=NODES))
        more = {
            "aggregators": ["mean", "max", "std"],
            "scalers": ["identity", "amplification"],
            "deg": degrees,
        }
    return on_graph(
        getattr(pyg, name)(NODE_FEATURES, 64, num_layers=3, out_channels=CLASSES, **more)
    )


class Convolutions(nn.Module):
    """Three convolutions of one kind between linear layers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import torch_geometric.nn as pyg

        kind = getattr(pyg, name)
        self.first, self.last = nn.Linear(NODE_FEATURES, 64), nn.Linear(64, CLASSES)
        more: dict[str, dict[str, Any]] = {
            "ChebConv": {"K": 3},
            "GATv2Conv": {"heads": 4, "concat": False},
            "GatedGraphConv": {"num_layers": 2},
            "APPNP": {"K": 4, "alpha": 0.1},
            "GCN2Conv": {"alpha": 0.1},
            "AGNNConv": {},
            "SSGConv": {"alpha": 0.1},
            "EGConv": {"num_heads": 4},
            "FAConv": {},
        }
        arguments = more.get(name, {})
        width: tuple[int, ...] = (64, 64)
        width = (64,) if name in ("GatedGraphConv", "GCN2Conv", "FAConv") else width
        width = () if name in ("APPNP", "AGNNConv") else width
        self.initial = name in ("GCN2Conv", "FAConv")
        self.convolutions = nn.ModuleList(kind(*width, **arguments) for _ in range(3))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = x0 = torch.relu(self.first(x))
        for convolution in self.convolutions:
            more = (x0,) if self.initial else ()
            x = torch.relu(convolution(x, *more, edges))
        scores: Tensor = self.last(x)
        return scores


def graph_conv(name: str) -> Subject:
    torch.manual_seed(0)
    return on_graph(Convolutions(name))


def molecule(name: str) -> Subject:
    import torch_geometric.nn as pyg

    torch.manual_seed(0)
    if name == "SchNet":
        model: nn.Module = pyg.SchNet(
            hidden_channels=32, num_filters=32, num_interactions=3, interaction_graph=everybody
        )
    elif name == "ViSNet":
        model = pyg.models.ViSNet(hidden_channels=32, num_layers=3, num_heads=4)
    else:
        model = pyg.DimeNetPlusPlus(32, 1, 3, 16, 8, 16, 7, 6)

    def batch(n: int) -> tuple[Any, Tensor]:
        draw = generator(n)
        kinds = torch.randint(1, 9, (40,), generator=draw)
        places = torch.randn(40, 3, generator=draw) * 2
        which = torch.arange(5).repeat_interleave(8)
        heavy = torch.zeros(5).index_add(0, which, (kinds > 4).float())
        return (kinds, places, which), (heavy - 4) / 1.4

    def loss(output: Any, target: Tensor) -> Tensor:
        energy = output[0] if isinstance(output, tuple) else output
        return torch.nn.functional.mse_loss(energy.squeeze(-1), target)

    return Subject(model.train(), batch, loss)


def everybody(places: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Edges between all atoms of a molecule, and their lengths."""
    pairs = (which[:, None] == which[None]).fill_diagonal_(False).nonzero().T
    return pairs, (places[pairs[0]] - places[pairs[1]]).norm(dim=-1)
