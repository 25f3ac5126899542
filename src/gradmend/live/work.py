"""Work beside the event loop: in threads that never hold up the end of the process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

SHARE = 0.2
"""Of the server's time that reports may take, and figures as much again (our choice): the training
beside it needs the cores more."""


async def aside(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a thread of its own and wait for it.

    The thread is a daemon: a report on a long run takes seconds, and Ctrl-C does not wait for it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[Any], None], what: Any) -> None:
        if not future.done():
            how(what)

    def work() -> None:
        how: Callable[[Any], None] = future.set_result
        what: Any = None
        try:
            what = function(*arguments)
        except Exception as error:
            how, what = future.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, how, what)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=work, name=f"live {function.__name__}", daemon=True).start()
    return await future


class Desk:
    """One piece of work at a time, and when the next may begin.

    Args:
        clock: Seconds, ever rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.free_at = 0.0
        """Before this, work that can wait does: what was done took its share."""
        self._one = asyncio.Semaphore(1)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Have the desk; what is done meanwhile counts."""
        async with self._one:
            begun = self.clock()
            try:
                yield
            finally:
                self.free_at = begun + (self.clock() - begun) / SHARE

    async def do(self, function: Callable[..., T], *arguments: Any) -> T:
        """Do it in a thread as soon as the desk is free."""
        async with self.turn():
            return await aside(function, *arguments)
