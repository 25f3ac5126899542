"""The same script with other seeds, without a change to it.

Every seed that the script sets is moved by the same amount, and what it does not seed is seeded.
With a shift of zero nothing at all is done. Heard are ``random.seed`` and ``random.Random``,
``numpy.random.seed`` and ``default_rng``, ``torch.manual_seed`` and ``torch.Generator``, and the
functions of ``torch.cuda``; what Lightning or transformers call to seed everything goes through
them. Not heard are ``numpy.random.RandomState(7)`` (so scikit-learn's ``random_state=7`` splits
data as ever), seeds of other libraries, and processes that are not forked from this one.
"""

from __future__ import annotations

import functools
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

from gradmend.integrations.on_import import when_imported

STRIDE = 1_000_003
"""What a shift of one adds: a prime beyond the seeds that people number their runs with."""
SPAN = 2**31
"""Seeds are taken modulo this: every library takes one below."""


def shifted(seed: Any, shift: int) -> Any:
    """A seed as moved; what is no seed (``None``, an array) is left alone."""
    if isinstance(seed, bool) or seed is None:
        return seed
    if isinstance(seed, int):
        return (seed + shift * STRIDE) % SPAN
    if isinstance(seed, float):
        return seed + shift
    if isinstance(seed, str):
        return f"{seed}+{shift}"
    if isinstance(seed, bytes | bytearray):
        return bytes(seed) + str(shift).encode()
    index = getattr(seed, "__index__", None)  # NumPy's integers
    if index is None or getattr(seed, "shape", ()) != ():
        return seed
    try:
        return shifted(int(index()), shift)
    except TypeError:
        return seed


class Seeds:
    """Moves the seeds of this process by ``shift``, for good.

    Args:
        shift: How far; zero does nothing.
    """

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self._inside = threading.local()  # torch.manual_seed seeds each device through others

    def begin(self) -> None:
        """Before the script runs: what is imported later is reached when it is."""
        if not self.shift:
            return
        random.seed(shifted(0, self.shift))
        self._wrap(random.Random, "seed", at=1)
        random.seed = random._inst.seed  # it was bound before
        when_imported("numpy", self._numpy)
        when_imported("torch", self._torch)

    def _numpy(self) -> None:
        import numpy as np

        np.random.seed(shifted(0, self.shift))
        self._wrap(np.random, "seed", at=0)
        self._wrap(np.random, "default_rng", at=0)

    def _torch(self) -> None:
        import torch

        torch.manual_seed(shifted(0, self.shift))
        for holder, name in (
            (torch, "manual_seed"),
            (torch.random, "manual_seed"),
            (torch.cuda, "manual_seed"),
            (torch.cuda, "manual_seed_all"),
        ):
            self._wrap(holder, name, at=0)
        torch.Generator = self._generator(torch.Generator)  # type: ignore[misc]

    def _wrap(self, holder: Any, name: str, *, at: int) -> None:
        original = getattr(holder, name)

        @functools.wraps(original)
        def ours(*args: Any, **kwargs: Any) -> Any:
            if _by_gradmend() or getattr(self._inside, "on", False):
                return original(*args, **kwargs)
            if len(args) > at:
                args = (*args[:at], shifted(args[at], self.shift), *args[at + 1 :])
            else:
                kwargs = {
                    key: shifted(value, self.shift) if key in _NAMES else value
                    for key, value in kwargs.items()
                }
            self._inside.on = True
            try:
                return original(*args, **kwargs)
            finally:
                self._inside.on = False

        setattr(holder, name, ours)

    def _generator(self, base: Any) -> Any:
        """A generator whose seed is moved; those that torch makes itself are of the old class."""
        move: Callable[[Any], Any] = functools.partial(shifted, shift=self.shift)

        class Kind(type(base)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: object) -> bool:
                return isinstance(instance, base)

        class Generator(base, metaclass=Kind):  # type: ignore[misc]
            def manual_seed(self, seed: Any) -> Any:
                return base.manual_seed(self, seed if _by_gradmend() else move(seed))

        Generator.__qualname__ = base.__qualname__
        Generator.__module__ = base.__module__
        return Generator


_NAMES = frozenset({"a", "seed"})


def _by_gradmend() -> bool:
    """Whether it is we who seed: draws of an edit are not the script's."""
    caller = sys._getframe(2)
    return str(caller.f_globals.get("__name__", "")).partition(".")[0] == "gradmend"
