"""What the graph of a loss says about a training's wiring, read without touching a tensor.

Only the names and shapes of nodes are read. Saved tensors never are: under activation checkpointing
reading one would run the user's forward again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradmend.probe.kinds import operation_name, short

MOST_NODES = 200_000
"""Nodes walked at most; beyond it ``whole`` is false and nothing is said of who is reached."""
TAIL = 24

_FLAT = frozenset({"Round", "Floor", "Ceil", "Trunc", "Sign", "Heaviside", "Sgn"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LossGraph:
    """The backward graph of one loss."""

    reached: frozenset[int]
    """``id`` of every leaf that gets a gradient."""
    parameters: frozenset[int]
    """Those of them that are an ``nn.Parameter``."""
    tail: tuple[dict[str, Any], ...]
    """The operations next to the loss, breadth first, each with ``op``, ``shape`` of its output
    and ``reads`` (positions in this list); they end where parameters enter."""
    flat: tuple[str, ...]
    """Operations on the way whose derivative is zero everywhere, such as ``round``."""
    nodes: int
    whole: bool = True


def loss_graph(loss: Tensor) -> LossGraph | None:
    """Walk the graph of a loss; ``None`` where it has none."""
    root: Any = loss.grad_fn
    if root is None:
        return None
    reached: set[int] = set()
    parameters: set[int] = set()
    flat: list[str] = []
    seen = {root}
    todo = [root]
    while todo and len(seen) <= MOST_NODES:
        node = todo.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            reached.add(id(variable))
            if isinstance(variable, nn.Parameter):
                parameters.add(id(variable))
        kind = short(node.name())
        if kind in _FLAT:
            flat.append(kind.lower())
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return LossGraph(
        reached=frozenset(reached),
        parameters=frozenset(parameters),
        tail=_tail(root),
        flat=tuple(dict.fromkeys(flat)),
        nodes=len(seen),
        whole=not todo,
    )


def _tail(root: Any) -> tuple[dict[str, Any], ...]:
    place = {root: 0}
    rows: list[dict[str, Any]] = []
    queue = deque([root])
    while queue:
        node = queue.popleft()
        nexts = [n for n, _ in node.next_functions if n is not None]
        name = operation_name(short(node.name()), None)
        reads: list[int] = []
        row: dict[str, Any] = {"op": name, "shape": _shape(node), "reads": reads}
        rows.append(row)
        if any(hasattr(n, "variable") for n in nexts):
            row["parameters"] = True
            continue
        for following in nexts:
            if following not in place and len(place) < TAIL:
                place[following] = len(place)
                queue.append(following)
            if following in place:
                reads.append(place[following])
    return tuple(rows)


def _shape(node: Any) -> list[int] | None:
    """Shape of a node's first output, where this torch tells."""
    try:
        return [int(n) for n in node._input_metadata[0].shape]
    except (AttributeError, IndexError, TypeError, RuntimeError):
        return None
