"""Who may ask: pages of this server and nobody else, and only to read.

A page of another site can make a browser send requests to this machine, and after rebinding a name
of its own to 127.0.0.1 it could read the answers. Such requests carry that name in Host, or the
other site in Origin.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "::1")
METHODS = ("GET", "HEAD")
POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""Of answers that are no pages."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?")


class Guard:
    """Lets good requests through, and gives every answer its headers.

    Args:
        app: What answers.
        hosts: Names under which the server may be asked.
        port: At which.
        any_address: Whether every numeric address will do: where the server listens on all of
            them. No name can be rebound to a request that names a number.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Sequence[str], port: int, any_address: bool = False
    ) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)
        self.port = port
        self.any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._known(hosts[0]):
            return _say(400, "This server answers on this machine and under its own name only.")
        if any(o.lower() != f"http://{hosts[0].lower()}" for o in headers.getlist("origin")):
            return _say(403, "This server answers pages of its own only.")
        if scope["method"] not in METHODS:
            answer = _say(405, "This server shows and changes nothing: GET and HEAD only.")
            answer.headers["Allow"] = ", ".join(METHODS)
            return answer
        return None

    def _known(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None or int(found[2] or 80) != self.port:
            return False
        name = found[1].strip("[]").lower()
        return name in self.hosts or (self.any_address and _numeric(name))


def guard_for(app: ASGIApp, host: str, port: int) -> Guard:
    """The guard of a server that listens at an address."""
    hosts = [*LOCAL, host]
    wide = everywhere(host)
    if wide:
        hosts.append(socket.gethostname())
    return Guard(app, hosts=hosts, port=port, any_address=wide)


def everywhere(host: str) -> bool:
    """Whether an address stands for all that the machine has."""
    return _numeric(host) and ipaddress.ip_address(host).is_unspecified


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host == "localhost" or (_numeric(host) and ipaddress.ip_address(host).is_loopback)


def _numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _say(status: int, sentence: str) -> PlainTextResponse:
    return PlainTextResponse(sentence + "\n", status_code=status)


def page_policy(html: str) -> str:
    """The policy that a page names in itself, and what only a header can say."""
    named: Any = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    return f"{named[1] if named else POLICY}; frame-ancestors 'none'"
