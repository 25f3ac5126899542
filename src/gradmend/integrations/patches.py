"""Functions of somebody else's, replaced for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_ABSENT = object()


class Patches:
    """Replaced attributes, and the way back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        """Whether anything is replaced."""
        return bool(self._undo)

    def add(self, undo: Callable[[], object]) -> None:
        """Something else that is to be taken back."""
        self._undo.append(undo)

    def wrap(self, holder: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace a function by what ``make`` makes of it."""
        own = vars(holder).get(name, _ABSENT)
        original = getattr(holder, name)
        ours = functools.wraps(original)(make(original))
        setattr(holder, name, ours)

        def back() -> None:
            # Somebody may have wrapped it after us: then theirs stays, and ours only passes on.
            if vars(holder).get(name) is not ours:
                return
            if own is _ABSENT:
                delattr(holder, name)
            else:
                setattr(holder, name, own)

        self.add(back)

    def after(self, holder: Any, name: str, tell: Callable[..., None]) -> None:
        """Call ``tell`` with a function's arguments when it has returned."""

        def make(original: Any) -> Any:
            def ours(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                tell(*args, **kwargs)
                return result

            return ours

        self.wrap(holder, name, make)

    def before(self, holder: Any, name: str, tell: Callable[..., None]) -> None:
        """Call ``tell`` with a function's arguments before it runs."""

        def make(original: Any) -> Any:
            def ours(*args: Any, **kwargs: Any) -> Any:
                if not torch.compiler.is_compiling():
                    tell(*args, **kwargs)
                return original(*args, **kwargs)

            return ours

        self.wrap(holder, name, make)

    def close(self) -> None:
        """Put everything back, last first."""
        while self._undo:
            self._undo.pop()()
