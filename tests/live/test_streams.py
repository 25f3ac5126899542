"""What those who listen are told, and how often what is dear is made."""

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gradmend.errors import UnknownName
from gradmend.live import follower as followers
from gradmend.live import gallery as galleries
from gradmend.live import source as sources
from gradmend.live.app import Live
from gradmend.live.comparison import Comparison, joint_state
from gradmend.live.follower import Follower
from gradmend.live.gallery import MOST_KEPT, Gallery
from gradmend.live.roster import SECTION
from gradmend.live.shelf import Shelf, Shown
from gradmend.live.source import Snapshot, Source, aged, event, messages
from gradmend.live.views import Body, Material
from gradmend.live.work import SHARE, Desk, aside
from gradmend.store import manifest

PATIENCE = 20.0
"""Seconds until a test gives up; none waits so long unless something is broken."""


def within(work: Awaitable[Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work, PATIENCE)

    return asyncio.run(bounded())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, and lets reports follow each other."""
    monkeypatch.setattr(followers, "POLL", 0.01)
    monkeypatch.setattr(followers, "REPORTS", 0.0)


class Ear:
    """Listens, and remembers what it heard."""

    def __init__(self, source: Source) -> None:
        self.told: AsyncIterator[str] = messages(source)
        self.heard: list[tuple[str, Any]] = []
        self._asked_for: set[int] = set()

    async def next(self) -> tuple[str, Any]:
        while True:
            text = await anext(self.told)
            if text.startswith("event: "):
                name, data = text.rstrip("\n").split("\n")
                found = (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
                self.heard.append(found)
                return found

    async def until(self, right: Callable[[str, Any], bool]) -> Any:
        """The first message of that kind that was not asked for before."""
        for at, (name, data) in enumerate(self.heard):
            if at not in self._asked_for and right(name, data):
                self._asked_for.add(at)
                return data
        while True:
            name, data = await self.next()
            if right(name, data):
                self._asked_for.add(len(self.heard) - 1)
                return data

    async def close(self) -> None:
        await self.told.aclose()  # type: ignore[attr-defined]


def follower(folder: Path) -> Follower:
    return Follower(Shown(folder.name, folder), Desk(), Desk())


def test_a_listener_is_told_everything_first(begin: Any) -> None:
    training = begin("first")

    async def listen() -> list[tuple[str, Any]]:
        ear = Ear(follower(training.folder))
        while {name for name, _ in ear.heard} != {"state", "sections", "figures"}:
            await ear.next()
        await ear.close()
        return ear.heard

    heard = within(listen())
    assert heard[0][0] == "state"
    state = heard[0][1]
    assert (state["status"], state["step"], state["title"]) == (
        "running", 10, "first: running (gradmend)",
    )  # fmt: skip
    assert state["seconds"] >= 0
    sections = dict(heard)["sections"]
    assert "verdict" in sections and "training" in sections
    assert "training" in dict(heard)["figures"]


def test_a_run_that_grows_is_told_step_by_step_until_it_ends(begin: Any) -> None:
    training = begin("first")

    async def listen() -> list[tuple[str, Any]]:
        ear = Ear(follower(training.folder))
        await ear.until(lambda name, _: name == "figures")
        for goal in (20, 30):
            training.steps(10)
            await ear.until(lambda name, data, goal=goal: name == "state" and data["step"] == goal)
        training.finish()
        await ear.until(lambda name, data: name == "state" and data["status"] == "finished")
        await ear.until(lambda name, data: name == "sections" and "finished" in data["verdict"])
        await ear.until(lambda name, data: name == "figures" and "training" in data)
        await ear.close()
        return ear.heard

    heard = within(listen())
    changed = [data for name, data in heard if name == "sections"][1:]
    # a section that stayed the same is not sent again
    assert all("heat" not in sections for sections in changed)


def test_a_run_whose_writer_was_killed_is_told_of_although_no_file_changed(
    begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a page that listens to a run
    monkeypatch.setattr(followers, "PROOF", 0.05)
    training = begin("first")

    async def listen() -> Material:
        of = follower(training.folder)
        ear = Ear(of)
        await ear.until(lambda name, data: name == "sections")
        # when its writer is gone
        monkeypatch.setattr(manifest.Writer, "dead", property(lambda _: True))
        await ear.until(lambda name, data: name == "state" and data["status"] == "killed")
        await ear.until(lambda name, data: name == "sections" and "killed" in data["verdict"])
        await ear.close()
        return await of.material()

    assert not within(listen()).running


def test_a_run_that_goes_keeps_its_page_and_says_so(begin: Any) -> None:
    training = begin("first")

    async def listen() -> tuple[list[tuple[str, Any]], Material]:
        of = follower(training.folder)
        ear = Ear(of)
        await ear.until(lambda name, _: name == "sections")
        shutil.rmtree(training.folder)
        state = await ear.until(lambda name, data: name == "state" and data["status"] == "gone")
        assert (state["step"], state["seconds"]) == (None, None)
        for _ in range(20):
            await asyncio.sleep(0.01)
        await ear.close()
        return ear.heard, await of.material()

    heard, material = within(listen())
    assert sum(name == "sections" for name, _ in heard) == 1
    assert material.report is not None
    assert "no folder" in material.problem


def test_a_run_that_cannot_be_read_yet_is_shown_when_it_can(begin: Any, tmp_path: Path) -> None:
    training = begin("first").folder
    late = tmp_path / "runs" / "late"
    late.mkdir()
    shutil.copy(training / "manifest.json", late)

    async def listen() -> None:
        ear = Ear(follower(late))
        problem = await ear.until(lambda name, _: name == "sections")
        assert list(problem) == ["verdict"]
        assert "cannot be shown" in problem["verdict"]
        shutil.copy(training / "rank-0.db", late)
        await ear.until(lambda name, data: name == "sections" and "training" in data)
        await ear.close()

    begun = begin("second")
    begun.finish()
    training = begun.folder
    within(listen())


def test_many_listeners_share_one_report_and_each_figure(
    begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    training = begin("first")
    training.finish()
    made: list[str] = []
    real, drawn = followers.views.material, followers.views.figure
    monkeypatch.setattr(
        followers.views, "material", lambda run: (made.append("report"), real(run))[1]
    )
    monkeypatch.setattr(
        followers.views, "figure", lambda f, name, own: (made.append(name), drawn(f, name, own))[1]
    )

    # when
    async def listen() -> None:
        of = follower(training.folder)
        ears = [Ear(of) for _ in range(5)]
        await asyncio.gather(*(ear.until(lambda name, _: name == "figures") for ear in ears))
        assert of.listeners == 5
        await asyncio.gather(*(of.figure("training") for _ in range(5)))
        await asyncio.gather(*(of.material() for _ in range(5)))
        for ear in ears:
            await ear.close()
        assert of.listeners == 0

    within(listen())
    # then
    assert made == ["report", "training"]


def test_books_are_told_of_when_there_was_a_look_and_not_with_every_step(
    begin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given somebody who looks at a run that was looked at once,
    monkeypatch.setattr(galleries, "OFTEN", 0.0)
    training = begin("first", steps=0)
    training.look(-3.0)
    training.steps(10)

    async def listen() -> None:
        of = follower(training.folder)
        ear = Ear(of)
        await ear.until(lambda name, ids: name == "figures" and "ledger" in ids)
        for _ in range(2):  # what it was told first may have been read before the look was written
            training.steps(10)
            await ear.until(lambda name, ids: name == "figures" and "training" in ids)
        told = len(ear.heard)
        # when it trains on, then other figures are new and its books are not;
        for _ in range(3):
            training.steps(10)
            await ear.until(lambda name, ids: name == "figures" and "training" in ids)
        new = [ids for name, ids in ear.heard[told:] if name == "figures"]
        assert not any("ledger" in ids for ids in new)
        # when it is looked at again, they are, and the words around them are.
        training.look(-5.0)
        await ear.until(lambda name, ids: name == "figures" and "ledger" in ids)
        await ear.until(
            lambda name, html: name == "sections" and "After 60" in html.get("ledger", "")
        )
        await ear.close()

    within(listen())


def test_a_slow_listener_is_told_what_is_and_not_what_was() -> None:
    class Still(Source):
        async def follow(self) -> None:
            await asyncio.Event().wait()

    async def listen() -> None:
        source = Still()
        ear = Ear(source)
        async with source.listening():
            source.publish(state={"step": 0}, sections={"a": "1", "b": "1"})
            assert await ear.next() == ("state", {"step": 0})
            assert await ear.next() == ("sections", {"a": "1", "b": "1"})
            for step in range(1, 1000):
                source.publish(state={"step": step}, figures={"loss": step})
            source.publish(sections={"a": "1", "b": "2"})
            assert await ear.next() == ("state", {"step": 999})
            assert await ear.next() == ("sections", {"b": "2"})
            assert await ear.next() == ("figures", ["loss"])
            await ear.close()

    within(listen())


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SILENCE", 0.01)

    class Still(Source):
        async def follow(self) -> None:
            await asyncio.Event().wait()

    async def listen() -> list[str]:
        told = messages(Still())
        heard = [await anext(told) for _ in range(3)]
        await told.aclose()  # type: ignore[attr-defined]
        return heard

    assert within(listen()) == ["retry: 1000\n\n", ": still here\n\n", ": still here\n\n"]


def test_an_error_of_ours_ends_the_stream_and_is_not_hidden() -> None:
    class Broken(Source):
        async def follow(self) -> None:
            raise ZeroDivisionError("on purpose")

    async def listen() -> None:
        await Ear(Broken()).next()

    with pytest.raises(ZeroDivisionError):
        within(listen())


def test_a_message_is_one_line_whatever_it_holds() -> None:
    text = event("sections", {"a": "x\ny\r\n\u2028\n\nevent: state"})
    assert text.count("\n") == 3
    assert text.splitlines()[2:] == [""]


def test_the_following_ends_with_the_last_listener(begin: Any) -> None:
    training = begin("first")

    async def listen() -> None:
        of = follower(training.folder)
        one, two = Ear(of), Ear(of)
        await one.next()
        await two.next()
        await one.close()
        assert of._task is not None
        await two.close()
        assert of._task is None
        again = Ear(of)
        assert (await again.next())[0] == "state"
        await again.close()

    within(listen())


def test_who_comes_late_is_told_how_long_ago_it_was(begin: Any) -> None:
    # given a run that ended an hour ago, and somebody who listens since then
    training = begin("first")
    training.finish()
    hour = time.time() - 3600
    for path in training.folder.iterdir():
        os.utime(path, (hour, hour))

    async def listen() -> tuple[float, float]:
        of = follower(training.folder)
        early, late = Ear(of), Ear(of)
        first = await early.until(lambda name, _: name == "state")
        second = await late.until(lambda name, _: name == "state")
        await early.until(lambda name, _: name == "sections")
        await early.close()
        await late.close()
        again = Ear(of)
        assert of.snapshot.sections  # what was seen last
        heard = await again.next()
        assert heard[0] == "state" and heard[1]["status"] == "finished"
        await again.close()
        return first["seconds"], second["seconds"]

    first, second = within(listen())
    assert 3600 <= first <= second < 3600 + PATIENCE
    assert aged({"step": 1}) == {"step": 1}
    assert aged({"written": None}) == {"seconds": None}
    assert aged({"written": time.time() + 99}) == {"seconds": 0.0}


def test_the_list_changes_as_runs_do(begin: Any, tmp_path: Path) -> None:
    async def listen() -> None:
        ear = Ear(Live(Shelf(tmp_path / "runs")).roster)
        first = await ear.until(lambda name, _: name == "sections")
        assert "Waiting for a run" in first[SECTION]
        begin("first")
        await ear.until(lambda name, data: name == "sections" and "/run/first" in data[SECTION])
        state = await ear.until(lambda name, data: name == "state" and data["runs"] == 1)
        assert state["running"] == 1
        await ear.close()

    within(listen())


def test_several_runs_are_followed_together(begin: Any) -> None:
    one, two = begin("one"), begin("two", steps=30)

    async def listen() -> None:
        ear = Ear(Comparison([follower(one.folder), follower(two.folder)], Desk()))
        await ear.until(lambda name, data: name == "state" and data["step"] == 30)
        await ear.until(lambda name, data: name == "sections" and "one" in data["verdict"])
        one.steps(40)
        await ear.until(lambda name, data: name == "state" and data["step"] == 50)
        await ear.until(lambda name, data: name == "figures" and "compare-loss" in data)
        await ear.close()

    within(listen())


def test_the_state_of_several_runs() -> None:
    def state(status: str, step: int | None, seconds: float | None) -> dict[str, Any]:
        return {"status": status, "step": step, "written": seconds}

    assert joint_state([{}, {}]) == {}
    found = joint_state([state("finished", 90, 8.0), state("running", 5, 1.0), {}])
    assert found == {"status": "running", "step": 90, "written": 8.0, "running": 1, "runs": 2}
    found = joint_state([state("gone", None, None), state("crashed", 5, 1.0)])
    assert (found["status"], found["step"], found["running"]) == ("crashed", 5, 0)


def test_work_aside_brings_back_results_and_errors() -> None:
    async def work() -> None:
        assert await aside(lambda: threading.current_thread().daemon) is True
        with pytest.raises(ZeroDivisionError):
            await aside(lambda: 1 / 0)

    within(work())


def test_reports_take_their_share_of_the_time_and_no_more() -> None:
    # given a clock that a report moves by three seconds
    now = [100.0]

    def work() -> str:
        now[0] += 3.0
        return "done"

    async def do() -> Desk:
        desk = Desk(clock=lambda: now[0])
        assert await desk.do(work) == "done"
        return desk

    # then the next may begin when three seconds are the share of those gone by
    assert within(do()).free_at == pytest.approx(100.0 + 3.0 / SHARE)


def test_a_desk_does_one_thing_at_a_time() -> None:
    busy = threading.Lock()

    def work() -> bool:
        with busy:
            pass
        return busy.acquire(blocking=False) and (busy.release() or True)

    async def do() -> list[bool]:
        desk = Desk()
        return await asyncio.gather(*(desk.do(work) for _ in range(8)))

    assert all(within(do()))


def gallery(seconds: dict[str, float], pulse: list[Any]) -> tuple[Gallery, list[str]]:
    """One whose figures take some seconds of a clock of its own."""
    now, built = [0.0], []

    def build(name: str) -> Body | None:
        if name not in seconds:
            raise UnknownName("no such figure")
        built.append(name)
        now[0] += seconds[name]
        return Body(name.encode(), b"")

    return Gallery(Desk(clock=lambda: now[0]), build, lambda name: (pulse[0],)), built


def test_dear_figures_are_announced_seldom() -> None:
    async def draw() -> Gallery:
        found, _ = gallery({"cheap": 0.001, "dear": 1.0}, [None])
        for name in ("cheap", "dear"):
            await found.get(name, live=True)
        return found

    found = within(draw())
    assert found.pause("cheap") == 0.5
    assert found.pause("dear") == pytest.approx(1.0 * 2 / SHARE)
    assert found.pause("never drawn") == 0.5


def test_a_figure_is_built_again_only_when_it_may_have_changed() -> None:
    async def draw() -> list[str]:
        pulse: list[Any] = [(1, 1, 1)]
        found, built = gallery({"loss": 0.001}, pulse)
        assert found.announce(["loss"])
        await found.get("loss", live=True)
        await found.get("loss", live=False)
        assert built == ["loss"]
        pulse[0] = (2, 2, 2)
        await found.get("loss", live=True)  # announced as before: this will do
        assert built == ["loss"]
        assert not found.announce(["loss"])  # half a second has not gone by
        await found.get("loss", live=False)  # nobody is told of new ones, so this is read anew
        return built

    assert within(draw()) == ["loss", "loss"]


def test_a_name_that_is_no_figure_is_not_kept_and_those_that_are_have_an_end() -> None:
    async def draw() -> Gallery:
        found, _ = gallery({f"f{k}": 0.0 for k in range(200)}, [None])
        with pytest.raises(UnknownName):
            await found.get("made up", live=False)
        for k in range(200):
            await found.get(f"f{k}", live=False)
        return found

    assert len(within(draw())._drawn) == MOST_KEPT


def test_a_snapshot_begins_empty() -> None:
    assert Snapshot() == Snapshot(state={}, sections={}, figures={})
