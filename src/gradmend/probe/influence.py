"""What becomes of parameters that no gradient reaches: they are changed, to see who feels it.

Without a path from the loss to a parameter, either its results go into the loss and the gradient
is cut off on the way (``detach``, ``no_grad``, ``argmax``), or nothing reads its results. The graph
looks the same in both cases. So the pass is made twice, once with the parameters changed: a loss
that stays the same to the bit does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from gradmend.errors import GradmendError
from gradmend.probe.batch import Batch, Feeder, map_tensors
from gradmend.probe.capture import tensors_in
from gradmend.probe.graph import postorder
from gradmend.probe.shadow import make_shadow, untouched
from gradmend.records.trace import Parameter, Trace, Use

MOST_PASSES = 12
"""Forward passes for one answer; what is not told apart by then counts as cut off."""


@dataclass
class Influence:
    """Asks what becomes of some parameters of a model on a batch."""

    model: nn.Module
    batch: Batch
    feeder: Feeder
    shadow: Mapping[int, Tensor] | None = None
    passes: int = field(default=0, init=False)

    def uses(self, names: Sequence[str]) -> dict[str, Use]:
        """What becomes of some parameters, by name: of modules that ran, and out of reach."""
        plain = self._plain_pass(names)
        found = {name: Use.UNREAD for name in names if name not in plain.read}
        if plain.loss != plain.loss:  # NaN is equal to nothing
            return found
        owners: dict[str, list[str]] = {}
        for name in names:
            if name in plain.read:
                owners.setdefault(name.rpartition(".")[0], []).append(name)
        todo = [list(owners.values())]
        while todo:
            groups = [group for group in todo.pop() if group]
            each = [name for group in groups for name in group]
            if not each:
                continue
            if self.passes < MOST_PASSES and self._changed_pass(each) == plain.loss:
                found |= {name: plain.use(name) for name in each}
            elif len(groups) == 1 or self.passes >= MOST_PASSES:
                found |= dict.fromkeys(each, Use.CUT_OFF)
            else:
                todo += [groups[: len(groups) // 2], groups[len(groups) // 2 :]]
        return found

    def _plain_pass(self, names: Sequence[str]) -> _Plain:
        around = {
            ".".join(parts[:depth])
            for parts in (name.split(".")[:-1] for name in names)
            for depth in range(len(parts))
        }
        outer = {id(module): path for path, module in self.model.named_modules() if path in around}
        outputs: list[tuple[str, Tensor]] = []

        def leave(module: nn.Module, args: object, output: object) -> None:
            if id(module) in outer:
                outputs.extend((outer[id(module)], t) for t in tensors_in(output))
            if id(module) in inner:
                reads.put_out(inner[id(module)], output)

        copies, parameters = self._copies(), dict(self.model.named_parameters())
        asked = {id(copies[id(parameters[n])]): n for n in names if id(parameters[n]) in copies}
        owners = {name.rpartition(".")[0] for name in names}
        inner = {id(module): path for path, module in self.model.named_modules() if path in owners}
        handle = register_module_forward_hook(leave)
        try:
            with _Reads(asked) as reads:
                loss = self._pass(copies)
        finally:
            handle.remove()
        counted = set(postorder(loss.grad_fn)[0]) if loss.grad_fn is not None else set()
        parts = [(path, t, _is_in(t, counted)) for path, t in outputs if t.grad_fn is not None]
        chosen_from = {path for path, _, counts in parts if counts}
        returned = {
            asked[id(node.variable)]
            for path, tensor, counts in parts
            if not counts and path in chosen_from and tensor.grad_fn is not None
            for node in postorder(tensor.grad_fn)[0].values()
            if id(getattr(node, "variable", None)) in asked
        }
        return _Plain(
            loss=float(loss.detach()),
            read=reads.read,
            returned=returned,
            passed_on=reads.passed_on,
        )

    def _changed_pass(self, names: Sequence[str]) -> float:
        copies, parameters = self._copies(), dict(self.model.named_parameters())
        draw = torch.Generator().manual_seed(0)
        for name in names:
            copy = copies[id(parameters[name])]
            with torch.no_grad():
                noise = torch.randn(copy.shape, generator=draw).to(copy)
                copy += noise * (copy.square().mean().sqrt() + 0.1)
        return float(self._pass(copies).detach())

    def _copies(self) -> dict[int, Tensor]:
        copies = make_shadow(self.feeder.owners(self.model), None)
        for key, tensor in (self.shadow or {}).items():
            copies[key] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        return copies

    def _pass(self, copies: Mapping[int, Tensor]) -> Tensor:
        """The loss on some tensors; every pass draws the same random numbers."""
        self.passes += 1
        owners = self.feeder.owners(self.model)
        with untouched(owners, copies), torch.enable_grad():
            fed = map_tensors(self.batch, lambda t: t.detach().clone())
            loss: Tensor = self.feeder.loss(self.model, fed)
            return loss


@dataclass(frozen=True)
class _Plain:
    """What a pass with the parameters as they are tells."""

    loss: float
    read: set[str]
    """Parameters that some operation reads."""
    returned: set[str]
    """Parameters whose results somebody was given beside others that the loss reads."""
    passed_on: set[str]
    """Modules of which some operation reads what they put out."""

    def use(self, name: str) -> Use:
        """Of a parameter that is read, and that the loss does not depend on."""
        if name in self.returned:
            return Use.RETURNED
        return Use.SPENT if name.rpartition(".")[0] in self.passed_on else Use.DROPPED


class _Reads(TorchFunctionMode):
    """Notes which of some tensors, and of what some modules put out, any operation reads."""

    def __init__(self, asked: Mapping[int, str]) -> None:
        super().__init__()
        self.asked = asked
        self.read: set[str] = set()
        self.passed_on: set[str] = set()
        self._outputs: dict[int, str] = {}
        self._kept: list[Tensor] = []  # so that no id is used twice

    def put_out(self, path: str, output: object) -> None:
        """A module has put something out; its own reading of it is over."""
        tensors = list(tensors_in(output))
        self._kept += tensors
        self._outputs.update({id(tensor): path for tensor in tensors})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in((args, kwargs or {})):
            if id(tensor) in self.asked:
                self.read.add(self.asked[id(tensor)])
            if id(tensor) in self._outputs:
                self.passed_on.add(self._outputs[id(tensor)])
        return func(*args, **(kwargs or {}))


def _is_in(tensor: Tensor, counted: set[int]) -> bool:
    node = tensor.grad_fn
    return node is not None and int(node._sequence_nr()) in counted


def with_uses(
    model: nn.Module,
    batch: Batch,
    feeder: Feeder,
    shadow: Mapping[int, Tensor] | None,
    trace: Trace,
) -> tuple[Parameter, ...]:
    """A look's parameters, those out of reach with what becomes of their results."""
    lost = [p.name for p in trace.parameters if _is_asked(p)]
    if not lost or trace.bad is not None:
        return trace.parameters
    try:
        uses = Influence(model, batch, feeder, shadow).uses(lost)
    except (GradmendError, torch.OutOfMemoryError):
        raise
    except Exception:  # a pass with other numbers in it may fail; then it stays unknown
        return trace.parameters
    return tuple(replace(p, use=uses.get(p.name, p.use)) for p in trace.parameters)


def _is_asked(parameter: Parameter) -> bool:
    called = parameter.module_called and bool(parameter.module)
    return parameter.trainable and not parameter.reached and called
