"""Runs on disk, and a server that is asked without a network."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gradmend.live.app import Live
from gradmend.live.guard import guard_for
from gradmend.live.shelf import Shelf
from gradmend.records.history import Column, Event, RunFacts
from gradmend.records.ledger import Booked, Entry, Ledger
from gradmend.store.books import FIRST, NEWEST
from gradmend.store.errors import StoreError
from gradmend.store.writer import RunWriter

PORT = 6284


class Training:
    """A run that grows when it is told to."""

    def __init__(self, folder: Path, **facts: Any) -> None:
        started = facts.pop("started_at", "2026-01-01T00:00:00+00:00")
        models = facts.pop("models", ("Net",))
        self.folder = folder
        self.step = 0
        self.looked = False
        self.facts = {
            "name": folder.name, "started_at": started, "models": models, "status": "running",
            **facts,
        }  # fmt: skip
        self.writer = RunWriter.create(folder, self._run())
        self.writer.columns("step", [Column(name="Adam", kind="Adam")], at=0)
        column = Column(name="0.weight", module="0", kind="weight", order=0, shape=(4, 4))
        self.writer.columns("gradient", [column], at=0)
        self.writer.flush()

    def _run(self) -> RunFacts:
        return RunFacts(**{**self.facts, "steps": self.step, "seconds": self.step / 10})

    def steps(self, count: int = 10) -> None:
        """Train for some steps, and make them durable."""
        for _ in range(count):
            loss = 2.0 * math.exp(-self.step / 50)
            self.writer.append("step", self.step, {"loss": [loss], "backwards": [1.0]})
            self.writer.append("gradient", self.step, {"log10_rms": [-2.0], "state": [2.0]})
            self.step += 1
        self.writer.state(self._run())
        self.writer.flush()

    def event(self, **event: Any) -> None:
        self.writer.event(Event(step=self.step, **event))
        self.writer.flush()

    def look(self, decades: float) -> None:
        """A look whose books say so."""
        inside = Entry(name="sigmoid", kind="operation", cause="weights", decades=decades)
        layer = Entry(name="0", kind="module", decades=decades, children=(inside,))
        root = Entry(name="", kind="module", decades=decades, children=(layer,))
        ledger = Ledger(
            cotangent="loss",
            total_decades=decades,
            unexplained_decades=0.0,
            root=root,
            by_cause={"weights": decades},
        )
        slot = FIRST if not self.looked else NEWEST
        self.looked = True
        self.writer.books(slot, Booked(step=self.step, ledger=ledger))
        self.writer.flush()

    def finish(self, status: str = "finished") -> None:
        self.facts["status"] = status
        self.writer.state(self._run())
        self.writer.flush()
        self.writer.close()


Begin = Callable[..., Training]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begins runs in ``runs/``."""
    begun: list[Training] = []

    def start(name: str = "first", steps: int = 10, **facts: Any) -> Training:
        folder = tmp_path / "runs" / name
        folder.parent.mkdir(exist_ok=True)
        begun.append(Training(folder, **facts))
        if steps:
            begun[-1].steps(steps)
        return begun[-1]

    yield start
    for training in begun:
        with suppress(StoreError):  # a test may have taken its folder away
            training.writer.close()


class Asker:
    """A server in this process, and what it answers."""

    def __init__(self, place: Path) -> None:
        self.live = Live(Shelf(place))
        self.app = guard_for(self.live.app, "127.0.0.1", PORT)
        self.runner = asyncio.Runner()

    def __call__(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)  # type: ignore[arg-type]
            base = f"http://127.0.0.1:{PORT}"
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                return await client.request(method, path, headers=dict(headers or {}))

        return self.runner.run(ask())

    def json(self, path: str) -> Any:
        answer = self(path)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_constant=no_constant)


def no_constant(word: str) -> Any:
    raise AssertionError(f"{word} is not JSON")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Asker]]:
    """Starts servers over ``runs/``, or over a run in it."""
    started: list[Asker] = []

    def start(place: str = "runs") -> Asker:
        started.append(Asker(tmp_path / place))
        return started[-1]

    yield start
    for asker in started:
        asker.runner.close()
