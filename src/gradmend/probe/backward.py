"""The backward pass, measured at every node and piecewise rescaled: raw material of the books."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradmend.probe.graph import Edge, Graph, Node, accumulators, key_of

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


def tally(
    graph: Graph,
    cotangents: dict[Edge, Tensor],
    chain_of: Callable[[int], list[int]],
    *,
    piece: int,
    want_parameters: bool = True,
) -> Tally:
    """Run the backward pass from ``cotangents`` and measure every booked norm.

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
    book = Tally()
    consumers = graph.consumers()
    shared = {edge: users for edge, users in consumers.items() if len(users) > 1}
    pending_parameters: dict[int, list[tuple[float, Tensor]]] = {}
    scale = 0.0
    current = dict(cotangents)
    silent = False
    for nodes, ends in _pieces(graph, cotangents, piece):
        size = _norm_of(current.values())
        if not (math.isfinite(size) and size > 0):
            silent = size == 0
            break
        scale += math.log10(size)
        current = {edge: grad / size for edge, grad in current.items()}
        current = _run_piece(
            graph, book, nodes, ends, current, scale, shared, chain_of,
            pending_parameters if want_parameters else None,
        )  # fmt: skip
        if not current:
            break
    for leaf, parts in pending_parameters.items():
        book.parameters[leaf] = _log_norm_of_sum(parts)
    if silent and want_parameters:
        # What lies beyond the point where the gradient became zero gets exactly zero, too.
        for found in graph.parameters.values():
            for accumulator in found:
                book.parameters.setdefault(id(accumulator.variable), NEVER)
    return book


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


def _run_piece(
    graph: Graph,
    book: Tally,
    nodes: list[int],
    ends: list[Edge],
    grads: dict[Edge, Tensor],
    scale: float,
    shared: dict[Edge, list[tuple[int, int]]],
    chain_of: Callable[[int], list[int]],
    parameters: dict[int, list[tuple[float, Tensor]]] | None,
) -> dict[Edge, Tensor]:
    """Backward through one piece; returns the gradients at its ends, in units of 10^scale."""
    where: list[tuple[dict, object]] = []  # type: ignore[type-arg]
    norms: list[Tensor] = []
    held: dict[Edge, list[tuple[int, Tensor]]] = {}
    # A parameter may be used again below this piece, so its gradient cannot be asked of autograd
    # here: the answer would hold those later uses, and the next pieces would count them again.
    # What each node sends towards parameters is taken from its own hook instead.
    sprouts: dict[Edge, tuple[Node, list[Tensor]]] = {}

    def note(table: dict, key: object, grad: Tensor) -> None:  # type: ignore[type-arg]
        where.append((table, key))
        norms.append(norm(grad))

    def watch(key: int) -> Callable[..., None]:
        edges = graph.edges[key]
        twigs = graph.twigs.get(key, ()) if parameters is not None else ()

        def hook(
            grad_inputs: tuple[Tensor | None, ...], grad_outputs: tuple[Tensor | None, ...]
        ) -> None:
            for number, grad in enumerate(grad_outputs):
                if grad is not None:
                    note(book.totals, (key, number), grad)
            for position, target in edges:
                grad = grad_inputs[position] if position < len(grad_inputs) else None
                if grad is None:
                    continue
                note(book.passed, (key, position), grad)
                if target in shared:
                    held.setdefault(target, []).append((key, grad))
            for position, child, number in twigs:
                grad = grad_inputs[position] if position < len(grad_inputs) else None
                if grad is not None:
                    sprouts.setdefault((key_of(child), number), (child, []))[1].append(grad)

        return hook

    handles = [graph.nodes[key].register_hook(watch(key)) for key in nodes]
    wanted = [GradientEdge(_node(graph, key), number) for key, number in ends]
    if parameters is not None:  # so that autograd computes what is sent there
        asked = {
            (key_of(child), number): GradientEdge(child, number)
            for key in nodes
            for _, child, number in graph.twigs.get(key, ())
        }
        wanted.extend(asked.values())
    try:
        results = torch.autograd.grad(
            [GradientEdge(graph.nodes[key], number) for key, number in grads],
            wanted,
            grad_outputs=list(grads.values()),
            retain_graph=True,
            allow_unused=True,
        )
    finally:
        for handle in handles:
            handle.remove()
    onward = {e: g for e, g in zip(ends, results, strict=False) if g is not None}
    for edge, grad in onward.items():
        note(book.totals, edge, grad)
    for edge, parts in held.items():
        _note_groups(edge, parts, book, chain_of, note)
    if norms:
        values = torch.stack(norms).tolist()
        for (table, key), value in zip(where, values, strict=True):
            table[key] = log10(value) + scale
    if parameters is not None:
        for (key, number), grad in onward.items():
            if key not in graph.nodes and graph.parameters.get(key):  # an embedding
                sprouts[key, number] = (_node(graph, key), [grad])
        for leaf, grad in _grown(sprouts):
            parameters.setdefault(id(leaf), []).append((scale, grad))
    return onward


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


def _note_groups(
    edge: Edge,
    parts: list[tuple[int, Tensor]],
    book: Tally,
    chain_of: Callable[[int], list[int]],
    note: Callable[[dict, object, Tensor], None],  # type: ignore[type-arg]
) -> None:
    """Measure what each span contributes to a tensor that several operations read."""
    members: dict[int, list[int]] = {}
    for position, (key, _) in enumerate(parts):
        for span in chain_of(key):
            members.setdefault(span, []).append(position)
    groups = book.groups.setdefault(edge, {})
    for span, inside in members.items():
        note(groups, span, _sum([parts[i][1] for i in inside]))
    outside = book.outside.setdefault(edge, {})
    for span in chain_of(edge[0]):
        inside = members.get(span, [])
        if inside and len(inside) < len(parts):
            others = [grad for i, (_, grad) in enumerate(parts) if i not in inside]
            note(outside, span, _sum(others))


def _node(graph: Graph, key: int) -> Node:
    return graph.nodes[key] if key in graph.nodes else graph.start_nodes[key]


def norm(grad: Tensor) -> Tensor:
    """Euclidean norm, accumulated wider than the gradient itself; shape []."""
    if grad.layout != torch.strided:
        grad = grad.coalesce().values()
    values = torch.view_as_real(grad) if grad.is_complex() else grad
    wide = torch.float64 if values.device.type == "cpu" else torch.float32
    result: Tensor = torch.linalg.vector_norm(values.detach(), dtype=wide)
    return result


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
    size = _norm_of(plain_grads(graph, cotangents, ends).values())
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
