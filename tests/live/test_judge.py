"""The list says of a run what its own page says, and is ready before somebody asks."""

from __future__ import annotations

import asyncio
import html
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gradmend.live import follower as followers
from gradmend.live.app import Live
from gradmend.live.shelf import Shelf


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports follow each other at once, and lists are renewed often."""
    monkeypatch.setattr(followers, "REPORTS", 0.0)
    monkeypatch.setattr("gradmend.live.roster.PAUSE", 0.01)
    monkeypatch.setattr("gradmend.live.work.SHARE", 1.0)


def listed(page: str) -> dict[str, str]:
    """The verdict in each line of the list."""
    found = {}
    for name, line in re.findall(r'<tr data-key="([^"]*)">(.*?)</tr>', page):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", line)
        found[name] = html.unescape(re.sub(r"<[^>]+>", "", cells[5]))
    return found


def own(page: str) -> str:
    """The sentence on top of a run's own page."""
    (sentence,) = re.findall(r"<h1>(.*?)</h1>", page)[:1]
    return html.unescape(sentence)


def said_then(training: Any) -> None:
    """A finding that was told while it trained, and that the whole run does not bear out."""
    facts = {"code": "GRF102", "name": "vanishing-gradient", "severity": "error"}
    training.event(kind="finding-begins", text="for a moment", facts=facts)


def test_the_list_and_the_page_say_the_same(begin: Any, server: Any) -> None:
    # Given runs of which one was told to be sick while it trained, and one that spoils,
    begin("healthy", steps=30).finish()
    sick = begin("told", steps=30)
    said_then(sick)
    sick.finish()
    spoilt = begin("spoilt", steps=30)
    spoilt.event(kind="non-finite", facts={"direction": "loss"})
    spoilt.finish("crashed")
    begin("empty", steps=0).finish()
    asks = server()
    # when nobody has read them, then the list says so, and no more;
    assert set(listed(asks("/").text).values()) == {"being read"}
    # when they are read, then each line is the sentence of the run's own page.
    asks.runner.run(asks.live.prepare())
    verdicts = listed(asks("/").text)
    assert verdicts.keys() == {"healthy", "told", "spoilt", "empty"}
    for name, verdict in verdicts.items():
        assert verdict == own(asks(f"/run/{name}").text), name
    assert verdicts["told"] == verdicts["healthy"] != verdicts["spoilt"]


def test_a_page_that_is_newer_than_the_list_renews_it(begin: Any, server: Any) -> None:
    training = begin("first", steps=0)
    asks = server()
    asks.runner.run(asks.live.prepare())
    assert listed(asks("/").text)["first"] == "Waiting for the first training step."
    training.steps(30)
    training.finish()
    page = asks("/run/first").text
    assert listed(asks("/").text)["first"] == own(page) != "Waiting for the first training step."


def test_a_list_that_is_looked_at_follows_its_runs(begin: Any, tmp_path: Path) -> None:
    # Given somebody who looks at the list, when a run goes on,
    training = begin("first", steps=0)
    live = Live(Shelf(tmp_path / "runs"))

    async def look() -> None:
        async with live.roster.listening():
            await until("Waiting for the first training step.")
            training.steps(30)
            training.finish()
            # then its line does.
            await until("ealthy: nothing found")

    async def until(words: str) -> None:
        while words not in live.roster.snapshot.sections.get("runs", ""):
            assert live.roster.failure() is None
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(look(), 20))


def test_the_newest_is_read_first_and_what_it_shows_is_built(
    begin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given three runs, one of them damaged, when the server prepares,
    for day, name in enumerate(("old", "new", "broken"), start=1):
        begin(name, steps=30, started_at=f"2026-01-0{day}T00:00:00+00:00").finish()
    (tmp_path / "runs" / "broken" / "rank-0.db").write_bytes(b"no database")
    made: list[str] = []
    material, figure = followers.views.material, followers.views.figure
    monkeypatch.setattr(
        followers.views, "material", lambda run: (made.append(run.name), material(run))[1]
    )
    monkeypatch.setattr(
        followers.views, "figure", lambda f, name, own: (made.append(name), figure(f, name, own))[1]
    )
    (tmp_path / "runs" / "broken").rename(tmp_path / "aside")
    live = Live(Shelf(tmp_path / "runs"))
    asyncio.run(live.prepare())
    # then the newest comes first, with its figures, and the rest after it.
    assert made[0] == "new" and made[-1] == "old" and "training" in made[1:-1]
    # And one that cannot be read hinders none of the others.
    (tmp_path / "aside").rename(tmp_path / "runs" / "broken")
    made.clear()
    asyncio.run(Live(Shelf(tmp_path / "runs")).prepare())
    assert made == ["new", "old"]


def test_reports_wait_until_the_last_has_had_its_share(begin: Any, tmp_path: Path) -> None:
    # Given a desk whose reports take a second each, of which they may have a fifth,
    for name in ("a", "b", "c"):
        begin(name, steps=10).finish()
    live = Live(Shelf(tmp_path / "runs"))
    now = [0.0]
    desk = live.roster.judge._reports
    desk.clock = lambda: now[0]
    began: list[float] = []

    real = desk.do

    async def do(*given: Any) -> Any:
        began.append(now[0])
        now[0] += 1.0
        result = await real(*given)
        desk.free_at = now[0] + 4.0
        return result

    desk.do = do  # type: ignore[method-assign]

    async def tick() -> None:
        preparing = asyncio.create_task(live.prepare())
        while not preparing.done():
            await asyncio.sleep(0.02)
            now[0] += 0.5
        await preparing

    asyncio.run(asyncio.wait_for(tick(), 20))
    # then each begins when the pause of the one before is over.
    assert len(began) == 3 and all(b - a >= 5.0 for a, b in pairwise(began))
