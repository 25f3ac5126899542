"""What a model is built of and what trains it, read off the live objects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradmend.probe.capture import Span
from gradmend.records.layout import GroupFacts, ModuleFacts, OptimizerFacts, Setting


def modules_of(model: nn.Module, spans: Iterable[Span] = ()) -> tuple[ModuleFacts, ...]:
    """Facts of every module, in the order of ``named_modules()``.

    Args:
        model: The root.
        spans: The calls of its modules in one look.
    """
    calls: dict[int, list[Span]] = {}
    for span in spans:
        calls.setdefault(id(span.module), []).append(span)
    uses = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    return tuple(
        ModuleFacts(
            path=path,
            kind=type(module).__name__,
            standard=_is_standard(module),
            settings=_settings(module),
            training=module.training,
            parameters=tuple(
                f"{path}.{name}" if path else name
                for name, parameter in module._parameters.items()
                if parameter is not None
            ),
            uses=uses[id(module)],
            **_called(calls.get(id(module), [])),
        )
        for path, module in model.named_modules()
    )


def optimizer_of(optimizer: Optimizer, model: nn.Module) -> OptimizerFacts:
    """Facts of an optimizer, its parameters named as the model names them."""
    names = {id(p): name for name, p in model.named_parameters()}
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    every = {key for group in held for key in group}
    return OptimizerFacts(
        name=type(optimizer).__name__,
        groups=tuple(
            GroupFacts(
                options={k: v for k, v in group.items() if k != "params" and _is_plain(v)},
                parameters=tuple(names[key] for key in keys if key in names),
            )
            for group, keys in zip(optimizer.param_groups, held, strict=True)
        ),
        missing=tuple(
            name for name, p in model.named_parameters() if p.requires_grad and id(p) not in every
        ),
        foreign=len(every - set(names)),
        steps_taken=bool(optimizer.state),
        scheduled=any("initial_lr" in group for group in optimizer.param_groups),
    )


def _called(spans: list[Span]) -> dict[str, Any]:
    if len(spans) != 1:
        return {"calls": len(spans)}
    (span,) = spans
    return {"calls": 1, "takes": span.takes, "gives": span.gives, "fed_by": span.fed_by}


def _is_standard(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__.startswith("torch.nn.") and getattr(nn, kind.__name__, None) is kind


def _settings(module: nn.Module) -> dict[str, Setting]:
    found = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and _is_plain(value)
    }
    if "bias" in module._parameters:
        found["bias"] = module._parameters["bias"] is not None
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if type(value) is tuple:
        return len(value) <= 8 and all(type(item) in (int, float) for item in value)
    return value is None or type(value) in (bool, int, str)
