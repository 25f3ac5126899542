"""What every module puts out, measured inside one real forward and backward pass.

Statistics are computed at once and no activation is held. Modules are seen by torch's global
hooks and functional calls by a ``TorchFunctionMode``, both for one call only, so nothing is
registered on the user's modules or tensors; gradients are heard on autograd nodes, which go away
with the graph.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from gradmend.probe import attention, slopes
from gradmend.probe.attention import Attention
from gradmend.probe.blind import (
    CHECKPOINT,
    blind,
    blind_to_calls,
    in_reentrant_checkpoint,
    why_unrecorded,
)
from gradmend.probe.capture import tensors_in
from gradmend.probe.frames import Called, Entries, Frame, Known, known_modules
from gradmend.probe.function_calls import DROPOUTS, FunctionCalls, attention_of, dropout_of
from gradmend.probe.observed_facts import input_facts, module_facts
from gradmend.probe.quiet import Quiet, listen
from gradmend.probe.recurrent import Recurrences
from gradmend.probe.sample import Measure, histogram, measure, plain, thin
from gradmend.probe.sheet import Measured as Measured
from gradmend.probe.sheet import Sheet as Sheet
from gradmend.probe.sheet import attention_row, recurrence_row
from gradmend.records.history import Column
from gradmend.records.recurrence import Recurrence

_active = threading.local()


class OutputWatch:
    """Watches one call of a model in training.

    Around the call and nothing else: ``with watch: output = model(batch)``. After backward, and
    before the optimizer changes a weight, :meth:`finish` gives what was seen. Errors of ours never
    leave: the first one is kept in ``failure``, and watching stops.

    Args:
        root: The model.
        dead: Dead units found so far, kept by the caller from one watched call to the next; may
            be shared by several models.
        histograms: Count each output's entries by power of two as well.
    """

    def __init__(
        self, root: nn.Module, dead: slopes.DeadUnits | None = None, *, histograms: bool = False
    ) -> None:
        self.root = root
        self.histogram_seconds = 0.0
        """What the histograms took so far."""
        self._histograms = histograms
        self.dead = dead if dead is not None else slopes.DeadUnits()
        self.failure: str | None = None
        self.notes: list[str] = []
        self._on = False
        self._frames: list[Frame] = []
        self._known: dict[int, Known] = {}
        self._entries = Entries()
        self._attention: dict[str, tuple[Column, list[Attention]]] = {}
        self._recurrences = Recurrences()
        self._states: dict[str, dict[str, Any]] = {}
        self._inputs: list[dict[str, Any]] = []
        self._unrecorded: dict[str, str] = {}
        self._channel_dim: dict[int, int] = {}
        self._handles: list[Any] = []
        self._mode: FunctionCalls | None = None
        self._thread = 0

    def __enter__(self) -> OutputWatch:
        if getattr(_active, "watch", None) is not None:
            return self  # called inside another model's watched call, which sees it all
        modules = dict(self.root.named_modules())
        why = blind(modules.values())
        if why:
            self.notes.append(why)
            return self
        _active.watch = self
        self._thread = threading.get_ident()
        try:
            self._known = known_modules(modules)
            self._handles = [
                register_module_forward_pre_hook(self._enter),
                register_module_forward_hook(self._leave, with_kwargs=True, always_call=True),
            ]
            unseen = blind_to_calls(modules.values())
            if unseen:
                self.notes.append(unseen)
            else:
                mode = FunctionCalls(self._call, self._channel_dim)
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
        for frame in self._frames:
            self._entries.settle(frame)
        self._frames.clear()
        self._known.clear()

    def finish(self) -> Sheet:
        """What was seen; unrolls recurrent layers, and lets go of everything held.

        Gradients are those of the loss as it was sent back: with a gradient scaler, scaled.
        """
        outputs: list[Measured] = []
        recurrences: list[Recurrence] = []
        with Quiet():
            try:
                outputs.extend(self._entries.rows(id(self.root), self.dead))
                recurrences.extend(self._recurrences.records(self.notes))
            except Exception:
                self._fail()
        sheet = Sheet(
            outputs=tuple(outputs),
            attention=tuple(attention_row(*found) for found in self._attention.values()),
            recurrence=tuple(recurrence_row(record) for record in recurrences),
            recurrences=tuple(recurrences),
            cells=self._recurrences.cells(),
            modules=tuple(self._states.values()),
            inputs=tuple(self._inputs),
            unrecorded=dict(self._unrecorded),
            notes=tuple(dict.fromkeys(self.notes)),
            failure=self.failure,
        )
        self.close()
        return sheet

    def close(self) -> None:
        """Let go of everything held; for a call whose backward pass never came."""
        self._recurrences.release()
        self._entries.by_name.clear()
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

    # ---- modules

    def _enter(self, module: nn.Module, args: Any) -> None:
        known = self._known.get(id(module))
        if known is None or not self._here():
            return
        try:
            if self._frames:
                above = self._frames[-1]
                above.leaf = False
                self._entries.settle(above)
            elif module is self.root:
                with Quiet():
                    self._read_inputs(dict(enumerate(args)))
            self._frames.append(Frame(known))
            if not torch.is_grad_enabled() and any(
                p is not None and p.requires_grad for p in module._parameters.values()
            ):
                self._unrecorded.setdefault(known.path, why_unrecorded())
        except Exception:
            self._fail()

    def _leave(self, module: nn.Module, args: Any, *rest: Any) -> None:
        """Called with (kwargs, output), or without kwargs where the module raised."""
        if id(module) not in self._known or not self._here():
            return
        try:
            frames = self._frames
            while frames and frames[-1].known.module is not module:
                self._entries.settle(frames.pop())
            if not frames:
                return
            frame = frames.pop()
            if len(rest) == 2:
                self._left(frame, args, rest[0], rest[1])
            self._entries.settle(frame)
        except Exception:
            self._fail()

    def _left(self, frame: Frame, args: Any, kwargs: Any, output: Any) -> None:
        known, called = frame.known, frame.last
        if called is not None and frame.leaf and called.result() is output:
            frame.last = None
            self._entries.book(
                known.path or known.kind, known.path, called.function, called.measure
            )
            if not known.told:
                return
        with (quiet := Quiet()):
            if known.told:
                if known.path not in self._states:
                    self._states[known.path] = module_facts(known.module, known.path, args)
                if known.module is self.root and not self._frames:
                    self._read_inputs(kwargs)
            if known.special:
                self._special(known, args, kwargs, output)
            if not frame.leaf or (called is not None and frame.last is None):
                return
            first = next((t for t in _tensors(output) if t.is_floating_point()), None)
            if first is None:
                return
            if called is not None and called.result() is first:  # inside a tuple
                frame.last = None
                self._entries.book(known.name, known.path, called.function, called.measure)
                return
            found = self._measure(first, None, quiet.recording)
            if found is not None:
                self._entries.settle(frame)
                self._entries.book(known.name, known.path, known.kind, found)

    def _special(self, known: Known, args: Any, kwargs: Any, output: Any) -> None:
        if isinstance(known.module, nn.MultiheadAttention):
            found = attention.of_module(known.module, args, kwargs)
            self._attend(known.path, known.kind, found)
        else:
            why = self._recurrences.saw(known.module, known.path, args, kwargs, output)
            if why:
                self.notes.append(why)

    def _attend(self, name: str, kind: str, found: Attention) -> None:
        frame = self._frames[-1].known.path if self._frames else ""
        column = Column(name=name, module=frame, kind=kind, order=len(self._attention))
        self._attention.setdefault(name, (column, []))[1].append(found)

    # ---- functions

    def _call(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function that is watched, and measure it."""
        if name in DROPOUTS:
            self._dropped(name, args, kwargs)
            return func(*args, **kwargs)
        slope: slopes.Slope | tuple[float, slopes.Flags] | None = None
        frame = self._frames[-1] if self._frames and self._here() else None
        if frame is not None and args and isinstance(args[0], Tensor):
            try:
                slope = slopes.known(name)
                if slope is None:
                    with Quiet():
                        slope = self._before(name, args, kwargs, frame)
            except Exception:
                self._fail()
        result = func(*args, **kwargs)
        if frame is not None and self._on and isinstance(result, Tensor) and name != "softmax":
            try:
                with (quiet := Quiet()):
                    self._after(name, result, slope, frame, quiet.recording)
            except Exception:
                self._fail()
        return result

    def _dropped(self, name: str, args: Any, kwargs: Any) -> None:
        """Write down a dropout without a module of its own."""
        if not self._frames or not self._here() or "Dropout" in self._frames[-1].known.kind:
            return
        frame = self._frames[-1]
        called = frame.name(name)
        if called not in self._states:
            try:
                facts = dropout_of(args, kwargs, name)
                self._states[called] = {"module": called, **facts}
            except Exception:
                self._fail()
        frame.count(name)

    def _before(
        self, name: str, args: Any, kwargs: Any, frame: Frame
    ) -> tuple[float, slopes.Flags] | None:
        """What only the input tells, which an in-place call is about to overwrite."""
        x = plain(args[0])
        if x is None or not x.dim():
            return None
        if name == "scaled_dot_product_attention":
            self._attend(frame.name(name), name, attention_of(args, kwargs))
            return None
        if name == "softmax":
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            called_by = f"{frame.known.path} {frame.known.kind}"
            if attention.looks_like_attention(x, dim, called_by):
                self._attend(frame.name(name), name, attention.of_scores(x))
            return None
        slope = slopes.slope_of(name, args, kwargs)
        if slope is None:
            return None
        unit = self._units_of(x)
        return slopes.judge(x, thin(x, unit), slope, unit)

    def _after(
        self,
        name: str,
        result: Tensor,
        slope: slopes.Slope | tuple[float, slopes.Flags] | None,
        frame: Frame,
        recording: bool,
    ) -> None:
        self._entries.settle(frame)
        called = frame.name(name)
        frame.count(name)
        of_output = slope if isinstance(slope, slopes.Slope) else None
        found = self._measure(result, of_output, recording)
        if found is None:
            return
        if isinstance(slope, tuple):
            found.flat, found.dead = slope
        frame.last = Called(called, name, result, found)

    # ---- both

    def _measure(self, x: Tensor, slope: slopes.Slope | None, recording: bool) -> Measure | None:
        values = plain(x)
        if values is None:
            return None
        found = measure(values, self._units_of(values), slope if values.dim() else None)
        if self._histograms:
            began = time.perf_counter()
            found.exponents = histogram(values, self._units_of(values))
            self.histogram_seconds += time.perf_counter() - began
        listen(x, found.norms)
        if not recording and CHECKPOINT not in self.notes and in_reentrant_checkpoint():
            self.notes.append(CHECKPOINT)
        return found

    def _units_of(self, x: Tensor) -> int:
        dims = x.dim()
        return self._channel_dim.get(dims, 1 if dims >= 4 else -1)

    def _read_inputs(self, given: Mapping[Any, Any]) -> None:
        for name, value in given.items():
            for number, x in enumerate(tensors_in(value)):
                label = f"{name}" if not number else f"{name}.{number}"
                self._inputs.append(input_facts(label, x))


def _tensors(output: Any) -> Any:
    return (output,) if isinstance(output, Tensor) else tensors_in(output)
