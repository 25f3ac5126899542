import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gradmend.live.guard import Guard, everywhere, guard_for, loopback


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"there"})


def ask(
    guard: Guard, *headers: tuple[bytes, bytes], method: str = "GET"
) -> tuple[int, dict[str, str]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": method, "path": "/", "headers": list(headers)}
    asyncio.run(guard(scope, receive, send))
    got = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], got


def status(host: str, listens: str = "127.0.0.1", port: int = 6284, **more: Any) -> int:
    return ask(guard_for(answers, listens, port), (b"host", host.encode("latin1")), **more)[0]


GOOD = ["127.0.0.1:6284", "localhost:6284", "LocalHost:6284", "[::1]:6284"]
BAD = [
    "evil.com:6284", "evil.com", "127.0.0.1", "localhost", "127.0.0.1:6285", "localhost:80",
    "localhost.evil.com:6284", "127.0.0.1.evil.com:6284", "127.0.0.1:6284@evil.com", "",
    "[::1]", "::1:6284", "127.0.0.1:6284:6284", "user@127.0.0.1:6284", "127.0.0.1:6284/x",
    "127.0.0.2:6284", "0.0.0.0:6284", "2130706433:6284", "127.1:6284", "localhost.:6284",
    "127.0.0.1:06284x", "127.0.0.1:६२८४", " 127.0.0.1:6284", "\xff:6284",
]  # fmt: skip


@pytest.mark.parametrize("host", GOOD)
def test_this_machine_is_let_in_by_each_of_its_names(host: str) -> None:
    assert status(host) == 200


@pytest.mark.parametrize("host", [h for h in BAD if h.isascii() or h.startswith("\xff")])
def test_a_name_that_was_rebound_to_this_machine_is_refused(host: str) -> None:
    assert status(host) == 400


def test_no_host_and_two_hosts_are_refused() -> None:
    guard = guard_for(answers, "127.0.0.1", 6284)
    good = (b"host", b"localhost:6284")
    assert ask(guard)[0] == 400
    assert ask(guard, good, (b"host", b"evil.com"))[0] == 400
    assert ask(guard, good, good)[0] == 400


def test_port_80_need_not_be_named() -> None:
    assert status("localhost", port=80) == 200
    assert status("localhost:80", port=80) == 200
    assert status("localhost:81", port=80) == 400


def test_the_given_host_is_let_in_too() -> None:
    assert status("192.168.1.7:6284", listens="192.168.1.7") == 200
    assert status("box.lan:6284", listens="box.lan") == 200
    assert status("192.168.1.8:6284", listens="192.168.1.7") == 400


def test_on_all_addresses_numbers_are_let_in_and_strange_names_are_not() -> None:
    assert status("192.168.1.7:6284", listens="0.0.0.0") == 200
    assert status("[fe80::1]:6284", listens="::") == 200
    assert status("evil.com:6284", listens="0.0.0.0") == 400
    assert status("192.168.1.7:80", listens="0.0.0.0") == 400


@pytest.mark.parametrize(
    ("origin", "expected"),
    [("http://localhost:6284", 200), ("http://LOCALHOST:6284", 200), ("http://evil.com", 403),
     ("null", 403), ("https://localhost:6284", 403), ("http://localhost", 403), ("", 403),
     ("http://127.0.0.1:6284", 403), ("http://localhost:6284.evil.com", 403)],
)  # fmt: skip
def test_only_pages_of_this_server_may_ask(origin: str, expected: int) -> None:
    guard = guard_for(answers, "127.0.0.1", 6284)
    host = (b"host", b"localhost:6284")
    assert ask(guard, host, (b"origin", origin.encode()))[0] == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
def test_nothing_can_be_changed(method: str) -> None:
    guard = guard_for(answers, "127.0.0.1", 6284)
    found, headers = ask(guard, (b"host", b"localhost:6284"), method=method)
    assert (found, headers["allow"]) == (405, "GET, HEAD")
    assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize("host", ["localhost:6284", "evil.com"])
def test_every_answer_has_its_headers(host: str) -> None:
    _, headers = ask(guard_for(answers, "127.0.0.1", 6284), (b"host", host.encode()))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not any(name.startswith("access-control") for name in headers)


def test_what_is_no_request_gets_no_answer() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is sent")

    asyncio.run(guard_for(answers, "127.0.0.1", 1)({"type": "websocket"}, never, never))


@pytest.mark.parametrize(
    ("host", "function", "expected"),
    [("127.0.0.1", loopback, True), ("localhost", loopback, True), ("::1", loopback, True),
     ("127.8.0.1", loopback, True), ("0.0.0.0", loopback, False), ("box", loopback, False),
     ("192.168.1.2", loopback, False), ("0.0.0.0", everywhere, True), ("::", everywhere, True),
     ("127.0.0.1", everywhere, False), ("box", everywhere, False)],
)  # fmt: skip
def test_who_reaches_an_address(host: str, function: Callable[[str], bool], expected: bool) -> None:
    assert function(host) is expected
