"""What every module puts out, measured inside one real forward and backward pass.

Statistics are computed at once and no activation is held. Modules are seen by torch's global
hooks and functional calls by a ``TorchFunctionMode``, both for one call only, so nothing is
registered on the user's modules or tensors; gradients are heard on autograd nodes, which go away
with the graph.
"""

from __future__ import annotations

import math
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from gradmend.probe import attention, slopes
from gradmend.probe.attention import Attention
from gradmend.probe.capture import tensors_in
from gradmend.probe.cells import CellWatch
from gradmend.probe.held import HeldCall
from gradmend.probe.kinds import ACTIVATION_CALLS
from gradmend.probe.sample import Measure, measure, merged, norm_of, plain, thin
from gradmend.records.history import Column
from gradmend.records.recurrence import Recurrence

_FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_CALLS = ACTIVATION_CALLS | {"log_sigmoid", "softmax", "scaled_dot_product_attention"}
_active = threading.local()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The quantities of one column of a table."""

    column: Column
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Everything seen in one call of a model, in forward order."""

    outputs: tuple[Measured, ...] = ()
    attention: tuple[Measured, ...] = ()
    recurrence: tuple[Measured, ...] = ()
    recurrences: tuple[Recurrence, ...] = ()
    """The curves behind ``recurrence``."""
    modules: tuple[Mapping[str, Any], ...] = ()
    """``module``, ``class``, ``training`` of each module called; ``p`` of dropout and
    ``batch_per_channel`` of batch normalisation."""
    inputs: tuple[Mapping[str, Any], ...] = ()
    """``name``, ``shape``, ``dtype`` of each tensor that the root was fed; of floating ones
    ``mean``, ``std`` and ``constant_share`` (places that are the same in all samples)."""
    notes: tuple[str, ...] = ()
    """What could not be seen, and why."""
    failure: str | None = None
    """Traceback of an error of ours; what is there was measured before it."""


@dataclass(slots=True)
class _Frame:
    """One open call of a module."""

    module: nn.Module
    path: str
    leaf: bool = True
    counts: dict[str, int] = field(default_factory=dict)
    last: tuple[weakref.ref[Tensor], str, Measure] | None = None
    """The newest activation called: what it returned, its column, its measure."""


@dataclass(slots=True)
class _Entry:
    name: str
    path: str
    kind: str
    order: int
    measures: list[Measure] = field(default_factory=list)

    def column(self) -> Column:
        return Column(name=self.name, module=self.path, kind=self.kind, order=self.order)


class OutputWatch:
    """Watches one call of a model in training.

    Around the call and nothing else: ``with watch: output = model(batch)``. After backward, and
    before the optimizer changes a weight, :meth:`finish` gives what was seen. Errors of ours never
    leave: the first one is kept in ``failure``, and watching stops.

    Args:
        root: The model.
        dead: Dead units found so far, kept by the caller from one watched call to the next.
    """

    def __init__(self, root: nn.Module, dead: slopes.DeadUnits | None = None) -> None:
        self.root = root
        self.dead = dead if dead is not None else slopes.DeadUnits()
        self.failure: str | None = None
        self.notes: list[str] = []
        self._on = False
        self._frames: list[_Frame] = []
        self._paths: dict[int, str] = {}
        self._entries: dict[str, _Entry] = {}
        self._attention: dict[str, tuple[Column, list[Attention]]] = {}
        self._held: list[HeldCall] = []
        self._cells: dict[str, CellWatch] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._inputs: list[dict[str, Any]] = []
        self._channel_dim: dict[int, int] = {}
        self._handles: list[Any] = []
        self._mode: _Calls | None = None
        self._thread = 0
        self._made = 0

    def __enter__(self) -> OutputWatch:
        if getattr(_active, "watch", None) is not None:
            return self  # called inside another model's watched call, which sees it all
        why = _blind(self.root)
        if why:
            self.notes.append(why)
            return self
        _active.watch = self
        self._thread = threading.get_ident()
        try:
            for path, module in self.root.named_modules():
                self._paths.setdefault(id(module), path)
            self._handles = [
                register_module_forward_pre_hook(self._enter),
                register_module_forward_hook(self._leave, with_kwargs=True, always_call=True),
            ]
            unseen = _calls_unseen(self.root)
            if unseen:
                self.notes.append(unseen)
            else:
                mode = _Calls(self)
                mode.__enter__()  # type: ignore[no-untyped-call]
                self._mode = mode
            self._on = True
        except Exception:
            self._fail()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if getattr(_active, "watch", None) is not self:
            return
        _active.watch = None
        self._on = False
        if self._mode is not None:
            self._mode.__exit__(kind, error, trace)
            self._mode = None
        for handle in self._handles:
            handle.remove()
            # torch 2.13 forgets to remove this part of a global hook
            getattr(torch_module, "_global_forward_hooks_with_kwargs", {}).pop(handle.id, None)
        self._handles.clear()
        self._frames.clear()
        self._paths.clear()

    def finish(self) -> Sheet:
        """What was seen; unrolls recurrent layers, and lets go of everything held.

        Gradients are those of the loss as it was sent back: with a gradient scaler, scaled.
        """
        outputs: list[Measured] = []
        recurrences: list[Recurrence] = []
        with _Quiet():
            try:
                for name, entry in self._entries.items():
                    outputs.append(
                        Measured(column=entry.column(), values=self._values(name, entry))
                    )
                for held in self._held:
                    recurrences.extend(held.unrolled(self.notes))
                recurrences.extend(cell.record() for cell in self._cells.values())
            except Exception:
                self._fail()
        sheet = Sheet(
            outputs=tuple(outputs),
            attention=tuple(
                Measured(column=column, values=_mean_attention(calls))
                for column, calls in self._attention.values()
            ),
            recurrence=tuple(_row(record) for record in recurrences),
            recurrences=tuple(recurrences),
            modules=tuple(self._states.values()),
            inputs=tuple(self._inputs),
            notes=tuple(dict.fromkeys(self.notes)),
            failure=self.failure,
        )
        self.close()
        return sheet

    def close(self) -> None:
        """Let go of everything held; for a call whose backward pass never came."""
        for held in self._held:
            held.release()
        self._held.clear()
        self._cells.clear()
        self._entries.clear()
        self._attention.clear()

    def _fail(self) -> None:
        self._on = False
        if self.failure is None:
            self.failure = traceback.format_exc()

    def _here(self) -> bool:
        # A backward pass inside the forward one (a penalty on gradients) may recompute parts of it.
        return (
            self._on
            and threading.get_ident() == self._thread
            and torch._C._current_graph_task_id() == -1
        )

    def _enter(self, module: nn.Module, args: Any) -> None:
        if id(module) not in self._paths or not self._here():
            return
        try:
            if self._frames:
                self._frames[-1].leaf = False
            elif module is self.root:
                with _Quiet():
                    self._read_inputs(dict(enumerate(args)))
            self._frames.append(_Frame(module, self._paths[id(module)]))
        except Exception:
            self._fail()

    def _leave(self, module: nn.Module, args: Any, *rest: Any) -> None:
        """Called with (kwargs, output), or without kwargs where the module raised."""
        if id(module) not in self._paths or not self._here():
            return
        try:
            while self._frames and self._frames[-1].module is not module:
                self._frames.pop()
            if not self._frames:
                return
            frame = self._frames.pop()
            if len(rest) < 2:
                return
            kwargs, output = rest
            with _Quiet():
                self._left(frame, args, kwargs, output)
                if module is self.root and not self._frames:
                    self._read_inputs(kwargs)
        except Exception:
            self._fail()

    def _left(self, frame: _Frame, args: Any, kwargs: Any, output: Any) -> None:
        module, path = frame.module, frame.path
        if path not in self._states:
            self._states[path] = _state_of(module, path, args)
        if isinstance(module, nn.MultiheadAttention):
            self._attend(path, type(module).__name__, attention.of_module(module, args, kwargs))
        if isinstance(module, _RECURRENT):
            self._recur(module, path, args, kwargs, output)
        if not frame.leaf:
            return
        first = next((t for t in tensors_in(output) if t.is_floating_point()), None)
        if first is None:
            return
        name = path or type(module).__name__
        if frame.last is not None and frame.last[0]() is first:
            _, called, found = frame.last
            entry = self._entries[called]
            entry.measures.remove(found)
            if not entry.measures:
                del self._entries[called]
            self._entry(name, path, entry.kind).measures.append(found)
            return
        self._measure(name, path, type(module).__name__, first)

    def _measure(
        self, name: str, path: str, kind: str, x: Tensor, slope: tuple[float, Any] | None = None
    ) -> Measure | None:
        values = plain(x)
        if values is None:
            return None
        found = measure(values, self._units_of(x))
        if slope is not None:
            found.flat, found.dead = slope
        if x.grad_fn is not None:
            _listen(x, found.norms)
        self._entry(name, path, kind).measures.append(found)
        return found

    def _entry(self, name: str, path: str, kind: str) -> _Entry:
        if name not in self._entries:
            self._entries[name] = _Entry(name, path, kind, self._made)
            self._made += 1
        return self._entries[name]

    def _attend(self, name: str, kind: str, found: Attention) -> None:
        frame = self._frames[-1].path if self._frames else ""
        column = Column(name=name, module=frame, kind=kind, order=len(self._attention))
        self._attention.setdefault(name, (column, []))[1].append(found)

    def _recur(self, module: nn.Module, path: str, args: Any, kwargs: Any, output: Any) -> None:
        inputs = args[0] if args else kwargs.get("input")
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        if isinstance(module, nn.RNNCellBase):
            if path not in self._cells:
                self._cells[path] = CellWatch(path, module)
            self._cells[path].saw(inputs, state, output)
        elif isinstance(module, nn.RNNBase):
            held = HeldCall.of(path, module, inputs, state, output)
            if isinstance(held, str):
                self.notes.append(held)
            else:
                self._held.append(held)

    def _units_of(self, x: Tensor) -> int:
        return self._channel_dim.get(x.dim(), 1 if x.dim() >= 4 else -1)

    def _call(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function that is watched, and measure it."""
        slope = None
        frame = self._frames[-1] if self._frames else None
        if frame is not None and args and isinstance(args[0], Tensor) and self._here():
            try:
                with _Quiet():
                    slope = self._before(name, args, kwargs, frame)
            except Exception:
                self._fail()
        result = func(*args, **kwargs)
        if frame is not None and isinstance(result, Tensor) and self._here():
            try:
                with _Quiet():
                    self._after(name, result, slope, frame)
            except Exception:
                self._fail()
        return result

    def _before(
        self, name: str, args: Any, kwargs: Any, frame: _Frame
    ) -> slopes.Slope | tuple[float, Tensor] | None:
        """What only the input tells, which an in-place call is about to overwrite."""
        x = plain(args[0])
        if x is None or not x.dim():
            return None
        if name == "scaled_dot_product_attention":
            self._attend(_called(frame, name), name, _attention_of(args, kwargs))
            return None
        if name == "softmax":
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            called_by = f"{frame.path} {type(frame.module).__name__}"
            if attention.looks_like_attention(x, dim, called_by):
                self._attend(_called(frame, name), name, attention.of_scores(x))
            return None
        slope = slopes.slope_of(name, args, kwargs)
        if slope is None:
            return None
        return slope if slope.of_output else self._judge(x, slope)

    def _judge(self, x: Tensor, slope: slopes.Slope) -> tuple[float, Tensor]:
        unit = self._units_of(x)
        return slopes.judge(x, thin(x, unit), slope, unit)

    def _after(
        self,
        name: str,
        result: Tensor,
        slope: slopes.Slope | tuple[float, Tensor] | None,
        frame: _Frame,
    ) -> None:
        if name == "softmax":
            return
        called = _called(frame, name)
        frame.counts[name] = frame.counts.get(name, 0) + 1
        if isinstance(slope, slopes.Slope):
            values = plain(result)
            slope = None if values is None else self._judge(values, slope)
        found = self._measure(called, frame.path, name, result, slope)
        if found is not None:
            frame.last = (weakref.ref(result), called, found)

    def _values(self, name: str, entry: _Entry) -> dict[str, float]:
        values = merged(entry.measures)
        flags = [m.dead for m in entry.measures if m.dead is not None]
        if flags and flags[0].numel() and all(f.shape == flags[0].shape for f in flags):
            self.dead.add(name, torch.stack(flags).all(dim=0))
        values["dead_share"] = self.dead.share(name) if flags else math.nan
        return values

    def _read_inputs(self, given: Mapping[Any, Any]) -> None:
        for name, value in given.items():
            for number, x in enumerate(tensors_in(value)):
                label = f"{name}" if not number else f"{name}.{number}"
                self._inputs.append(_input_facts(label, x))


class _Calls(TorchFunctionMode):
    """Hands the calls that are watched to the watch, and all others straight on."""

    def __init__(self, watch: OutputWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        bare = name.strip("_")
        if bare in _CALLS and not torch.compiler.is_compiling():
            return self.watch._call(bare, func, args, kwargs)
        result = func(*args, **kwargs)
        if name.startswith("conv") and isinstance(result, Tensor):
            self.watch._channel_dim[result.dim()] = 1
        elif name == "linear" and isinstance(result, Tensor):
            self.watch._channel_dim[result.dim()] = -1
        return result


class _Quiet(AbstractContextManager[None]):
    """Our own arithmetic: no gradient, and nobody's modes see it."""

    def __enter__(self) -> None:
        self.functions = torch._C.DisableTorchFunction()
        self.functions.__enter__()
        self.grad = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        # Selective checkpointing, for one, books every operation that it sees.
        self.modes = _disable_current_modes() if torch._C._len_torch_dispatch_stack() else None
        if self.modes is not None:
            self.modes.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.modes is not None:
            self.modes.__exit__(None, None, None)
        torch._C._set_grad_enabled(self.grad)
        self.functions.__exit__(*error)


def _listen(x: Tensor, norms: list[Tensor]) -> None:
    """Book |gradient| of a tensor when backward computes it.

    The hook is on the autograd node that made the tensor, so an in-place operation that comes
    later does not change whose gradient is booked, and the tensor itself stays free of hooks.
    """
    number = x.output_nr

    def hook(grads: tuple[Tensor | None, ...]) -> None:
        try:
            grad = grads[number]
            if grad is not None:
                with _Quiet():
                    norms.append(norm_of(grad))
        except Exception:  # inside the user's backward pass: not known is better than broken
            return

    assert x.grad_fn is not None
    x.grad_fn.register_prehook(hook)


def _blind(root: nn.Module) -> str | None:
    """Why nothing can be watched now, if so."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "the model is being compiled or traced: its outputs were not measured"
    if any(
        getattr(m, "_compiled_call_impl", None) is not None or type(m).__name__ == "OptimizedModule"
        for m in root.modules()
    ):
        return (
            "the model, or a part of it, is compiled, and hooks would compile it again: "
            "its outputs were not measured"
        )
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
        return "the model is being captured in a CUDA graph: its outputs were not measured"
    return None


def _calls_unseen(root: nn.Module) -> str | None:
    """Why functional calls cannot be watched, if so."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is not None and utils.counters["frames"].get("total", 0):
        # Compiled code is specialised on the modes in force and would be compiled again.
        return "compiled functions are in use: calls of functions were not measured, modules were"
    if any(isinstance(m, _FUSED) and not m.training for m in root.modules()):
        # A mode switches their fused path off, whose rounding differs.
        return "attention modules are in eval mode: calls of functions were not measured"
    return None


def _called(frame: _Frame, name: str) -> str:
    number = frame.counts.get(name, 0)
    call = f"{name}.{number}" if number else name
    return f"{frame.path}:{call}" if frame.path else call


def _attention_of(args: Any, kwargs: Any) -> Attention:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | kwargs
    return attention.of_queries(
        given["query"],
        given["key"],
        given.get("attn_mask"),
        is_causal=bool(given.get("is_causal", False)),
        scale=given.get("scale"),
        enable_gqa=bool(given.get("enable_gqa", False)),
    )


def _mean_attention(calls: list[Attention]) -> dict[str, float]:
    """Over several calls of one module: means, but for the largest logit."""

    def known(name: str) -> list[float]:
        return [v for v in (getattr(call, name) for call in calls) if not math.isnan(v)]

    def mean(name: str) -> float:
        values = known(name)
        return math.fsum(values) / len(values) if values else math.nan

    return {
        "entropy": mean("entropy"),
        "largest_share": mean("largest_share"),
        "largest_logit": max(known("largest_logit"), default=math.nan),
        "masked_rows": mean("masked_rows"),
    }


def _row(record: Recurrence) -> Measured:
    name = record.name
    if record.layer or record.direction == "backward":
        name = f"{name}.l{record.layer}" + ("_reverse" if record.direction == "backward" else "")
    column = Column(name=name, module=record.name, kind=record.kind)
    wanted = ("log10_gain", "log10_span", "horizon", "spectral_radius", "forget_gate")
    return Measured(column=column, values={key: getattr(record, key) for key in wanted})


def _state_of(module: nn.Module, path: str, args: Any) -> dict[str, Any]:
    state: dict[str, Any] = {
        "module": path,
        "class": type(module).__name__,
        "training": module.training,
    }
    if isinstance(module, _DropoutNd):
        state["p"] = module.p
    elif isinstance(module, _BatchNorm) and args and isinstance(args[0], Tensor):
        x = args[0]
        state["batch_per_channel"] = x.numel() // max(1, x.shape[1]) if x.dim() > 1 else 0
    return state


def _input_facts(name: str, x: Tensor) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": name,
        "shape": tuple(x.shape),
        "dtype": str(x.dtype).removeprefix("torch."),
    }
    values = plain(x)
    if values is not None:
        part = thin(values, -1) if values.dim() else values
        wide = part.to(torch.float32 if part.device.type == "mps" else torch.float64)
        facts["mean"] = float(wide.mean())
        facts["std"] = float(wide.std(correction=0))
        if part.dim() > 1 and len(part) > 1:
            facts["constant_share"] = float((part == part[:1]).all(dim=0).double().mean())
    return facts
