"""How a model that somebody holds becomes another one and stays the same object.

An edit may put a wrapper around a whole model. In one's own code the wrapper is handed back; a
script holds the model itself, in variables, lists and closures. So the object that it holds
becomes the wrapper, and what it was moves to a fresh object inside: the names in a checkpoint are
those of :func:`gradmend.apply`.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import nn

from gradmend.layers import Wrapped

_OF_MODULES = frozenset(dir(nn.Module))
_PROTOCOLS = frozenset(
    {"__len__", "__getitem__", "__setitem__", "__delitem__", "__iter__", "__contains__"}
    | {"__reversed__", "__add__", "__iadd__", "__mul__", "__imul__", "__bool__"}
)
"""What makes a model a container: of its own parts, not of the wrapper's."""
_LEFT = frozenset(
    {"__call__", "__init__", "__new__", "__class__", "__dict__", "__doc__", "__module__"}
)
"""Of a class: what another one has of its own, or what whoever listens has put there."""


def become(model: nn.Module, wrapper: nn.Module) -> nn.Module:
    """Let an object be the wrapper around what it was.

    ``isinstance`` holds for both classes. The methods of a user's own class run on the whole, so
    that ``self(x)`` in them passes the wrapper; what they read and write is the inner model's.
    A container's methods (of ``nn.Sequential``) run on the inner model.

    Args:
        model: Who is held by others; somewhere inside ``wrapper``.
        wrapper: What stands in its place; its own object is not used any more.

    Returns:
        The fresh object that now is what the model was.

    Raises:
        TypeError: If ``wrapper`` is none, or the class of the model lays its objects out in a way
            of its own.
    """
    if not isinstance(wrapper, Wrapped):
        raise TypeError(f"a {type(wrapper).__name__} is no wrapper around a model")
    theirs = type(model)
    both = _both(type(wrapper), theirs, frozenset(vars(model)))
    inner: nn.Module = object.__new__(theirs)
    state, shell = vars(model), vars(wrapper)
    object.__setattr__(model, "__dict__", {})
    try:
        object.__setattr__(model, "__class__", both)
    except TypeError:
        object.__setattr__(model, "__dict__", state)
        raise
    object.__setattr__(inner, "__dict__", state)
    object.__setattr__(model, "__dict__", shell)
    for holder in list(wrapper.modules()):
        tables: tuple[dict[str, Any], ...] = (holder._modules, vars(holder))
        for table in tables:
            for name, value in list(table.items()):
                if value is model:
                    table[name] = inner
    return inner


def plain_class(model: nn.Module) -> type:
    """The class that somebody wrote, of a model that may have become another."""
    own: type = getattr(type(model), "_gradmend_theirs", type(model))
    return own


def _both(wrapper: type, theirs: type, instance: frozenset[str]) -> type:
    """The class of a model in a wrapper: a wrapper by what it does, theirs by what it offers."""
    classes = theirs.__mro__[: theirs.__mro__.index(nn.Module)]
    offered = {name for cls in classes for name in vars(cls)}
    shadowed = frozenset(instance & offered - _OF_MODULES)
    return _made(wrapper, theirs, shadowed)


@lru_cache(maxsize=64)
def _made(wrapper: type, theirs: type, shadowed: frozenset[str]) -> type:
    names: dict[str, Any] = {
        "__module__": theirs.__module__,
        "__qualname__": theirs.__qualname__,
        "__doc__": theirs.__doc__,
        "_gradmend_theirs": theirs,
        "_gradmend_made_of": (wrapper, theirs, shadowed),
        "__setattr__": _set,
        "__delattr__": _delete,
        "__reduce_ex__": _reduce,
    }
    for cls in theirs.__mro__[: theirs.__mro__.index(nn.Module)]:
        of_torch = cls.__module__.partition(".")[0] == "torch"
        for name, value in vars(cls).items():
            special = name.startswith("__") and name not in _OF_MODULES | _PROTOCOLS
            if name in names or name in _LEFT or name == "forward" or special:
                continue
            if name in _OF_MODULES and name not in _PROTOCOLS:
                # torch's own reaches the inner model as a part, with its own override.
                names[name] = getattr(wrapper, name, None) or getattr(nn.Module, name)
            elif name in shadowed:
                names[name] = _inner_property(name)
            elif isinstance(value, types.FunctionType):
                if of_torch or name in _PROTOCOLS:
                    names[name] = _inner_method(name)
            elif not isinstance(value, classmethod | staticmethod | type) and (
                of_torch or not hasattr(type(value), "__get__")
            ):
                names[name] = _inner_property(name)
    kind: Any = type(theirs)
    made: type = kind(theirs.__name__, (wrapper, theirs), names)
    return made


def _inner(self: Any) -> nn.Module:
    """The model as it was, behind all wrappers."""
    module: nn.Module = self._modules["inner"]
    while isinstance(module, Wrapped):
        module = module.inner
    return module


def _inner_property(name: str) -> property:
    return property(
        lambda self: getattr(_inner(self), name),
        lambda self, value: setattr(_inner(self), name, value),
        lambda self: delattr(_inner(self), name),
    )


def _inner_method(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(_inner(self), name)(*args, **kwargs)

    method.__name__ = name
    return method


def _is_own(self: nn.Module, name: str) -> bool:
    """Whether an attribute is the wrapper's: what every module has, and its own parts."""
    own = vars(self)
    return (
        name in own
        or name in _OF_MODULES
        or any(name in own.get(table, ()) for table in ("_modules", "_parameters", "_buffers"))
        or "inner" not in own.get("_modules", ())
    )


def _set(self: Any, name: str, value: Any) -> None:
    if _is_own(self, name):
        nn.Module.__setattr__(self, name, value)
    else:
        setattr(_inner(self), name, value)


def _delete(self: Any, name: str) -> None:
    if _is_own(self, name):
        nn.Module.__delattr__(self, name)
    else:
        delattr(_inner(self), name)


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """Copies and pickles: the class was made at run time, so it is made again."""
    del protocol  # unused
    cls: Any = type(self)
    return _again, cls._gradmend_made_of, dict(vars(self))


def _again(wrapper: type, theirs: type, shadowed: frozenset[str]) -> Any:
    cls = _made(wrapper, theirs, shadowed)
    return object.__new__(cls)
