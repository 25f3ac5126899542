"""Which operation made the first number that is not finite, forward or backward, and of what.

The pass is made again in the model's own number format (float64 hides an overflow), first plainly;
only if it fails, with every call written down. Forward, the bad value is followed back from the
loss to the operation whose operands were still finite; infinities of a mask are none. Backward, it
is the first node that gets a finite gradient and passes on another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.probe.graph import postorder
from gradmend.probe.heard import Heard, HeardCall, Hearing, paths_of
from gradmend.probe.kinds import operation_name, short
from gradmend.probe.loss_targets import of_the_loss
from gradmend.probe.operands import MASKS, bad_entries, kind_of, operand
from gradmend.probe.source import module_line
from gradmend.records.badvalue import BadValue

_PICKERS = frozenset(
    {"Where", "MaskedFill", "MaskedSelect", "MaskedScatter", "Index", "IndexPut", "NanToNum"}
    | {"Gather", "Minimum", "Maximum", "Clamp", "ClampMin", "ClampMax"}
)
"""Nodes that pass an exact zero to what they did not pick."""


def is_sound(loss: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Whether a loss and its gradient with respect to these parameters are finite."""
    if not bool(torch.isfinite(loss.detach()).all()):
        return False
    wanted = [p for p in parameters if p.requires_grad]
    if not wanted or loss.grad_fn is None:
        return True
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return not any(g is not None and kind_of(g) for g in grads)


def first_bad(
    model: nn.Module, thunk: Callable[[], Tensor], names: Mapping[int, str]
) -> BadValue | None:
    """Find the first value that is not finite in a pass; ``None`` where all are.

    Args:
        model: Whose modules are named.
        thunk: Runs the forward pass; returns the loss.
        names: Parameters and inputs, by ``id`` of the tensors that the pass runs on.
    """
    heard = Heard(names=dict(names))
    with paths_of(model) as path, Hearing(heard, path):
        loss = thunk()
    if kind_of(loss.detach()):
        return _forward(model, heard, loss)
    return _backward(model, heard, loss) if loss.grad_fn is not None else None


# ---- forward


def _forward(model: nn.Module, heard: Heard, loss: Tensor) -> BadValue | None:
    at = heard.made.get(id(loss))
    if at is None:
        return None
    handed: list[tuple[int, Tensor]] = []
    origins: list[int] = []
    reached: set[int] = set()
    todo = [at]
    while todo:
        number = todo.pop()
        if number in reached:
            continue
        reached.add(number)
        bad_given = False
        for value, maker in heard.calls[number].given:
            if not isinstance(value, Tensor):
                continue
            if maker is not None and heard.calls[maker].kind:
                todo.append(maker)
                bad_given = True
            elif maker is None and (kind := kind_of(value)):
                bad_given = True
                if kind != "-inf":
                    handed.append((number, value))
        if not bad_given:
            origins.append(number)
    if handed:
        return _handed_in(model, heard, *min(handed, key=lambda pair: pair[0]))
    real = [number for number in origins if not _is_mask(heard.calls[number])]
    if not real:  # masks alone: the first that made NaN of them
        real = [n for n in reached if heard.calls[n].kind == "nan"] or list(reached)
    call = heard.calls[min(real)]
    assert call.output is not None
    return BadValue(
        direction="forward",
        operation=call.name,
        module=call.module or "",
        inside=call.module is not None,
        near=heard.near(call),
        source=_line(model, call),
        value=call.kind,
        dtype=str(call.output.dtype).removeprefix("torch."),
        entries=call.output.numel(),
        bad=bad_entries(call.output.detach()),
        operands=heard.operands(call),
        wide_largest=_in_float64(call),
        **of_the_loss(call),
    )


def _is_mask(call: HeardCall) -> bool:
    if call.kind != "-inf":
        return False
    written = any(value == -math.inf for value, _ in call.given if not isinstance(value, Tensor))
    return written or call.name in MASKS


def _handed_in(model: nn.Module, heard: Heard, number: int, value: Tensor) -> BadValue:
    call = heard.calls[number]
    name = heard.names.get(id(value), "")
    weights = bool(name) and not name.startswith(("input", "batch"))
    return BadValue(
        direction="weights" if weights else "input",
        operation=call.name,
        module=call.module or "",
        inside=call.module is not None,
        source=_line(model, call),
        value=kind_of(value),
        dtype=str(value.dtype).removeprefix("torch."),
        entries=value.numel(),
        bad=bad_entries(value.detach()),
        operands=(operand(value, name=name or "a constant"),),
    )


def _line(model: nn.Module, call: HeardCall) -> str | None:
    return call.source or (module_line(model, call.module) if call.module else None)


def _in_float64(call: HeardCall) -> float | None:
    """The largest |result| of a call in float64; ``None`` where it is not finite, or unknown."""
    if call.in_place is not None or "dropout" in call.name:
        return None

    def widen(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().double() if value.is_floating_point() else value
        if isinstance(value, torch.dtype):
            return torch.float64
        if isinstance(value, tuple | list):
            return type(value)(widen(item) for item in value)
        return value

    try:
        if call.name in ("half", "to", "type", "type_as"):
            result = widen(call.args[0])
        else:
            kwargs = {key: widen(value) for key, value in call.kwargs.items() if key != "out"}
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                result = call.function(*(widen(value) for value in call.args), **kwargs)
    except Exception:  # somebody's function, called with other types than it was written for
        return None
    if not isinstance(result, Tensor) or not result.numel():
        return None
    largest = float(result.abs().max())
    return largest if math.isfinite(largest) else None


# ---- backward


def _backward(model: nn.Module, heard: Heard, loss: Tensor) -> BadValue | None:
    every, _ = postorder(loss.grad_fn)
    origins: list[tuple[Any, str, int, bool, torch.dtype]] = []
    sends: dict[int, list[Any]] = {}

    def watch(node: Any) -> Any:
        def hook(sent: tuple[Tensor | None, ...], got: tuple[Tensor | None, ...]) -> None:
            bad = [at for at, grad in enumerate(sent) if grad is not None and kind_of(grad)]
            if not bad:
                return
            sends[id(node)] = [node.next_functions[at][0] for at in bad]
            grad = sent[bad[0]]
            assert grad is not None
            if not any(g is not None and kind_of(g) for g in got):
                zero = _received_zero(grad, got)
                origins.append((node, kind_of(grad), bad_entries(grad), zero, grad.dtype))

        return node.register_hook(hook)

    handles = [watch(node) for node in every.values() if not hasattr(node, "variable")]
    leaves = [node.variable for node in every.values() if hasattr(node, "variable")]
    try:
        if leaves:
            torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    # A rectifier behind it may stop what an operation sends: that one is no fault.
    harmful = [origin for origin in origins if _reaches_a_leaf(origin[0], sends)]
    if not harmful:
        return None
    node, kind, bad, zero, dtype = harmful[0]
    call = heard.at_node(int(node._sequence_nr()))
    return BadValue(
        direction="backward",
        operation=call.name if call else operation_name(short(node.name()), None),
        module=(call.module or "") if call else "",
        inside=call is None or call.module is not None,
        near=heard.near(call) if call else "",
        source=_line(model, call) if call else None,
        value=kind,
        dtype=str(dtype).removeprefix("torch."),
        entries=call.output.numel() if call and call.output is not None else 0,
        bad=bad,
        operands=heard.operands(call) if call else (),
        received_zero=zero,
        behind=picker_before(loss.grad_fn, node) if zero else "",
    )


def _reaches_a_leaf(origin: Any, sends: Mapping[int, list[Any]]) -> bool:
    """Whether what a node spoiled arrives at a parameter."""
    todo, seen = [origin], {id(origin)}
    while todo:
        for child in sends.get(id(todo.pop()), ()):
            if child is None:
                continue
            if hasattr(child, "variable"):
                return True
            if id(child) not in seen:
                seen.add(id(child))
                todo.append(child)
    return False


def _received_zero(sent: Tensor, got: tuple[Tensor | None, ...]) -> bool:
    """Whether most of the bad entries that a node sends come of a gradient of exactly zero."""
    known = [g for g in got if g is not None]
    if not known:
        return False
    bad = ~torch.isfinite(sent)
    try:
        came = torch.broadcast_to(known[0], sent.shape)[bad]
    except RuntimeError:  # it has reduced or reshaped its input
        came = known[0]
    return bool((came == 0).double().mean() >= 0.5)


def picker_before(root: Any, node: Any) -> str:
    """The nearest operation between the loss and a node that may have picked another branch."""
    every, _ = postorder(root)
    readers: dict[int, list[Any]] = {}
    for reader in every.values():
        for child, _ in reader.next_functions:
            if child is not None:
                readers.setdefault(id(child), []).append(reader)
    todo, seen = [node], {id(node)}
    while todo:
        at = todo.pop(0)
        for reader in readers.get(id(at), ()):
            if short(reader.name()) in _PICKERS:
                return operation_name(short(reader.name()), None)
            if id(reader) not in seen:
                seen.add(id(reader))
                todo.append(reader)
    return ""
