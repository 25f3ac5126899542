"""Garbage collection put off while millions of small objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_later() -> Iterator[None]:
    """Keep Python from searching for cycles inside the block, as a decorator or with ``with``.

    A look makes dozens of objects for every layer and keeps them; each search walks all of them
    again, a quarter of the time of a look at thousands of layers (``bench depth_cost``). Only for
    what makes few cycles: one pass and its books, not a training. Where a user has switched the
    search off, it stays off.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
