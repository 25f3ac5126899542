"""Listens, says where, and ends at once when it is asked to."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from types import FrameType

import uvicorn

from gradmend.errors import BadInput
from gradmend.live.app import Live
from gradmend.live.guard import guard_for, loopback
from gradmend.live.shelf import Shelf

PORT = 6284
"""Tried first, so that an address in the browser's history stays good."""
NICE = 5
"""Steps of priority that the server gives up: the training beside it goes first."""
LEAVE = 1
"""Seconds that an answer on its way may still take when the server ends."""


def serve(place: Path, *, port: int | None, host: str, browser: bool) -> None:
    """Show runs until Ctrl-C.

    Args:
        place: A run, or a folder of runs.
        port: Where to listen; 0 for any that is free; None for the usual one, or any.
        host: Address or name of the machine to listen at.
        browser: Whether to open the page.

    Raises:
        BadInput: If there is nothing to show or nowhere to listen.
    """
    live = Live(Shelf(place))
    listener = listen(host, port)
    at = int(listener.getsockname()[1])
    if not loopback(host):
        print(
            f"gradmend: warning: whoever reaches {host}:{at} over the network can see every run in"
            f" {live.shelf.folder}: names, module paths, source lines, commands and numbers;"
            " nothing can be changed there. Leave --host out to show them on this machine only.",
            file=sys.stderr,
        )
    if hasattr(os, "nice"):
        os.nice(NICE)
    config = uvicorn.Config(
        guard_for(live.app, host, at),
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LEAVE,
    )
    server = _Server(config, live, url(host, at), browser=browser)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return
    finally:
        listener.close()


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens.

    Raises:
        BadInput: If the port is taken or the host is none of this machine's.
    """
    try:
        return _bound(host, PORT if port is None else port)
    except OSError as error:
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        if port is None and taken:
            return _bound(host, 0)
        if taken:
            why = "is taken" if error.errno == errno.EADDRINUSE else "may not be listened at"
            raise BadInput(
                f"port {port} of {host} {why}",
                "another server may be there already, perhaps this very page",
                f"open {url(host, port or 0)}, end what listens there, or leave --port out",
            ) from None
        raise BadInput(
            f"{host} cannot be listened at ({error.strerror or error})",
            "--host names an address of this machine",
            "leave --host out, or pass 0.0.0.0 for all addresses",
        ) from None


def url(host: str, port: int) -> str:
    """The page's address, as a browser on this machine takes it."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def _bound(host: str, port: int) -> socket.socket:
    family, kind, proto, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    try:
        if os.name == "posix":  # a server that was just ended leaves its port waiting
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """Says its address when it listens, and ends open streams when it is asked to end."""

    def __init__(self, config: uvicorn.Config, live: Live, address: str, *, browser: bool) -> None:
        super().__init__(config)
        self._live, self._address, self._browser = live, address, browser
        self._preparing: asyncio.Task[None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets=sockets)
        print(f"gradmend live: {self._address} (Ctrl-C ends it)", flush=True)
        if not self._live.shelf.runs():
            place = self._live.shelf.place
            there = "no run" if place.is_dir() else "no such folder yet"
            print(f"{there}: {place}; a run is shown as soon as it begins", flush=True)
        # Kept: a loop holds its tasks weakly. Nobody awaits it, so it tells its own failure.
        self._preparing = asyncio.create_task(self._live.prepare())
        if self._browser:
            # A browser that runs in the terminal does not come back before it is closed.
            threading.Thread(target=webbrowser.open, args=(self._address,), daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let go of what was being prepared."""
        self._preparing.cancel()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C, or to be terminated."""
        super().handle_exit(sig, frame)
        self._live.end()
        if sig == signal.SIGINT and self.force_exit:
            os._exit(130)  # asked twice: something hangs
