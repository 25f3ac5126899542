"""Layers that a model holds where torch does not look: in lists, dicts and plain attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

DEPTH = 3
"""Containers inside containers that are looked into."""
MOST = 10_000
"""Things looked at in all."""
_OWN = frozenset(vars(nn.Module()))


def hidden_modules(root: nn.Module, wanted: Iterable[int]) -> tuple[str, ...]:
    """Paths, as they would be in an ``nn.ModuleList``, of unregistered layers in training mode.

    Args:
        root: A model.
        wanted: ``id`` of the parameters that count.
    """
    left = set(wanted) - {id(p) for p in root.parameters()}
    if not left:
        return ()
    found: dict[str, None] = {}
    for path, module in root.named_modules():
        for name, value in vars(module).items():
            if name in _OWN:
                continue
            begin = f"{path}.{name}" if path else name
            for where, layer in _modules_in(value, begin, DEPTH):
                if not layer.training:
                    continue  # a fixed network that the loss is computed with
                for inside, part in layer.named_modules():
                    own = part.parameters(recurse=False)
                    if any(id(p) in left and p.requires_grad for p in own):
                        found[f"{where}.{inside}".rstrip(".")] = None
                if len(found) > MOST:
                    return tuple(found)
    return tuple(found)


def _modules_in(value: Any, path: str, depth: int) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield path, value
    elif depth and isinstance(value, list | tuple) and len(value) <= MOST:
        for number, item in enumerate(value):
            yield from _modules_in(item, f"{path}.{number}", depth - 1)
    elif depth and isinstance(value, Mapping) and type(value) is dict and len(value) <= MOST:
        for key, item in value.items():
            yield from _modules_in(item, f"{path}.{key}", depth - 1)
