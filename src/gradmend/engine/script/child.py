"""One training of a script: a process of its own in a copy of the folder, and the words with it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradmend.engine.script.plan import OFFLINE, Command
from gradmend.engine.script.scratch import Listing, copy_of

MODULE = "gradmend.integrations.trial_child"
"""What the process runs; it lies above this room, so it is known by name alone."""
GRACE = 5.0
"""Seconds that a process is waited for after it was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one process is to do."""

    until: int
    """Step to stop at, for the first time."""
    prescription: Path | None = None
    seed_shift: int = 0
    watch: bool = False
    """Whether to look for the cause, and to report."""
    seconds: float | None = None
    """Time of training after which it stops short of ``until``, once it has taken ``fewest``."""
    fewest: int = 1
    """Steps below which it goes on, though the time is over: up to ``patience`` times as long."""
    patience: float = 1.0


class Child:
    """A process that runs the script, and stops where it is told.

    Args:
        command: The script.
        listed: Its folder, copied for this process alone.
        order: What to do.
        threads: Of its arithmetic.
        places: Folder for what is exchanged: orders in, output and report out.
        number: Of the process, to tell its files from others'.
    """

    def __init__(
        self,
        command: Command,
        listed: Listing,
        order: Order,
        *,
        threads: int,
        places: Path,
        number: int,
    ) -> None:
        self.step = 0
        self.over = False
        """Whether the process has ended, or was ended."""
        self.report_path = places / f"{number}.report"
        self.output_path = places / f"{number}.out"
        self._read_to = 0
        self._unread = b""
        self._stack = ExitStack()
        try:
            self.work = self._stack.enter_context(copy_of(listed))
            self._start(command, order, self.work, threads, places / f"{number}.json")
        except BaseException:
            self._stack.close()
            raise

    def _start(self, command: Command, order: Order, work: Path, threads: int, spec: Path) -> None:
        words_in, words_out = os.pipe()
        orders_in, orders_out = os.pipe()
        self.words, self._orders = words_in, orders_out
        self._stack.callback(_close, words_in)
        self._stack.callback(_close, orders_out)
        home = str(command.home)
        target = command.target
        if not command.as_module:
            target = os.path.relpath(command.home / target, command.home)
        plain = {
            "target": target,
            # A path into the folder means the copy.
            "arguments": [text.replace(home, str(work)) for text in command.arguments],
            "as_module": command.as_module,
            "seed_shift": order.seed_shift,
            "prescription": str(order.prescription) if order.prescription else None,
            "until": order.until,
            "seconds": order.seconds,
            "fewest": order.fewest,
            "patience": order.patience,
            "watch": order.watch,
            "report_to": str(self.report_path) if order.watch else None,
            "folder": str(work),
            "writable": [str(work)],
            "words": words_out,
            "orders": orders_in,
        }
        spec.write_text(json.dumps(plain), encoding="utf-8")
        # MKL goes by this too, unless the user has set a number of its own.
        environment = {"OMP_NUM_THREADS": str(threads)}
        environment |= os.environ  # what the user has set himself counts
        environment |= {**OFFLINE, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.setdefault("PYTHONHASHSEED", "0")
        try:
            with self.output_path.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(spec)],
                    cwd=spec.parent,  # not its own folder: a types.py there would hide Python's
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(words_out, orders_in),
                    start_new_session=True,  # its own workers go with it when it is killed
                )
        finally:
            os.close(words_out)
            os.close(orders_in)
        os.set_blocking(words_in, False)

    def heard(self) -> list[dict[str, Any]]:
        """The words that have come; the last one says ``gone`` when the process has ended."""
        found: list[dict[str, Any]] = []
        while True:
            try:
                data = os.read(self.words, 65536)
            except BlockingIOError:
                break
            if not data:
                if not self.over:
                    found.append({"kind": "gone", "status": self._wait()})
                break
            self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines if line] + found

    def go(self, until: int) -> None:
        """Let it train on, to another step."""
        with contextlib.suppress(BrokenPipeError):  # it has died: its end will be heard
            os.write(self._orders, json.dumps({"kind": "go", "until": until}).encode() + b"\n")

    def printed(self) -> str:
        """What the script has printed since this was last asked."""
        with self.output_path.open("rb") as output:
            output.seek(self._read_to)
            data = output.read()
        self._read_to += len(data)
        return data.decode("utf-8", errors="replace")

    def last_lines(self, count: int = 6) -> str:
        """The end of everything it printed."""
        with self.output_path.open("rb") as output:
            output.seek(max(0, self.output_path.stat().st_size - 8192))
            text = output.read().decode("utf-8", errors="replace")
        return "\n".join(text.strip().splitlines()[-count:])

    def end(self) -> None:
        """Kill it with all it started, and remove its copy of the folder."""
        if not self.over:
            self.over = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._wait()
        self._stack.close()

    def _wait(self) -> int:
        try:
            return self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return -1


def numbers_of(pairs: list[Any]) -> list[tuple[int, float]]:
    """(step, loss) pairs as they came, in JSON's terms."""
    return [(int(step), math.nan if loss is None else float(loss)) for step, loss in pairs]


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
