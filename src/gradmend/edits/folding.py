"""The copy of a model in which edits are folded away, and how to get about in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from gradmend.edits.bench import find, inside
from gradmend.errors import CannotApply
from gradmend.layers import Wrapped
from gradmend.layers.residuals import Moved


class Work:
    """The copy that is folded, and which of its parameters belong to several modules."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        uses = Counter(
            id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)
        )
        self._shared = {key for key, count in uses.items() if count > 1}

    def wrappers(self, path: str) -> list[Wrapped]:
        """What stands around a module, the outermost first."""
        module = find(self.model, path)
        found = []
        while isinstance(module, Wrapped):
            found.append(module)
            module = module.inner
        return found

    def innermost(self, path: str, kind: type[Any]) -> Any:
        """The wrapper next to a module, if it is of a kind."""
        found = self.wrappers(path)
        apart = any(isinstance(wrapper, Moved) for wrapper in found)
        return found[-1] if found and not apart and isinstance(found[-1], kind) else None

    def unwrap(self, path: str) -> None:
        """Put a module in the place of the wrapper next to it."""
        *outer, last = self.wrappers(path)
        inner = last.inner
        if outer:
            inner.training = last.training
            outer[-1]._modules["inner"] = inner
        else:
            self.put(path, inner)

    def put(self, path: str, module: nn.Module) -> None:
        """Set a module into its place."""
        if not path:
            self.model = module
            return
        parent_path, _, name = path.rpartition(".")
        old, parent = find(self.model, path), find(self.model, parent_path)
        assert old is not None and parent is not None
        module.training = old.training
        inside(parent)._modules[name] = module

    def own(self, layer: nn.Module) -> bool:
        """Whether nobody else uses a layer's parameters, which folding changes."""
        return not any(id(parameter) in self._shared for parameter in layer.parameters())


def stands(work: Work, path: str, kind: type[nn.Module]) -> bool:
    """Whether the module that an edit put in is still there; false where another took its place.

    Args:
        work: The copy.
        path: Of the module.
        kind: What was put in.

    Raises:
        CannotApply: If it is there, and something else around it.
    """
    module = find(work.model, path)
    if module is None or type(inside(module)) is not kind:
        return False
    if inside(module) is not module:
        raise CannotApply(f"'{path}' was wrapped by another edit and cannot be folded")
    return True


def linear_of(work: Work, path: str, allowed: tuple[type[nn.Module], ...]) -> nn.Linear:
    """A linear layer with a bias of its own, within wrappers that do not matter here.

    Args:
        work: The copy.
        path: Of the layer.
        allowed: Those wrappers.

    Raises:
        CannotApply: If there is no such layer.
    """
    layer = find(work.model, path)
    inner = inside(layer) if layer is not None else None
    foreign = [w for w in work.wrappers(path) if not isinstance(w, allowed)]
    if not isinstance(inner, nn.Linear) or inner.bias is None or foreign:
        raise CannotApply(f"'{path}' was wrapped by another edit and cannot be folded into")
    if not work.own(inner):
        raise CannotApply(f"'{path}' shares its weights", "another layer would be changed as well")
    return inner
