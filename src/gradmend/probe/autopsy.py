"""The graph of a loss that is not finite, or whose gradient is not, where nothing can be rerun.

What lies outside modules (a loss written by hand, plain code) cannot be run again. Its graph
names its operations, and as long as no backward pass has run the saved tensors tell what they were
given. Where activation checkpoints may be recomputed by reading them, they are left alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradmend.probe.forensics import picker_before
from gradmend.probe.graph import key_of
from gradmend.probe.kinds import operation_name, short
from gradmend.probe.loss_targets import unalignable
from gradmend.probe.operands import bad_entries, kind_of, operand
from gradmend.records.badvalue import BadValue, Operand

MOST_NODES = 20_000
"""Nodes that are walked at most."""

_NAMES = {
    "Mean": "mean", "NllLoss": "cross_entropy", "NllLoss2D": "cross_entropy",
    "NllLoss2d": "cross_entropy", "CtcLoss": "ctc_loss", "LinalgVectorNorm": "norm", "Norm": "norm",
    "Std": "std", "Var": "var", "Cdist": "cdist", "Reciprocal": "div",
}  # fmt: skip
_THROUGH = frozenset(
    {"View", "UnsafeView", "Reshape", "Expand", "Squeeze", "Unsqueeze", "Clamp", "ClampMin", "Add"}
    | {"Sub", "Mul", "Select", "Slice", "Index", "Gather", "Clone", "ToCopy", "Transpose", "Neg"}
    | {"Sqrt", "Pow"}
)
_STEEP = {
    "Sqrt": "sqrt", "Pow": "pow", "LinalgVectorNorm": "norm", "Norm": "norm", "Std": "std",
    "Cdist": "cdist", "Acos": "acos", "Asin": "asin", "Log": "log", "Div": "div", "Rsqrt": "rsqrt",
    "Atan2": "atan2", "Log2": "log2", "Log10": "log10",
}  # fmt: skip
"""Nodes whose slope may be infinite where their value is not, the usual culprits first."""
_CERTAIN = ("Sqrt", "Acos", "Asin", "LinalgVectorNorm", "Norm", "Cdist", "Std", "Pow")


def may_read() -> bool:
    """Whether saved tensors can be read without running somebody's forward pass again."""
    checkpoint = sys.modules.get("torch.utils.checkpoint")
    frame = getattr(checkpoint, "_CheckpointFrame", None)
    return frame is None or not any(type(o) is frame for o in gc.get_objects())


def forward_fault(
    root: Any, outputs: frozenset[int], module_of: Callable[[int], str | None]
) -> BadValue | None:
    """The operation between a model's outputs and a loss that made NaN or infinity.

    Args:
        root: The node of the loss, before its backward pass.
        outputs: Keys of the nodes where a model's own outputs end; what lies behind is the model.
        module_of: Names the module of the parameter of an ``id``.
    """
    if root is None or not may_read():
        return None
    for node in reversed(list(_ahead(root, outputs))):  # from the outputs to the loss
        try:
            found = _examined(node)
        except (RuntimeError, AttributeError, TypeError, IndexError, ValueError):
            continue  # freed, or not what this torch calls it
        if found is not None:
            return _near(found, node, module_of)
    return None


def backward_fault(
    root: Any, outputs: frozenset[int], module_of: Callable[[int], str | None]
) -> BadValue | None:
    """The operation between loss and outputs whose slope may be infinite, after a backward pass.

    Only the structure is left then; the nearest such operation to the loss is named.
    """
    if root is None:
        return None
    ahead = list(_ahead(root, outputs))
    for wanted in (_CERTAIN, tuple(_STEEP)):
        for node in ahead:
            kind = short(node.name())
            if kind not in wanted or (kind == "Pow" and not _is_fractional(node)):
                continue
            behind = picker_before(root, node)
            if kind not in _CERTAIN and not behind:
                continue
            found = BadValue(
                direction="backward",
                operation=_STEEP[kind],
                inside=False,
                value="nan",
                received_zero=bool(behind),
                behind=behind,
                confirmed=False,
            )
            return _near(found, node, module_of)
    return None


def _is_fractional(node: Any) -> bool:
    exponent = getattr(node, "_saved_exponent", None)
    return isinstance(exponent, int | float) and 0 < exponent < 1


def _ahead(root: Any, outputs: frozenset[int]) -> Iterator[Any]:
    """Nodes from the loss on, breadth first, up to where a model's outputs end."""
    queue, seen = [root], {key_of(root)}
    for node in queue:
        if hasattr(node, "variable"):
            continue
        yield node
        if len(seen) > MOST_NODES:
            return
        for following, _ in node.next_functions:
            if following is None:
                continue
            key = key_of(following)
            if key not in seen and key not in outputs:
                seen.add(key)
                queue.append(following)


def _examined(node: Any) -> BadValue | None:
    """What is wrong at a node itself: finite operands, and a result that cannot be."""
    kind = short(node.name())
    name = _NAMES.get(kind, operation_name(kind, None))
    behind = _lineage(node)

    def saved(what: str) -> Any:
        return getattr(node, f"_saved_{what}", None)

    def told(*operands: Operand, value: str = "nan", **more: Any) -> BadValue:
        return BadValue(
            direction="forward",
            operation=name,
            inside=False,
            value=value,
            operands=operands,
            **more,
        )

    def read(what: str, lineage: tuple[str, ...] = behind) -> Operand:
        value = saved(what)
        if isinstance(value, Tensor):
            return operand(value, lineage)
        return operand(torch.tensor(float(value), dtype=torch.float64), name="number")

    if kind in ("Log", "Log2", "Log10"):
        first = read("self")
        if not first.bad and (first.zeros or first.negative):
            return told(first, value="nan" if first.negative else "-inf")
    elif kind == "Div":
        below = saved("other")
        if below is None:
            return None
        first = operand(saved("self"), behind) if isinstance(saved("self"), Tensor) else Operand()
        second = read("other", _lineage(node, 1))
        if second.zeros and not first.bad and not second.bad:
            whole = isinstance(saved("self"), Tensor) and bool((saved("self") == 0).any())
            up = first if whole or first.dtype else Operand(lineage=behind, dtype="unknown")
            return told(up, second, value="nan" if whole or not first.dtype else "inf")
    elif kind == "Reciprocal" and kind_of(saved("result")) == "inf":
        return told(Operand(), Operand(zeros=bad_entries(saved("result")), lineage=behind))
    elif kind in ("Sqrt", "Exp", "Rsqrt", "Std", "Softmax", "LogSoftmax"):
        result = saved("result")
        bad = kind_of(result)
        if bad and _fed_finite(node):
            count = bad_entries(result)
            dtype = str(result.dtype).removeprefix("torch.")
            guess = {"Sqrt": Operand(negative=count), "Rsqrt": Operand(zeros=count)}.get(kind)
            if kind == "Exp":
                guess = Operand(largest=float("nan"), lineage=behind)
            elif kind in ("Softmax", "LogSoftmax"):
                if not _MASKS & {*behind}:  # its logits are not kept: they may be NaN themselves
                    return None
                guess = Operand(masked_rows=int(torch.isnan(result).all(dim=-1).sum()))
            return told(guess or Operand(), value=bad, dtype=dtype)
    elif kind == "Pow":
        base, exponent = read("self"), read("exponent")
        if not base.bad and exponent.least < 0 and base.zeros:
            return told(base, exponent, value="inf")
        if not base.bad and base.negative and 0 < abs(exponent.largest) < 1:
            return told(base, exponent)
    elif kind == "Mean":
        if saved("self_sym_numel") == 0 or saved("self_numel") == 0:
            return told(Operand(dtype="float32", entries=0))
    elif kind in ("NllLoss", "NllLoss2D", "NllLoss2d"):
        weight = saved("total_weight")
        if isinstance(weight, Tensor) and float(weight) == 0 and not kind_of(saved("self")):
            return told(operand(saved("self"), behind), ignored=1.0)
    elif kind == "CtcLoss":
        lengths = unalignable(
            saved("targets"),
            torch.as_tensor(saved("input_lengths")).reshape(-1).tolist(),
            torch.as_tensor(saved("target_lengths")).reshape(-1).tolist(),
        )
        if lengths:
            return told(value="inf", target_lengths=lengths)
    elif kind in ("MseLoss", "SmoothL1Loss", "HuberLoss", "BinaryCrossEntropy"):
        target = saved("target")
        if isinstance(target, Tensor) and kind_of(target) and not kind_of(saved("self")):
            return BadValue(
                direction="input", operation=name, inside=False, value=kind_of(target),
                bad=bad_entries(target), operands=(operand(target, name="the target"),),
            )  # fmt: skip
    return None


_MASKS = frozenset({"masked_fill", "where", "index_put", "index_fill", "scatter"})
"""Operations that write minus infinity into logits."""


def _fed_finite(node: Any) -> bool:
    """Whether what a node was given is finite, as far as it was saved."""
    value = getattr(node, "_saved_self", None)
    return not isinstance(value, Tensor) or kind_of(value) in ("", "-inf")


def _lineage(node: Any, edge: int = 0) -> tuple[str, ...]:
    """The operations behind one edge of a node, nearest first."""
    found: list[str] = []
    edges = node.next_functions
    todo = [edges[edge][0]] if edge < len(edges) else []
    while todo and len(found) < 8:
        at = todo.pop(0)
        if at is None or hasattr(at, "variable"):
            continue
        kind = short(at.name())
        found.append(_NAMES.get(kind, operation_name(kind, None)))
        if kind in _THROUGH:
            todo.extend(child for child, _ in at.next_functions)
    return tuple(dict.fromkeys(found))


def _near(found: BadValue, node: Any, module_of: Callable[[int], str | None]) -> BadValue:
    """With the module whose parameter is the nearest one behind the node."""
    queue, seen = [node], {id(node)}
    while queue and len(seen) < 64:
        at = queue.pop(0)
        if hasattr(at, "variable"):
            name = module_of(id(at.variable))
            if name:
                return replace(found, near=name)
            continue
        for following, _ in at.next_functions:
            if following is not None and id(following) not in seen:
                seen.add(id(following))
                queue.append(following)
    return found
