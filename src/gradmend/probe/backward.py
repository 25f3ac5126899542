"""The backward pass, measured at every node and piecewise rescaled: raw material of the books."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils.hooks import RemovableHandle

from gradmend.probe.graph import Edge, Graph, Node, accumulators, key_of
from gradmend.probe.small import small_array, square_sum
from gradmend.probe.statistics import wide

NEVER = -math.inf
"""log10 of an exactly zero norm."""


@dataclass(slots=True)
class Tally:
    """Measured base-10 logarithms of gradient norms, beyond the range of any float."""

    totals: dict[Edge, float] = field(default_factory=dict)
    """|gradient| at each booked tensor, all consumers summed."""
    passed: dict[tuple[int, int], float] = field(default_factory=dict)
    """|gradient| each (node, edge index) sends on."""
    groups: dict[Edge, dict[int, float]] = field(default_factory=dict)
    """For tensors with several consumers: |sum of those inside a span|, by span id."""
    outside: dict[Edge, dict[int, float]] = field(default_factory=dict)
    """For those, and spans that hold producer and some consumers: |sum of the others|."""
    parameters: dict[int, float] = field(default_factory=dict)
    """|gradient| of each reached leaf, by ``id``."""
    underflowed: bool = False
    """Whether a gradient came near the smallest float, where nothing could be rescaled: zeros
    behind it may be underflow and are not called exact."""


def tally(
    graph: Graph,
    cotangents: dict[Edge, Tensor],
    chain_of: Callable[[int], list[int]],
    *,
    piece: int,
    want_parameters: bool = True,
) -> Tally:
    """Run the backward pass from ``cotangents`` and measure every booked norm.

    One pass over the graph, linear in its size. Where a piece ends, all of the gradient passes
    through one node: a hook in front of it rescales the gradient to norm one and keeps the
    logarithm. Everything behind is linear in it, so the true norms are the measured ones times
    the scales passed so far.

    Args:
        graph: The booked graph.
        cotangents: Gradient to start from, by tensor; each shaped like its tensor.
        chain_of: Node key -> span ids from the outside in.
        piece: Booked nodes after which the next cut ends a piece; small enough that the
            gradient cannot underflow within one.
        want_parameters: Also measure the parameters' gradients.

    Returns:
        The tally; nodes the cotangents do not reach are missing from it.
    """
    size = _norm_of(cotangents.values())
    if not (math.isfinite(size) and size > 0):
        return Tally()
    listeners = _Listeners(graph, chain_of, want_parameters)
    runs = [nodes for nodes, _ in _pieces(graph, cotangents, piece)]
    for number, nodes in enumerate(runs):
        for key in nodes:
            listeners.listen(key, number)
        if number:
            listeners.rescale(nodes[0], number)
    listeners.scales[0] = torch.tensor(size, dtype=torch.float64)
    ends = list(graph.starts)
    wanted = [GradientEdge(_node(graph, key), number) for key, number in ends]
    if want_parameters:  # so that autograd computes what is sent there
        asked = {
            (key_of(child), number): GradientEdge(child, number)
            for nodes in runs
            for key in nodes
            for _, child, number in graph.twigs.get(key, ())
        }
        wanted.extend(asked.values())
    try:
        results = torch.autograd.grad(
            [GradientEdge(graph.nodes[key], number) for key, number in cotangents],
            wanted,
            grad_outputs=[grad / size for grad in cotangents.values()],
            retain_graph=True,
            allow_unused=True,
        )
    finally:
        for handle in listeners.handles:
            handle.remove()
    arrived = {e: g for e, g in zip(ends, results, strict=False) if g is not None}
    return listeners.finish(arrived, len(runs) - 1)


class _Listeners:
    """Hooks on the booked nodes, and what they heard; norms stay on the device until the end."""

    def __init__(
        self, graph: Graph, chain_of: Callable[[int], list[int]], want_parameters: bool
    ) -> None:
        self.graph = graph
        self.chain_of = chain_of
        self.want_parameters = want_parameters
        self.handles: list[RemovableHandle] = []
        self.scales: dict[int, Tensor] = {}
        """Norm of the gradient where each piece begins, in units of the piece before; shape []."""
        self.book = Tally()
        self.expected = {
            edge: len(users) for edge, users in graph.consumers().items() if len(users) > 1
        }
        self.heard: list[tuple[dict[Any, float], Any, int]] = []
        self.norms: list[Tensor | float] = []
        self.known: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}
        """Norms by ``id`` of the tensor, with its version: no tensor is kept alive for it."""
        self.held: dict[Edge, list[tuple[int, Tensor]]] = {}
        self.sprouts: dict[int, dict[Edge, tuple[Node, list[Tensor]]]] = {}
        """By piece: what leaves the booked graph towards parameters. A parameter may be used in
        several pieces, whose scales differ, so its gradient cannot be asked of autograd as one."""

    def note(self, table: dict[Any, float], key: Any, grad: Tensor, piece: int) -> None:
        """Remember the norm of a gradient that belongs to a piece.

        What one node sends is often the very tensor that the next one gets: measured once,
        unless something wrote into it since.
        """
        self.heard.append((table, key, piece))
        small = small_array(grad)
        if small is not None:
            self.norms.append(math.sqrt(square_sum(small)))
            return
        known = self.known.get(id(grad))
        if known is not None and known[0]() is grad and known[1] == grad._version:
            self.norms.append(known[2])
            return
        self.norms.append(size := norm(grad))
        self.known[id(grad)] = (weakref.ref(grad), grad._version, size)

    def listen(self, key: int, piece: int) -> None:
        """Measure what a node receives and sends."""
        edges = self.graph.edges[key]
        twigs = self.graph.twigs.get(key, ()) if self.want_parameters else ()

        def hook(
            grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor | None, ...]
        ) -> None:
            for number, grad in enumerate(grad_outputs):
                if grad is not None:
                    self.note(self.book.totals, (key, number), grad, piece)
            for position, target in edges:
                grad = grad_inputs[position] if position < len(grad_inputs) else None
                if grad is None:
                    continue
                self.note(self.book.passed, (key, position), grad, piece)
                if target in self.expected:
                    self.hold(target, key, grad, piece)
            for position, child, number in twigs:
                grad = grad_inputs[position] if position < len(grad_inputs) else None
                if grad is not None:
                    table = self.sprouts.setdefault(piece, {})
                    table.setdefault((key_of(child), number), (child, []))[1].append(grad)

        self.handles.append(self.graph.nodes[key].register_hook(hook))

    def rescale(self, key: int, piece: int) -> None:
        """Bring the gradient to norm one in front of a node that all of it passes through."""

        def hook(grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
            size = torch.stack([norm(g) for g in grads if g is not None]).square().sum().sqrt()
            # Zero and NaN are left as they are: what follows is zero or NaN, and says so.
            usable = torch.isfinite(size) & (size > 0)
            size = torch.where(usable, size, torch.ones_like(size))
            self.scales[piece] = size
            return tuple(None if g is None else g / size.to(g.dtype) for g in grads)

        self.handles.append(self.graph.nodes[key].register_prehook(hook))

    def hold(self, edge: Edge, key: int, grad: Tensor, piece: int) -> None:
        """Keep contributions to a tensor with several readers until all are there."""
        parts = self.held.setdefault(edge, [])
        parts.append((key, grad))
        if len(parts) == self.expected[edge]:
            self.group(edge, self.held.pop(edge), piece)

    def group(self, edge: Edge, parts: list[tuple[int, Tensor]], piece: int) -> None:
        """Measure what each span contributes to a tensor that several operations read."""
        members: dict[int, list[int]] = {}
        for position, (key, _) in enumerate(parts):
            for span in self.chain_of(key):
                members.setdefault(span, []).append(position)
        groups = self.book.groups.setdefault(edge, {})
        for span, inside in members.items():
            self.note(groups, span, _sum([parts[i][1] for i in inside]), piece)
        outside = self.book.outside.setdefault(edge, {})
        for span in self.chain_of(edge[0]):
            inside = members.get(span, [])
            if inside and len(inside) < len(parts):
                others = [grad for i, (_, grad) in enumerate(parts) if i not in inside]
                self.note(outside, span, _sum(others), piece)

    def finish(self, arrived: dict[Edge, Tensor], last: int) -> Tally:
        """Turn everything heard into logarithms, in true units."""
        pieces = (
            {key: piece for table, key, piece in self.heard if table is self.book.passed}
            if self.held
            else {}
        )
        for edge, parts in self.held.items():  # some readers were not reached by the gradient
            near = next(p for (key, _), p in pieces.items() if key == parts[0][0])
            self.group(edge, parts, near)
        for edge, grad in arrived.items():
            self.note(self.book.totals, edge, grad, last)
        logs: list[float] = []
        scale = 0.0
        for piece in range(last + 1):
            scale += log10(float(self.scales[piece])) if piece in self.scales else 0.0
            logs.append(scale)
        if self.norms:
            values = _fetched(self.norms)
            # Squares of entries underflow first: half of the range, and some digits' margin.
            tiny = (torch.finfo(grad.dtype).tiny for grad in arrived.values())
            near_zero = max(tiny, default=0.0) ** 0.5 * 1e5
            for (table, key, piece), value in zip(self.heard, values, strict=True):
                table[key] = log10(value) + logs[piece]
                self.book.underflowed |= 0 < value < near_zero
        if self.want_parameters:
            self._measure_parameters(arrived, logs)
        return self.book

    def _measure_parameters(self, arrived: dict[Edge, Tensor], logs: list[float]) -> None:
        last = len(logs) - 1
        for (key, number), grad in arrived.items():
            if key not in self.graph.nodes and self.graph.parameters.get(key):  # an embedding
                table = self.sprouts.setdefault(last, {})
                table[key, number] = (_node(self.graph, key), [grad])
        parts: dict[int, list[tuple[float, Tensor]]] = {}
        for piece, sprouts in self.sprouts.items():
            for leaf, grad in _grown(sprouts):
                parts.setdefault(id(leaf), []).append((logs[piece], grad))
        for leaf_id, found in parts.items():
            self.book.parameters[leaf_id] = _log_norm_of_sum(found)


def _fetched(norms: list[Tensor | float]) -> list[float]:
    """Norms as numbers; those that are still on a device come in one transfer."""
    there = [size for size in norms if isinstance(size, Tensor)]
    came = iter(torch.stack(there).tolist() if there else ())
    return [next(came) if isinstance(size, Tensor) else size for size in norms]


def _pieces(
    graph: Graph, cotangents: dict[Edge, Tensor], size: int, last: list[Edge] | None = None
) -> Iterator[tuple[list[int], list[Edge]]]:
    """Cut the booked nodes into runs; yield each with the tensors where it ends.

    A piece ends just before a cut node, whose outputs are the tensors the next piece starts
    from; the final one ends at ``last``, or else at the graph's starts.
    """
    order = list(graph.nodes)
    index = {key: i for i, key in enumerate(order)}
    first = min((index[edge[0]] for edge in cotangents), default=0)
    numbers: dict[int, list[int]] = {}
    for edges in graph.edges.values():
        for _, (key, number) in edges:
            if number not in numbers.setdefault(key, []):
                numbers[key].append(number)
    begin = first
    # A cut above one of the cotangents' nodes is none for them: some would start below it.
    last_origin = max((index[edge[0]] for edge in cotangents), default=0)
    # Nor is one at or below the tensors where the last piece ends.
    stop = min((index.get(key, len(order)) for key, _ in last or ()), default=len(order))
    for cut in graph.cuts:
        at = index[cut]
        if at >= stop:
            break
        if at > last_origin and at - begin >= size and cut not in {k for k, _ in graph.starts}:
            yield order[begin:at], [(cut, number) for number in numbers[cut]]
            begin = at
    yield order[begin:], list(graph.starts) if last is None else last


def _grown(sprouts: dict[Edge, tuple[Node, list[Tensor]]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Carry gradients from where they left the booked graph on to the parameters behind."""
    roots: list[GradientEdge] = []
    given: list[Tensor] = []
    leaves: dict[int, Tensor] = {}
    for (_, number), (node, grads) in sprouts.items():
        if hasattr(node, "variable"):
            yield node.variable, _sum(grads)
            continue
        roots.append(GradientEdge(node, number))
        given.append(_sum(grads))
        for accumulator in accumulators(node):
            leaves[id(accumulator.variable)] = accumulator.variable
    if not roots:
        return
    results = torch.autograd.grad(
        roots, list(leaves.values()), given, retain_graph=True, allow_unused=True
    )
    for leaf, grad in zip(leaves.values(), results, strict=True):
        if grad is not None:
            yield leaf, grad


def _node(graph: Graph, key: int) -> Node:
    return graph.nodes[key] if key in graph.nodes else graph.start_nodes[key]


CHUNK = 1 << 16
"""Entries converted at a time: what stays in a core's cache, and asks for no fresh memory."""


def norm(grad: Tensor) -> Tensor:
    """Euclidean norm, accumulated wider than the gradient itself; shape []."""
    if grad.layout != torch.strided:
        grad = grad.coalesce().values()
    values = torch.view_as_real(grad) if grad.is_complex() else grad
    if values.requires_grad:
        values = values.detach()
    kind = wide(values)
    found: Tensor
    if values.dtype == kind or values.device.type != "cpu":
        found = torch.linalg.vector_norm(values, dtype=kind)
    elif values.numel() <= CHUNK:
        # With another dtype, vector_norm itself converts entry by entry, five times as slowly.
        found = torch.linalg.vector_norm(values.to(kind))
    else:
        if not values.is_contiguous() and values.dim() >= 2:
            values = values.mT  # a weight's gradient comes transposed; any other is copied below
        parts = torch.split(values.reshape(-1), CHUNK)
        found = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(part.to(kind)) for part in parts])
        )
    return found


def _norm_of(grads: Iterable[Tensor]) -> float:
    return math.hypot(*(float(norm(grad)) for grad in grads))


def _sum(grads: list[Tensor]) -> Tensor:
    total = grads[0]
    for grad in grads[1:]:
        total = total + grad
    return total


def _log_norm_of_sum(parts: list[tuple[float, Tensor]]) -> float:
    """log10 |sum_i 10^scale_i grad_i| without leaving the range of floats."""
    top = max(scale for scale, _ in parts)
    total = _sum([grad * 10.0 ** (scale - top) for scale, grad in parts])
    return log10(float(norm(total))) + top


def log10(value: float) -> float:
    """log10 of a norm: ``-inf`` for zero, NaN for NaN."""
    if value > 0:
        return math.log10(value)
    return NEVER if value == 0 else math.nan


def plain_grads(
    graph: Graph, cotangents: dict[Edge, Tensor], ends: list[Edge]
) -> dict[Edge, Tensor]:
    """Gradients at ``ends`` from one backward pass without hooks or rescaling."""
    results = torch.autograd.grad(
        [GradientEdge(_node(graph, key), number) for key, number in cotangents],
        [GradientEdge(_node(graph, key), number) for key, number in ends],
        grad_outputs=list(cotangents.values()),
        retain_graph=True,
        allow_unused=True,
    )
    return {e: g for e, g in zip(ends, results, strict=True) if g is not None}


def plain_norm(graph: Graph, cotangents: dict[Edge, Tensor], ends: list[Edge]) -> float | None:
    """log10 |gradient at ``ends``| from one backward pass without hooks or rescaling.

    Returns:
        The logarithm; ``None`` if the gradient left the range of floats on its way, where only
        rescaled passes can tell.
    """
    return norm_within_range(plain_grads(graph, cotangents, ends), cotangents)


def norm_within_range(grads: dict[Edge, Tensor], cotangents: dict[Edge, Tensor]) -> float | None:
    """log10 of the norm of what a plain pass from ``cotangents`` gave, see :func:`plain_norm`."""
    size = _norm_of(grads.values())
    # Entries of a gradient near the smallest float have lost digits: trust it well above.
    tiny = max(torch.finfo(grad.dtype).tiny for grad in cotangents.values())
    return math.log10(size) if math.isfinite(size) and size > tiny * 1e30 else None


def stepwise_norm(
    graph: Graph, cotangents: dict[Edge, Tensor], piece: int, ends: list[Edge]
) -> float | None:
    """log10 |gradient at ``ends``| by rescaled passes without hooks.

    The second opinion for gradients below the range of floats; cut at other places than the
    books' own pass.
    """
    scale = 0.0
    current = dict(cotangents)
    for _, stops in _pieces(graph, cotangents, piece, ends):
        size = _norm_of(current.values())
        if not (math.isfinite(size) and size > 0):
            return None
        scale += math.log10(size)
        scaled = {edge: grad / size for edge, grad in current.items()}
        current = plain_grads(graph, scaled, stops)
    size = _norm_of(current.values())
    return scale + math.log10(size) if size > 0 else None
