"""The server as a process: where it listens, what it says, how it ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import gradmend
from gradmend.cli import main
from gradmend.errors import BadInput
from gradmend.live import server as servers
from gradmend.live.server import listen, url

HOME = {**os.environ, "PYTHONPATH": str(Path(gradmend.__file__).parents[1])}
PATIENCE = 60.0
"""Seconds until a test gives up."""

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts ``gradmend live``; gives the process and the address that it prints."""
    begun: list[subprocess.Popen[str]] = []

    def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "gradmend", "live", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=HOME,
        )
        begun.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("gradmend live: http://"), line + process.communicate()[1]
        return process, line.split()[2]

    yield started
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_it_says_where_streams_and_ends_at_once_with_open_streams(
    begin: Any, start: Start, tmp_path: Path
) -> None:
    # given a run, its page, and two that listen
    training = begin("first")
    process, address = start(str(tmp_path / "runs"), "--port", "0")
    assert httpx.get(f"{address}run/first").status_code == 200
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(2):
            answer = stack.enter_context(
                httpx.stream("GET", f"{address}run/first/stream", timeout=PATIENCE)
            )
            assert answer.headers["content-type"].startswith("text/event-stream")
            streams.append(answer.iter_lines())
        # when a step is written, then both are told
        training.steps(5)
        for lines in streams:
            assert any('"step": 15' in line for line in lines)
        # when it is asked to end, then the streams end, and the process
        process.send_signal(signal.SIGINT)
        for lines in streams:
            with contextlib.suppress(httpx.RemoteProtocolError):
                for _ in lines:
                    pass
        said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert said == ("", "")


def test_it_ends_when_terminated(begin: Any, start: Start, tmp_path: Path) -> None:
    begin("first")
    process, _ = start(str(tmp_path / "runs"), "--port", "0")
    process.terminate()
    assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == -signal.SIGTERM


def test_a_port_that_is_taken_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status = main(["live", str(tmp_path), "--port", str(port)])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith(f"gradmend: port {port} of 127.0.0.1 is taken.")
    assert "leave --port out" in err
    assert err.count("\n") == 1


def test_after_it_was_killed_its_port_is_free_again(
    begin: Any, start: Start, tmp_path: Path
) -> None:
    begin("first")
    process, address = start(str(tmp_path / "runs"), "--port", "0")
    port = address.rstrip("/").rpartition(":")[2]
    with httpx.stream("GET", f"{address}runs/stream", timeout=PATIENCE) as answer:
        next(answer.iter_lines())
        process.kill()
        process.wait(PATIENCE)
    _, again = start(str(tmp_path / "runs"), "--port", port)
    assert again == address


def test_an_open_host_is_warned_of(begin: Any, start: Start, tmp_path: Path) -> None:
    begin("first")
    process, address = start(str(tmp_path / "runs"), "--port", "0", "--host", "0.0.0.0")
    assert address.startswith("http://127.0.0.1:")
    assert httpx.get(f"{address}healthz").text == "ok\n"
    refused = httpx.get(f"{address}healthz", headers={"host": "evil.com"})
    assert refused.status_code == 400
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert said.startswith("gradmend: warning: whoever reaches 0.0.0.0:")
    assert said.count("\n") == 1


def test_the_usual_port_is_tried_and_then_any(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as found:
        taken = found.getsockname()[1]
        monkeypatch.setattr(servers, "PORT", taken)
        with listen("127.0.0.1", None) as other:
            assert other.getsockname()[1] not in (0, taken)
        with pytest.raises(BadInput, match=f"port {taken} .* is taken"):
            listen("127.0.0.1", taken)
    with listen("127.0.0.1", None) as usual:
        assert usual.getsockname()[1] == taken


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "256.1.1.1"])
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(BadInput, match="cannot be listened at"):
        listen(host, 0)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "http://127.0.0.1:80/"), ("::1", "http://[::1]:80/"),
     ("0.0.0.0", "http://127.0.0.1:80/"), ("::", "http://[::1]:80/"), ("box", "http://box:80/")],
)  # fmt: skip
def test_the_address_is_one_that_a_browser_here_takes(host: str, shown: str) -> None:
    assert url(host, 80) == shown


def test_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    status = main(["live", str(tmp_path / "file")])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert "is a file" in err


def test_the_server_works_where_torch_cannot_be_imported(begin: Any, tmp_path: Path) -> None:
    begin("first").finish()
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from gradmend.live import server, views\n"
        "from gradmend.live.shelf import Shown\n"
        f"run = Shown('first', Path({str(tmp_path / 'runs' / 'first')!r}))\n"
        "found = views.material(run)\n"
        "assert found.report is not None, found.problem\n"
        "print(len(views.run_page(found, 'first', '/run/first')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=HOME, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
