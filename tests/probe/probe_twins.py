"""Naive twins: the same quantities in plain autograd, written without a line of the probe."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.ledger import Entry
from gradmend.records.trace import Trace


def change(value: Any, by: Callable[[Tensor], Tensor]) -> Any:
    """Rebuild a nest of tuples, lists, dicts and dataclasses with every tensor changed."""
    if isinstance(value, Tensor):
        return by(value)
    if isinstance(value, dict):
        return {key: change(item, by) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(change(item, by) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(change(item, by) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: change(getattr(value, f.name), by) for f in fields(value)})
    return value


def flat(value: Any) -> Iterator[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    change(value, keep)
    return iter(found)


def wide(value: Any) -> Any:
    """Float64 copies of floating tensors, plain copies of the others."""
    return change(
        value,
        lambda t: t.detach().clone().double() if t.is_floating_point() else t.detach().clone(),
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def size(tensors: list[Tensor | None]) -> float:
    """Euclidean norm of all entries together; tensors without a gradient count as zero."""
    return math.sqrt(math.fsum(float(t.double().square().sum()) for t in tensors if t is not None))


class Watch:
    """Clones of a module's inputs and outputs, whose gradients are those at its border."""

    def __init__(self) -> None:
        self.inputs: list[list[Tensor | None]] = []
        self.outputs: list[list[Tensor | None]] = []

    def follow(self, value: Any, table: list[Tensor | None]) -> Any:
        """Clone every differentiable tensor once, and write its gradient down."""
        seen: dict[int, Tensor] = {}

        def by(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            if id(tensor) not in seen:
                place = len(table)
                table.append(None)
                clone = tensor.clone()
                # not retain_grad: that follows the tensor through in-place changes
                clone.register_hook(lambda grad: table.__setitem__(place, grad))
                seen[id(tensor)] = clone
            return seen[id(tensor)]

        return change(value, by)

    def attach(self, module: nn.Module) -> None:
        def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
            self.inputs.append([])
            both = self.follow((args, kwargs), self.inputs[-1])
            return both[0], both[1]

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            self.outputs.append([])
            return self.follow(output, self.outputs[-1])

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after)

    def gains(self) -> list[float | None]:
        """log10 |grad of inputs| - log10 |grad of outputs| of each call."""
        found: list[float | None] = []
        for inputs, outputs in zip(self.inputs, self.outputs, strict=True):
            into, out = size(inputs), size(outputs)
            found.append(math.log10(into) - math.log10(out) if into and out else None)
        return found


@dataclass
class Twin:
    """What plain autograd says about one forward and backward pass."""

    total: float
    loss: float
    gains: dict[str, list[float | None]] = field(default_factory=dict)
    grads: dict[str, Tensor | None] = field(default_factory=dict)


def plain(
    model: nn.Module,
    batch: Any,
    loss_fn: Any = None,
    *,
    forward: Any = None,
    starts: tuple[type[nn.Module], ...] = (nn.Embedding,),
    borders: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 7,
) -> Twin:
    """The whole gain (inputs against the model's outputs) by a single ``loss.backward()``.

    ``borders`` also watches every module's border; ``starts`` are modules whose outputs count
    as inputs.
    """
    model = copy.deepcopy(model)
    model = model.double() if dtype == torch.float64 else model
    at_start: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, starts):
            module.register_forward_hook(lambda _, __, out: at_start.append(out) or out)
    watches: dict[str, Watch] = {}
    for path, module in model.named_modules():
        if path == "" or borders:
            watches[path] = Watch()
            watches[path].attach(module)
    fed = wide(batch) if dtype == torch.float64 else change(batch, lambda t: t.detach().clone())
    x = fed if forward is not None or isinstance(fed, dict) else fed[0]
    for tensor in flat(x):
        if tensor.is_floating_point():
            tensor.requires_grad_()
    fed_x = change(x, lambda t: t.clone())
    with default_dtype(dtype), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if forward is not None:
            loss = forward(model, fed_x)
        elif isinstance(fed, dict):
            loss = loss_fn(model(**fed_x), fed_x)
        else:
            loss = loss_fn(model(*fed_x) if isinstance(fed_x, tuple) else model(fed_x), fed[1])
        for tensor in at_start:
            tensor.retain_grad()
        loss.backward()
    # the root's border, not the leaves: a mapping's targets are leaves that only the loss reads
    into = size([*(g for call in watches[""].inputs for g in call), *(t.grad for t in at_start)])
    out = size([g for call in watches[""].outputs for g in call])
    return Twin(
        total=math.log10(into) - math.log10(out) if into and out else -math.inf,
        loss=float(loss.detach()),
        gains={path: watch.gains() for path, watch in watches.items()},
        grads={name: p.grad for name, p in model.named_parameters()},
    )


def look_at(
    model: nn.Module,
    batch: Any,
    loss_fn: Any = None,
    *,
    forward: Any = None,
    seed: int = 7,
    **kw: Any,
) -> Trace:
    """``look`` from the same random state as the twin."""
    torch.manual_seed(seed)
    return look(model, batch, Feeder(loss_fn=loss_fn, forward=forward), **kw)


def containers(trace: Trace) -> list[Entry]:
    assert trace.ledger is not None
    assert trace.ledger.root is not None
    return [entry for entry in trace.ledger.root.walk() if entry.children]


def modules(trace: Trace) -> dict[tuple[str, int], Entry]:
    """Entries of module calls, by path and call."""
    assert trace.ledger is not None
    assert trace.ledger.root is not None
    return {(e.name, e.call): e for e in trace.ledger.root.walk() if e.kind == "module"}


def assert_balanced(trace: Trace, tolerance: float = 1e-9) -> None:
    """Every level adds up, by every road, and the second opinion agrees."""
    ledger = trace.ledger
    assert ledger is not None
    assert ledger.root is not None
    assert ledger.total_decades is not None
    assert ledger.unexplained_decades is not None
    assert ledger.imbalance is not None
    assert ledger.unexplained_decades < tolerance
    assert ledger.imbalance < tolerance
    for entry in containers(trace):
        assert math.fsum(c.decades for c in entry.children) == _near(entry.decades, tolerance)
    leaves = math.fsum(e.decades for e in ledger.root.leaves())
    assert leaves == _near(ledger.total_decades, tolerance)
    assert math.fsum(ledger.by_cause.values()) == _near(ledger.total_decades, tolerance)


def _near(value: float, tolerance: float) -> Any:
    import pytest

    return pytest.approx(value, abs=tolerance)
