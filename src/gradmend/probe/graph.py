"""The autograd graph between the loss and the model's inputs, cut where all of it meets.

Only nodes on a way from the loss to a *start* (an input, or the first tensor made from
integers) are booked. Where the whole gradient passes through one node, the graph can be cut:
the backward pass is linear, so each piece is run on a rescaled cotangent and the logarithm of
the scale is kept. That is how gradients of 1e-8500 are booked as exactly as any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Node = Any
"""A ``torch.autograd.graph.Node``; torch has no public type with sequence numbers."""
Edge = tuple[int, int]
"""(node key, output number): one tensor of the graph."""

_LEAF = (1 << 64) - 1


def key_of(node: Node) -> int:
    """A node's identity: its sequence number, or a negative id for gradient accumulators."""
    sequence = int(node._sequence_nr())
    return -id(node) if sequence == _LEAF else sequence


@dataclass
class Graph:
    """Booked nodes in backward order, and how they hang together."""

    root: Edge
    nodes: dict[int, Node] = field(default_factory=dict)
    """Booked nodes, loss first, every node before those that it passes gradients to."""
    edges: dict[int, list[tuple[int, Edge]]] = field(default_factory=dict)
    """For each booked node: (index in ``next_functions``, tensor it passes a gradient to)."""
    starts: set[Edge] = field(default_factory=set)
    start_nodes: dict[int, Node] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    """Nodes that the whole gradient passes through, in backward order, the loss first."""
    parameters: dict[int, list[Node]] = field(default_factory=dict)
    """For each booked node: the gradient accumulators its unbooked edges lead to."""
    twigs: dict[int, list[tuple[int, Node, int]]] = field(default_factory=dict)
    """For each booked node: its unbooked edges with accumulators behind them, as (index in
    ``next_functions``, node, output number)."""
    reached: dict[int, Tensor] = field(default_factory=dict)
    """Leaves the loss reaches at all, by ``id``."""

    def consumers(self) -> dict[Edge, list[tuple[int, int]]]:
        """For each booked tensor: the (node, edge index) pairs that send it a gradient."""
        found: dict[Edge, list[tuple[int, int]]] = {}
        for key, edges in self.edges.items():
            for index, target in edges:
                found.setdefault(target, []).append((key, index))
        return found


def walk(loss: Tensor, starts: Iterable[tuple[Node, int]]) -> Graph:
    """Find the booked part of the graph.

    Args:
        loss: The tensor to walk back from, shape [].
        starts: (node, output number) of each tensor to follow the gradient back to.
    """
    root = loss.grad_fn
    graph = Graph(root=(key_of(root), loss.output_nr))
    every, order = postorder(root)
    graph.reached = {
        id(node.variable): node.variable for node in every.values() if hasattr(node, "variable")
    }
    wanted = {(key_of(node), number): node for node, number in starts}
    graph.starts = {edge for edge in wanted if edge[0] in every}
    graph.start_nodes = {edge[0]: wanted[edge] for edge in graph.starts}
    booked: set[int] = set()
    for key in order:  # children come first: a node is booked if an edge leads to a start
        targets = ((key_of(node), number) for node, number in every[key].next_functions if node)
        if any(target in graph.starts or target[0] in booked for target in targets):
            booked.add(key)
    for key in reversed(order):
        if key not in booked:
            continue
        node = every[key]
        graph.nodes[key] = node
        graph.edges[key] = []
        for index, (child, number) in enumerate(node.next_functions):
            if child is None:
                continue
            target = (key_of(child), number)
            if target in graph.starts or target[0] in booked:
                graph.edges[key].append((index, target))
            else:
                found = accumulators(child)
                if found:
                    graph.parameters.setdefault(key, []).extend(found)
                    graph.twigs.setdefault(key, []).append((index, child, number))
    for key, node in graph.start_nodes.items():
        if key not in booked:
            graph.parameters[key] = accumulators(node)
    graph.cuts = _cuts(graph)
    return graph


def postorder(root: Node) -> tuple[dict[int, Node], list[int]]:
    """All nodes reachable from ``root``, and their keys with children before parents."""
    every: dict[int, Node] = {}
    order: list[int] = []
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        key = key_of(node)
        if done:
            order.append(key)
            continue
        if key in every:
            continue
        every[key] = node
        stack.append((node, True))
        for child, _ in node.next_functions:
            if child is not None and key_of(child) not in every:
                stack.append((child, False))
    return every, order


def accumulators(node: Node) -> list[Node]:
    """Gradient accumulators reachable from an unbooked node (through transposes and the like)."""
    every, _ = postorder(node)
    return [found for found in every.values() if hasattr(found, "variable")]


def _cuts(graph: Graph) -> list[int]:
    """Nodes where, in backward order, nothing else is in flight."""
    cuts: list[int] = []
    pending: set[int] = {graph.root[0]}
    started = False
    for key in graph.nodes:
        pending.discard(key)
        if not pending and not started:
            cuts.append(key)
        for _, target in graph.edges[key]:
            if target in graph.starts:
                started = True
            else:
                pending.add(target[0])
    return cuts
