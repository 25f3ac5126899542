"""Which kernels to use: those compiled by numba where it is installed, else torch's operations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal

VARIABLE = "GRADMEND_KERNELS"


_interpreted = ContextVar("_interpreted", default=False)


def backend() -> Literal["numba", "torch"]:
    """The kernels in use.

    ``GRADMEND_KERNELS=torch`` in the environment forbids numba, which takes some 100 MB of
    resident memory and, once per machine, seconds to compile (see ``warm``).
    """
    return "torch" if _interpreted.get() else _installed()


@contextmanager
def interpreted() -> Iterator[None]:
    """Use torch's operations in the block: for a few steps, loading numba does not pay."""
    token = _interpreted.set(True)
    try:
        yield
    finally:
        _interpreted.reset(token)


@cache
def _installed() -> Literal["numba", "torch"]:
    if os.environ.get(VARIABLE) == "torch":
        return "torch"
    try:
        from gradmend.probe.kernels import _numba, _numba_moves  # noqa: F401
    except Exception:  # not installed, or of no use here, in whatever way: we have others
        return "torch"
    return "numba"


def compiled() -> bool:
    """Whether tensors in this machine's memory are read by compiled kernels."""
    return backend() == "numba"
