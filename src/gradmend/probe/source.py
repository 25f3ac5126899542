"""Where in the user's code something was written: the line a finding points to."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import textwrap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradmend.records.script import Place

_OURS = str(Path(__file__).resolve().parents[1])
_TORCH = str(Path(torch.__file__).resolve().parent)
_ZOO = str(Path(_OURS) / "zoo")

_built: weakref.WeakKeyDictionary[nn.Module | Optimizer, Place] = weakref.WeakKeyDictionary()


def calling_line() -> str | None:
    """``file.py:12`` of the user's code that led here from inside the model or the loss.

    ``None`` when only torch's own modules lie between us and the caller of the probe: the line
    that called gradmend says nothing about the model.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    while frame and not is_users(frame.f_code.co_filename):
        if _is_ours(frame.f_code.co_filename):
            return None
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else None


@lru_cache(maxsize=4096)
def is_users(filename: str) -> bool:
    """Whether a file is the user's own code: none of torch's, ours, or the interpreter's."""
    if filename.startswith(("<frozen", "<string")):
        return False
    return not (_is_ours(filename) or filename.startswith(_TORCH))


def _is_ours(filename: str) -> bool:
    """Whether a file is gradmend's, the zoo aside, whose models are looked at like a user's."""
    return filename.startswith(_OURS) and not filename.startswith(_ZOO)


@contextmanager
def remember_construction() -> Iterator[None]:
    """Note, for every module built inside the block, the line that built it.

    Used around a user's factory, where the building happens under our eyes. Nothing is
    written on the modules; the notes go when the modules do.
    """
    original = nn.Module.__init__

    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        note_construction(self)

    nn.Module.__init__ = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]


def note_construction(made: nn.Module | Optimizer) -> None:
    """Note the line that is building a module or an optimizer, from inside its construction."""
    place = _construction_place(made)
    if place:
        _built[made] = place


def construction_of(made: nn.Module | Optimizer) -> Place | None:
    """Where in the user's code a module or an optimizer was built, if that was watched."""
    return _built.get(made)


def _construction_place(made: nn.Module | Optimizer) -> Place | None:
    """The line that called the constructor, past the object's own ``__init__`` frames."""
    frame: FrameType | None = sys._getframe(1)
    while frame and _is_ours(frame.f_code.co_filename):  # those who are noting
        frame = frame.f_back
    while frame and frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is made:
        frame = frame.f_back
    while frame and not is_users(frame.f_code.co_filename):
        if _is_ours(frame.f_code.co_filename):
            return None
        frame = frame.f_back
    if frame is None:
        return None
    path, number = frame.f_code.co_filename, frame.f_lineno
    return Place(file=path, line=number, text=linecache.getline(path, number).strip())


def module_line(root: nn.Module, path: str) -> str | None:
    """``file.py:12  nn.Sigmoid()`` for the module at ``path``, where it can be known.

    Known when its construction was watched (:func:`remember_construction`) or when the class
    of a parent assigns it in its own source (``self.act = nn.Sigmoid()``).
    """
    module = root
    owners: list[tuple[nn.Module, str]] = []
    for part in path.split(".") if path else []:
        owners.append((module, part))
        try:
            module = getattr(module, part)
        except AttributeError:
            return None
    if module in _built:
        return str(_built[module])
    for owner, name in reversed(owners):
        line = _assignments(type(owner)).get(name)  # type: ignore[arg-type]  # a class hashes
        if line:
            return line
    return None


@lru_cache(maxsize=512)
def _assignments(cls: type) -> dict[str, str]:
    """Lines of a user class's source that assign ``self.<name>``."""
    try:
        path = inspect.getsourcefile(cls)
        lines, first = inspect.getsourcelines(cls)
        if path is None or not is_users(path):
            return {}
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return {}  # built in a REPL or by exec: no source to point to
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == "self"
            ):
                text = lines[node.lineno - 1].strip()
                found.setdefault(
                    target.attr, f"{Path(path).name}:{first + node.lineno - 1}  {text}"
                )
    return found
