"""One forward pass, written down: which module and which call made each autograd node.

Module spans come from torch's global forward hooks, calls from a ``TorchFunctionMode``; both
are matched to autograd nodes by sequence number, so functional and in-place operations are
seen as well as modules, and nothing is registered on the user's model.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from gradmend.probe.cutting import CUTTING, CutCall, why_unrecorded
from gradmend.probe.operands import is_mask
from gradmend.probe.signals import measure
from gradmend.probe.source import calling_line
from gradmend.records.trace import Signal

TOP = 0
"""Id of the span that stands for everything outside the model: the loss, the user's glue."""


@dataclass(slots=True)
class Span:
    """One call of one module, or the outside world for :data:`TOP`."""

    id: int
    parent: int
    path: str
    call: int
    module: nn.Module | None = None
    depth: int = 0
    unrecorded: str = ""
    """Why no graph was recorded when it began, see :attr:`Parameter.unrecorded`."""
    takes: tuple[int, ...] | None = None
    gives: tuple[int, ...] | None = None
    fed_by: str = ""
    """These three as in :class:`gradmend.records.layout.ModuleFacts`, of this call alone."""


@dataclass(slots=True)
class Call:
    """One call of a torch function that made autograd nodes."""

    name: str
    source: str | None
    output: int | None
    """Sequence number of the node that made the output."""
    signal: Signal | None
    channel_dim: int = -1
    """Dimension of the output that holds the units."""
    shape: tuple[int, ...] | None = None


@dataclass(slots=True)
class Capture:
    """Everything written down during one forward pass."""

    spans: list[Span] = field(default_factory=list)
    outputs: dict[int, Any] = field(default_factory=dict)
    """Outputs of the model's own calls, by span id."""
    readers: dict[int, str] = field(default_factory=dict)
    """Path of the first module to receive each watched input tensor, by its id."""
    sources: list[tuple[Tensor, int]] = field(default_factory=list)
    """Outputs of leaf modules that turned integers into floats (embeddings), with span."""
    first_outputs: list[GradientEdge] = field(default_factory=list)
    """First differentiable tensor output of each module call, in forward order, as edges of the
    graph: the tensors themselves would double the memory of a deep model's pass."""
    called: set[int] = field(default_factory=set)
    """ids of the modules that ran."""
    non_finite: str | None = None
    cuts: list[CutCall] = field(default_factory=list)
    _span_marks: list[tuple[int, int]] = field(default_factory=list)
    _call_marks: list[tuple[int, int]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def span_of(self, sequence: int) -> int:
        """Innermost span that was open when a node was made."""
        index = bisect_right(self._span_marks, (sequence, 1 << 62)) - 1
        return self._span_marks[index][1] if index >= 0 else TOP

    def call_of(self, sequence: int) -> Call | None:
        """The function call that made a node."""
        index = bisect_right(self._call_marks, (sequence, 1 << 62)) - 1
        call = self._call_marks[index][1] if index >= 0 else -1
        return self.calls[call] if call >= 0 else None

    def chain(self, span: int) -> list[int]:
        """Span ids from the top down to ``span``, both included."""
        found = [span]
        while found[-1] != TOP:
            found.append(self.spans[found[-1]].parent)
        return found[::-1]


def run_captured(
    model: nn.Module, thunk: Callable[[], Tensor], watched: dict[int, str]
) -> tuple[Tensor, Capture]:
    """Run ``thunk`` (a forward pass and its loss) and write down what happened.

    Args:
        model: The root whose modules are named.
        thunk: Runs the forward pass; returns the loss, shape [].
        watched: ``id`` of each input tensor handed in, with its name.
    """
    capture = Capture(spans=[Span(id=TOP, parent=TOP, path="", call=0)])
    paths: dict[int, str] = {}
    for name, module in model.named_modules():
        paths.setdefault(id(module), name)
    with _spans(capture, paths, watched), _Calls(capture):
        loss = thunk()
    return loss, capture


@contextmanager
def _spans(capture: Capture, paths: dict[int, str], watched: dict[int, str]) -> Iterator[None]:
    open_spans = [TOP]
    counts: dict[str, int] = {}
    makers: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def maker(tensor: Any) -> str:
        """Path of the module that put a tensor out; an id alone is good only while it lives."""
        ref, path = makers.get(id(tensor), (None, ""))
        return path if ref is not None and ref() is tensor else ""

    thread = threading.get_ident()

    def enter(module: nn.Module, args: Any) -> None:
        if threading.get_ident() != thread or id(module) not in paths:
            return
        path = paths[id(module)]
        parent = open_spans[-1]
        span = Span(
            id=len(capture.spans),
            parent=parent,
            path=path,
            call=counts.get(path, 0),
            module=module,
            depth=capture.spans[parent].depth + 1,
            unrecorded=why_unrecorded(),
        )
        counts[path] = span.call + 1
        capture.spans.append(span)
        capture.called.add(id(module))
        capture._span_marks.append((_get_sequence_nr(), span.id))
        open_spans.append(span.id)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if threading.get_ident() != thread or id(module) not in paths:
            return
        with torch._C.DisableTorchFunction():  # what we ask of tensors is no call of the user's
            note(module, args, kwargs, output)

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        span = capture.spans[open_spans.pop()]
        received = list(tensors_in((args, kwargs)))
        # On leaving, because only this hook sees keyword arguments; inner modules leave before
        # the outer ones that handed the tensor down, and a later reader is not the first.
        for tensor in received:
            if id(tensor) in watched:
                capture.readers.setdefault(id(tensor), span.path)
        capture._span_marks.append((_get_sequence_nr(), open_spans[-1]))
        if span.parent == TOP:
            capture.outputs[span.id] = output
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            if args[0].is_floating_point():
                span.takes = tuple(args[0].shape)
            span.fed_by = maker(args[0])
        if isinstance(output, Tensor) and output.is_floating_point():
            span.gives = tuple(output.shape)
            # A container answers what its last module made; in place, another makes it anew.
            inner = maker(output)
            within = inner.startswith(f"{span.path}." if span.path else "")
            if output.requires_grad and not (inner and within):
                makers[id(output)] = (weakref.ref(output), span.path)
        found = [t for t in tensors_in(output) if t.requires_grad and t.grad_fn is not None]
        if not found:
            return
        capture.first_outputs.append(get_gradient_edge(found[0]))
        is_leaf = next(module.children(), None) is None
        # Something must have gone in: a module that only hands out its parameter is no start.
        if is_leaf and received and not any(t.is_floating_point() for t in received):
            capture.sources.extend((tensor, span.id) for tensor in found)

    handles = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, with_kwargs=True, always_call=False),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
            # torch 2.13 forgets to remove this part of a global hook
            getattr(torch_module, "_global_forward_hooks_with_kwargs", {}).pop(handle.id, None)


class _Calls(TorchFunctionMode):
    """Sees every torch function the user's code and torch's modules call."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture
        self.channel_dim: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types  # unused: the mode sees every type
        before = _get_sequence_nr()
        result = func(*args, **(kwargs or {}))
        after = _get_sequence_nr()
        name = getattr(func, "__name__", "operation")
        if after == before:
            if torch.is_grad_enabled():
                self._cut(func, name, args)
            return result
        capture = self.capture
        output = next((t for t in tensors_in(result) if t.is_floating_point()), None)
        node = output.grad_fn if output is not None else None
        sequence = node._sequence_nr() if node is not None else None
        source = calling_line()
        signal, channel_dim = None, -1
        if output is not None and sequence is not None and output.dim() and output.numel():
            if name.startswith("conv"):
                self.channel_dim[output.dim()] = 1
            elif name == "linear":
                self.channel_dim[output.dim()] = -1
            default = 1 if output.dim() >= 4 else -1
            channel_dim = self.channel_dim.get(output.dim(), default)
            with torch.no_grad():
                signal = measure(output.detach(), channel_dim)
            bad = signal.non_finite > 0 and not is_mask(output.detach(), name)
            if bad and capture.non_finite is None:
                where = capture.spans[capture.span_of(before)].path
                capture.non_finite = f"{name} in {where}" if where else name
        capture.calls.append(
            Call(
                name=name,
                source=source,
                output=sequence,
                signal=signal,
                channel_dim=channel_dim,
                shape=tuple(output.shape) if output is not None else None,
            )
        )
        capture._call_marks.append((before, len(capture.calls) - 1))
        capture._call_marks.append((after, -1))
        return result

    def _cut(self, func: Any, name: str, args: Any) -> None:
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        if name not in CUTTING or not args:
            return
        given = next((t for t in tensors_in(args[:1]) if t.grad_fn is not None), None)
        if given is not None:
            marks = self.capture._span_marks
            path = self.capture.spans[marks[-1][1]].path if marks else ""
            self.capture.cuts.append(CutCall(name, path, calling_line(), given.grad_fn))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and dataclass-like outputs."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, list | tuple):
            stack.extend(reversed(item))
        elif isinstance(item, Mapping):  # not only dict: a tokenizer's batch is a UserDict
            stack.extend(reversed(list(item.values())))
        elif hasattr(item, "__dataclass_fields__"):
            stack.extend(getattr(item, name) for name in reversed(item.__dataclass_fields__))
