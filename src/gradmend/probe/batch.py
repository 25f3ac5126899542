"""How a batch reaches a model: the one place that knows the three forms a batch may take."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradmend.errors import BadInput
from gradmend.probe.capture import tensors_in

Batch = Any
LossFn = Callable[..., Any]
Forward = Callable[[nn.Module, Batch], Any]


@dataclass(frozen=True, slots=True)
class Feeder:
    """Turns (model, batch) into a loss.

    A batch is ``(x, y)``: ``loss_fn(model(x), y)``, a tuple x is unpacked; or a mapping:
    ``loss_fn(model(**batch), batch)``; or anything at all with ``forward(model, batch)``.
    """

    loss_fn: LossFn | None = None
    forward: Forward | None = None

    def __post_init__(self) -> None:
        if self.forward is None and self.loss_fn is None:
            raise BadInput(
                "neither loss_fn nor forward was given",
                "without a loss there is no gradient to follow",
                "pass loss_fn=, or forward=(model, batch) -> loss",
            )

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The tensors the model receives, by name."""
        if self.forward is None and isinstance(batch, Mapping):
            named = {str(k): v for k, v in batch.items() if isinstance(v, Tensor)}
        else:
            x = batch[0] if self.forward is None and _is_pair(batch) else batch
            found = list(tensors_in(x))
            named = {f"input{i}" if len(found) > 1 else "input": t for i, t in enumerate(found)}
        return named

    def loss(self, model: nn.Module, batch: Batch) -> Any:
        """Run the forward pass and its loss."""
        if self.forward is not None:
            return self.forward(model, batch)
        assert self.loss_fn is not None
        if isinstance(batch, Mapping):
            return self.loss_fn(model(**batch), batch)
        if not _is_pair(batch):
            raise BadInput(
                f"a batch is a {type(batch).__name__}, neither (x, y) nor a mapping",
                "gradmend cannot tell inputs from targets",
                "yield (x, y) pairs or dicts, or pass forward=(model, batch) -> loss",
            )
        x, y = batch
        output = model(*x) if type(x) is tuple else model(x)  # not a PackedSequence
        return self.loss_fn(output, y)

    def owners(self, model: nn.Module) -> list[nn.Module]:
        """The modules whose tensors take part: the model, and those that the loss holds.

        A loss or forward function may close over modules (a teacher, a perceptual network);
        those have buffers and gradients that must stay untouched as well.
        """
        found: dict[int, nn.Module] = {id(model): model}
        for module in (*_held(self.loss_fn), *_held(self.forward)):
            found.setdefault(id(module), module)
        return list(found.values())


def _held(value: Any) -> Iterator[nn.Module]:
    """Modules that a callable is, is bound to, closes over, or names as globals."""
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            yield getattr(item, "_orig_mod", item)
        elif isinstance(item, functools.partial):
            todo.extend((item.func, *item.args, *item.keywords.values()))
        elif isinstance(item, types.MethodType):
            todo.extend((item.__self__, item.__func__))
        elif isinstance(item, types.FunctionType):
            for cell in item.__closure__ or ():
                try:
                    todo.append(cell.cell_contents)
                except ValueError:  # not yet filled
                    continue
            names = item.__code__.co_names
            held = (item.__globals__[name] for name in names if name in item.__globals__)
            todo.extend(v for v in held if isinstance(v, nn.Module | types.FunctionType))
        elif hasattr(item, "__dict__") and not isinstance(item, type | types.ModuleType):
            # an object with modules in its attributes: a callable loss, a trainer whose
            # method is the forward function
            todo.extend(v for v in vars(item).values() if isinstance(v, nn.Module))


def _is_pair(batch: Batch) -> bool:
    return isinstance(batch, list | tuple) and len(batch) == 2


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Rebuild nested tuples, lists and mappings with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        items = {key: map_tensors(item, change) for key, item in value.items()}
        if type(value) is dict:
            return items
        rebuilt = copy(value)  # not type(value)(items): a defaultdict wants its factory first
        for key, item in items.items():
            rebuilt[key] = item  # type: ignore[index]
        return rebuilt
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        twin: Any = copy(value)
        for field in fields(value):
            # object's: a frozen dataclass refuses, and this copy is ours
            changed = map_tensors(getattr(value, field.name), change)
            object.__setattr__(twin, field.name, changed)
        return twin
    return value


def batch_size(batch: Batch) -> int:
    """Length of the first dimension of the first tensor; 0 when there is none."""
    for tensor in tensors_in(batch):
        if tensor.dim():
            return int(tensor.shape[0])
    return 0


def check_loss(loss: Any, *, cut_off: bool = False) -> Tensor:
    """Make sure a loss is one differentiable number.

    Args:
        loss: What the loss function returned.
        cut_off: Take one that requires no gradient, too: it gets a graph that leads nowhere, so
            that a look can say what cut it off.

    Raises:
        BadInput: If it is no tensor, no scalar, or nothing trainable led to it.
    """
    if not isinstance(loss, Tensor):
        raise BadInput(
            f"the loss is a {type(loss).__name__}, not a tensor",
            "autograd can only walk back from a tensor",
            "return the loss itself, not loss.item() or a dict",
        )
    if loss.numel() != 1:
        raise BadInput(
            f"the loss has shape {list(loss.shape)}, not one number",
            "a gradient needs a single number to descend on",
            "average it, for example reduction='mean'",
        )
    if loss.is_complex():
        raise BadInput(
            "the loss is a complex number",
            "complex numbers have no order, so nothing can be made smaller",
            "make it real, for example loss.abs() or loss.real",
        )
    if not loss.requires_grad or loss.grad_fn is None:
        if not cut_off:
            raise BadInput(
                "the loss does not require a gradient: no trainable parameter led to it",
                "backward() would raise, and nothing could learn",
                "look for detach(), no_grad(), argmax or .item() between model and loss",
            )
        number = loss.detach().reshape(())
        number = number if number.is_floating_point() else number.double()
        with torch.enable_grad():
            return number + torch.zeros_like(number).requires_grad_()
    return loss if loss.dim() == 0 else loss.reshape(())


def check_module(model: object) -> None:
    """Refuse what is no module.

    Raises:
        BadInput: If it is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"the model is a {type(model).__name__}, not an nn.Module",
            "only a module has parameters to look at",
            "pass the module itself, or wrap a function in one",
        )


def check_fit(model: nn.Module, batch: Batch) -> None:
    """Find out, before running anything, what would make the forward pass fail obscurely.

    Raises:
        BadInput: No trainable parameter, an empty batch, or tensors on different devices.
    """
    parameters = list(model.parameters())
    if not any(p.requires_grad for p in parameters):
        raise BadInput(
            f"{type(model).__name__} has no trainable parameter"
            + (f" ({len(parameters)} frozen)" if parameters else ""),
            "there is nothing for a gradient to change",
            "register layers as attributes or in a ModuleList, or set requires_grad=True",
        )
    scripted = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        raise BadInput(
            f"{scripted[0] or type(model).__name__} is a TorchScript module",
            "its operations run outside of Python, where no module or call can be told apart",
            "pass the nn.Module that it was scripted or traced from",
        )
    named = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, tensor in named if is_lazy(tensor)]
    if lazy:
        raise BadInput(
            f"{lazy[0]} is a lazy tensor without a shape yet",
            "nothing can be measured before it has one",
            "run the model once on a batch first",
        )
    if any(p.is_meta for p in parameters):
        raise BadInput(
            f"{type(model).__name__} is on the meta device",
            "its parameters have shapes but no values to measure",
            "materialise it first, for example model.to_empty(device='cpu') and initialise it",
        )
    first = next(tensors_in(batch), None)
    if first is not None and first.numel() == 0:
        raise BadInput(
            f"the batch is empty: its first tensor has shape {list(first.shape)}",
            "no sample, no gradient",
            "pass a batch with at least one sample",
        )
    home = {p.device for p in parameters}
    away = {t.device for t in tensors_in(batch)} - home
    if len(home) == 1 and away and "cpu" not in {d.type for d in away} | {d.type for d in home}:
        pass  # several accelerators: the model may move tensors itself
    elif len(home) == 1 and away:
        raise BadInput(
            f"the model is on {next(iter(home))} and the batch on {next(iter(away))}",
            "the forward pass would raise",
            "move both to one device, for example x.to(device)",
        )
