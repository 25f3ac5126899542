"""A forward pass that is known to go wrong, written down call by call with all that was given.

Unlike :mod:`.capture`, which measures every look, this keeps the operands themselves: it runs only
when a number is not finite, to say which operation made it of what.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _get_sequence_nr  # type: ignore[attr-defined]
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from gradmend.probe.capture import tensors_in
from gradmend.probe.operands import kind_of, operand
from gradmend.probe.source import calling_line
from gradmend.records.badvalue import Operand

_SPELT = {
    "true_divide": "div", "divide": "div", "__truediv__": "div", "__div__": "div",
    "__itruediv__": "div", "__idiv__": "div", "__pow__": "pow", "__ipow__": "pow",
    "float_power": "pow", "__mul__": "mul", "multiply": "mul", "__rmul__": "mul",
    "__add__": "add", "__radd__": "add", "__sub__": "sub", "__rsub__": "sub", "rsub": "sub",
    "subtract": "sub", "__matmul__": "matmul", "__rmatmul__": "matmul", "__neg__": "neg",
    "negative": "neg", "arccos": "acos", "arcsin": "asin", "linalg_norm": "norm",
    "linalg_vector_norm": "norm", "linalg_matrix_norm": "norm", "__getitem__": "getitem",
    "absolute": "abs", "special_log1p": "log1p",
}  # fmt: skip
_REVERSED = frozenset({"__rdiv__", "__rtruediv__", "__rpow__"})
_OF_ONE = frozenset({"reciprocal"})

THROUGH = frozenset(
    {"view", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "expand_as", "transpose"}
    | {"permute", "contiguous", "clone", "to", "float", "double", "half", "type", "type_as", "add"}
    | {"sub", "mul", "neg", "clamp", "clamp_min", "clamp_max", "gather", "getitem", "detach"}
    | {"broadcast_to", "repeat", "view_as", "T", "mT", "movedim", "index_select", "select", "abs"}
    | {"square", "pow", "sqrt", "chunk", "split", "unbind", "where", "masked_fill"}
    | {"broadcast_tensors", "masked_select", "max", "min", "maximum", "minimum", "sum"}
)
"""Operations that a lineage is followed through: what made the number lies behind them."""
LINEAGE = 8
"""Operations of a lineage that are told."""


@dataclass(slots=True)
class HeardCall:
    """One call of a torch function."""

    name: str
    function: Callable[..., Any]
    module: str | None
    """Path of the innermost module that was running; ``None`` outside of the model."""
    source: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: list[tuple[Tensor | float, int | None]]
    """Tensors and numbers handed in, in order, with the call that made each."""
    begins: int
    """Sequence number of the first autograd node that it made."""
    ends: int = 0
    output: Tensor | None = None
    kind: str = ""
    """``nan``, ``inf``, ``-inf`` if its output holds one."""
    in_place: list[Operand] | None = None
    """What was handed in, where the call has overwritten it."""


@dataclass(slots=True)
class Heard:
    """All calls of one pass, in order."""

    calls: list[HeardCall] = field(default_factory=list)
    made: dict[int, int] = field(default_factory=dict)
    """The call that made a tensor, by its ``id``; every tensor is held, so ids are not reused."""
    names: dict[int, str] = field(default_factory=dict)
    """Parameters and inputs by ``id``."""

    def lineage(self, call: int | None) -> tuple[str, ...]:
        """The operations behind a tensor, nearest first, down to those that really made it."""
        found: list[str] = []
        todo, seen = [call], set()
        while todo and len(found) < LINEAGE:
            at = todo.pop(0)
            if at is None or at in seen:
                continue
            seen.add(at)
            found.append(self.calls[at].name)
            if self.calls[at].name in THROUGH:
                todo.extend(maker for _, maker in self.calls[at].given)
        return tuple(dict.fromkeys(found))

    def operands(self, call: HeardCall) -> tuple[Operand, ...]:
        """What a call was given, counted."""
        if call.in_place is not None:
            return tuple(call.in_place)
        return tuple(self._operand(*pair) for pair in call.given)

    def _operand(self, value: Tensor | float, maker: int | None) -> Operand:
        if not isinstance(value, Tensor):
            return operand(torch.tensor(float(value), dtype=torch.float64), name="number")
        return operand(value, self.lineage(maker), self.name_of(value, maker))

    def name_of(self, value: Tensor, maker: int | None) -> str:
        """The parameter or input that a tensor is, past what only rearranges it."""
        seen: set[int] = set()
        while id(value) not in self.names and maker is not None and maker not in seen:
            seen.add(maker)
            given = [pair for pair in self.calls[maker].given if isinstance(pair[0], Tensor)]
            if self.calls[maker].name not in THROUGH or len(given) != 1:
                break
            value, maker = given[0]  # type: ignore[assignment]
        return self.names.get(id(value), "")

    def near(self, call: HeardCall) -> str:
        """The parameter or the module that made what a call was given."""
        for value, maker in call.given:
            if not isinstance(value, Tensor):
                continue
            name, seen = self.name_of(value, maker), set()
            if name:
                return name
            todo = [maker]
            while todo:
                at = todo.pop(0)
                if at is None or at in seen:
                    continue
                seen.add(at)
                if self.calls[at].module:
                    return self.calls[at].module or ""
                todo.extend(behind for _, behind in self.calls[at].given)
        return ""

    def at_node(self, sequence: int) -> HeardCall | None:
        """The call that made an autograd node."""
        for call in reversed(self.calls):
            if call.begins <= sequence < call.ends:
                return call
        return None


class Hearing(TorchFunctionMode):
    """Writes every call of a torch function into a :class:`Heard`."""

    def __init__(self, heard: Heard, path: Callable[[], str | None]) -> None:
        super().__init__()
        self.heard, self.path = heard, path

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types  # unused: the mode sees every type
        kwargs = kwargs or {}
        spelt = getattr(func, "__name__", "operation")
        if spelt in ("__get__", "__set__"):
            spelt = getattr(getattr(func, "__self__", None), "__name__", spelt)
        name = _name(spelt)
        heard = self.heard
        given = [
            (value, heard.made.get(id(value)) if isinstance(value, Tensor) else None)
            for value in _given(args, kwargs)
        ]
        if spelt in _REVERSED:
            given.reverse()
        elif spelt in _OF_ONE:
            given.insert(0, (1.0, None))
        call = HeardCall(
            name=name,
            function=func,
            module=self.path(),
            source=calling_line(),
            args=args,
            kwargs=kwargs,
            given=given,
            begins=_get_sequence_nr(),
        )
        if _writes(spelt):
            call.in_place = [heard._operand(*pair) for pair in given]
        result = func(*args, **kwargs)
        outputs = [t for t in tensors_in(result) if t.is_floating_point() or t.is_complex()]
        if not outputs:
            return result
        call.ends = _get_sequence_nr()
        call.output = next((t for t in outputs if kind_of(t)), outputs[0])
        call.kind = kind_of(call.output)
        for tensor in outputs:
            heard.made[id(tensor)] = len(heard.calls)
        heard.calls.append(call)
        return result


def _name(spelt: str) -> str:
    if spelt in _REVERSED:
        return "pow" if "pow" in spelt else "div"
    if spelt in _OF_ONE:
        return "div"
    if spelt in _SPELT:
        return _SPELT[spelt]
    plain = spelt.rstrip("_") if _writes(spelt) else spelt
    return _SPELT.get(plain, plain)


def _writes(spelt: str) -> bool:
    return (spelt.endswith("_") and not spelt.endswith("__")) or (
        spelt.startswith("__i") and spelt.endswith("__")
    )


def _given(args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor | float]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, bool):
            continue
        elif isinstance(value, int | float):
            yield float(value)
        elif isinstance(value, list | tuple | Mapping):
            yield from tensors_in(value)


@contextmanager
def paths_of(model: nn.Module) -> Iterator[Callable[[], str | None]]:
    """Yields a function that names the innermost module that is running, ``None`` outside."""
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        names.setdefault(id(module), name)
    running: list[str] = []
    thread = threading.get_ident()

    def enter(module: nn.Module, args: Any) -> None:
        del args
        if id(module) in names and threading.get_ident() == thread:
            running.append(names[id(module)])

    def leave(module: nn.Module, *rest: Any) -> None:
        del rest
        if id(module) in names and threading.get_ident() == thread and running:
            running.pop()

    handles = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield lambda: running[-1] if running else None
    finally:
        for handle in handles:
            handle.remove()
            # torch 2.13 forgets to remove this part of a global hook
            getattr(torch_module, "_global_forward_hooks_always_called", {}).pop(handle.id, None)
