"""What the graph of a loss says about a training's wiring, read without touching a tensor.

Only the names and shapes of nodes are read. Saved tensors never are: under activation checkpointing
reading one would run the user's forward again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradmend.probe.kinds import operation_name, short
from gradmend.theory.loss_tail import JOINS

MOST_NODES = 200_000
"""Nodes walked at most; beyond it ``whole`` is false and nothing is said of who is reached."""
TAIL = 24
MOST_PIECES = 4
"""Tensors that are followed where several are joined: a decoder's steps are alike, and would leave
no room for what is behind them (our choice)."""

_SETTINGS: dict[str, tuple[str, ...]] = {
    "LogSoftmaxBackward0": ("_saved_dim",),
    "SoftmaxBackward0": ("_saved_dim",),
    "GatherBackward0": ("_saved_dim",),
    "ClampBackward1": ("_saved_min", "_saved_max"),
    "HardtanhBackward0": ("_saved_min_val", "_saved_max_val"),
}
"""What is read of a node beside its name and shape: plain numbers."""
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
    and ``reads`` (positions in this list), some with ``dim`` or ``limits``; they end where
    parameters enter, whose ``module`` :meth:`told` adds."""
    flat: tuple[str, ...]
    """Operations on the way whose derivative is zero everywhere, such as ``round``."""
    leaves: Mapping[int, tuple[int, ...]]
    """``id`` of the parameters that enter at a place of the tail."""
    nodes: int
    whole: bool = True

    def told(self, module_of: Callable[[int], str | None]) -> list[dict[str, Any]]:
        """The tail, with the module that owns each parameter that enters.

        Args:
            module_of: Its path, by the parameter's ``id``.
        """
        owners = {
            at: next(filter(None, map(module_of, entering)), None)
            for at, entering in self.leaves.items()
        }
        return [
            {**row, "module": owners[at]} if owners.get(at) else row
            for at, row in enumerate(self.tail)
        ]


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
    tail, leaves = _tail(root)
    return LossGraph(
        reached=frozenset(reached),
        parameters=frozenset(parameters),
        tail=tail,
        leaves=leaves,
        flat=tuple(dict.fromkeys(flat)),
        nodes=len(seen),
        whole=not todo,
    )


def _tail(root: Any) -> tuple[tuple[dict[str, Any], ...], dict[int, tuple[int, ...]]]:
    place = {root: 0}
    rows: list[dict[str, Any]] = []
    leaves: dict[int, tuple[int, ...]] = {}
    queue = deque([root])
    while queue:
        node = queue.popleft()
        nexts = [n for n, _ in node.next_functions if n is not None]
        name = operation_name(short(node.name()), None)
        reads: list[int] = []
        row: dict[str, Any] = {"op": name, "shape": _shape(node), "reads": reads}
        row |= _settings(node, row["shape"])
        rows.append(row)
        entering = tuple(id(n.variable) for n in nexts if hasattr(n, "variable"))
        if name in JOINS:
            nexts = nexts[:MOST_PIECES]
        if entering:
            row["parameters"] = True
            leaves[len(rows) - 1] = entering
            continue
        for following in nexts:
            if following not in place and len(place) < TAIL:
                place[following] = len(place)
                queue.append(following)
            if following in place:
                reads.append(place[following])
    return tuple(rows), leaves


def _settings(node: Any, shape: list[int] | None) -> dict[str, Any]:
    """``dim`` of a softmax or a gather, ``limits`` of a clamp: numbers, never a saved tensor."""
    names = _SETTINGS.get(node.name())
    if names is None:
        return {}
    try:
        found = [getattr(node, name) for name in names]
    except (AttributeError, RuntimeError):
        return {}
    if not all(each is None or isinstance(each, int | float) for each in found):
        return {}
    if len(found) == 2:
        return {"limits": [None if each is None else float(each) for each in found]}
    dim = int(found[0])  # kept without a sign: -1 is 2^64 - 1
    dim -= 2**64 if dim >= 2**63 else 0
    return {"dim": dim % len(shape)} if shape else {}


def _shape(node: Any) -> list[int] | None:
    """Shape of a node's first output, where this torch tells."""
    try:
        return [int(n) for n in node._input_metadata[0].shape]
    except (AttributeError, IndexError, TypeError, RuntimeError):
        return None
