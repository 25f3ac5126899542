"""Changes as they happen: server-sent events as an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gradmend.live.source import Source, messages


class Stream(Response):
    """Server-sent events until the client goes or the server ends."""

    def __init__(self, source: Source, closing: asyncio.Event) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._source, self._closing = source, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until one of both has enough."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        tasks = [
            asyncio.create_task(self._tell(send)),
            asyncio.create_task(_gone(receive)),
            asyncio.create_task(self._ending()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        with suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send) -> None:
        told: AsyncIterator[str] = messages(self._source)
        async with aclosing(told):  # type: ignore[type-var]
            async for text in told:
                body = text.encode("utf-8")
                await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _ending(self) -> None:
        await self._closing.wait()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
