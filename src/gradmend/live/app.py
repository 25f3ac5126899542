"""The addresses of the live page, and what each answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from gradmend.errors import BadInput, UnknownName
from gradmend.live import views
from gradmend.live.comparison import Comparison
from gradmend.live.follower import Follower
from gradmend.live.guard import page_policy
from gradmend.live.judge import Judge
from gradmend.live.places import address
from gradmend.live.roster import SECTION, Roster
from gradmend.live.shelf import Shelf, Shown
from gradmend.live.source import Source
from gradmend.live.streaming import Stream
from gradmend.live.views import Body
from gradmend.live.work import Desk, aside

K = TypeVar("K")
S = TypeVar("S", bound=Source)

MOST_KEPT = 32
"""Runs that are remembered though nobody looks at them."""
GRACE = 0.25
"""Seconds after the server has begun in which nothing is prepared: whoever waits for it already is
answered first (our choice)."""
MOST_COMPARED = 8
"""Runs side by side: as many as there are colours that can be told apart."""


class _Any(Convertor[str]):
    """Whatever stands there, slashes and line breaks too: names of runs and layers hold both."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", _Any())


class Live:
    """The application: runs on a shelf, and who is looking at which.

    Args:
        shelf: The runs.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.closing = asyncio.Event()
        """Set when the server ends: open streams end with it."""
        self._reports, self._figures = Desk(), Desk()
        self._followers: dict[Shown, Follower] = {}
        self.roster = Roster(shelf, Judge(self._reports, self._follower, self._followers))
        self._comparisons: dict[tuple[Shown, ...], Comparison] = {}
        self.app = Starlette(
            routes=[
                Route("/", self.home),
                Route("/healthz", self.health),
                Route("/runs/stream", self.runs_stream),
                *(
                    Route(f"/run/{{name}}{rank}{path}", answer)
                    for rank in ("", "/rank/{rank:int}")
                    for path, answer in (
                        ("", self.run),
                        ("/report.json", self.report),
                        ("/stream", self.stream),
                        ("/figure/{figure:any}.json", self.figure),
                    )
                ),
                Route("/compare", self.compare),
                Route("/compare/{names:any}/stream", self.compare_stream),
                Route("/compare/{names:any}/figure/{figure:any}.json", self.compare_figure),
            ],
            exception_handlers={404: _missing, BadInput: _refused},
        )

        self.app.router.redirect_slashes = False

    def end(self) -> None:
        """End all streams; may be called from a signal handler."""
        try:
            asyncio.get_running_loop().call_soon_threadsafe(self.closing.set)
        except RuntimeError:  # the handler ran between two turns of the loop
            self.closing.set()

    async def prepare(self) -> None:
        """Read the newest runs before anybody asks; the first visitor need not wait for it."""
        await asyncio.sleep(GRACE)
        rows = await aside(self.shelf.rows)
        await self.roster.judge.prepare(rows[:MOST_KEPT])

    async def home(self, request: Request) -> Response:
        """The list of runs; a run that was named is gone to at once."""
        del request
        if self.shelf.only is not None:
            return RedirectResponse(address(self.shelf.only), status_code=307)
        html = await self.roster.html()
        return _page(views.plain_page("Runs", html, source="/runs", id=SECTION))

    async def health(self, request: Request) -> Response:
        """Whether the server lives."""
        del request
        return PlainTextResponse("ok\n")

    async def runs_stream(self, request: Request) -> Response:
        """Changes of the list."""
        del request
        return Stream(self.roster, self.closing)

    async def run(self, request: Request) -> Response:
        """The page of a run."""
        found = self._asked_for(request)
        if found is None:
            return _no_run()
        return _page(await found.page(address(found.run.name, found.run.rank)))

    async def report(self, request: Request) -> Response:
        """The report of a run, for machines."""
        found = self._asked_for(request)
        if found is None:
            return _no_run()
        material = await found.material()
        if material.report is None:
            return _plain(409, material.problem)
        return _answer(request, await aside(views.report_json, material.report))

    async def stream(self, request: Request) -> Response:
        """Changes of a run."""
        found = self._asked_for(request)
        return _no_run() if found is None else Stream(found, self.closing)

    async def figure(self, request: Request) -> Response:
        """One figure of a run."""
        found = self._asked_for(request)
        if found is None:
            return _no_run()
        return await _figure(found, request)

    async def compare(self, request: Request) -> Response:
        """Several runs side by side."""
        names = request.query_params.getlist("run")
        found = self._comparison(names)
        if isinstance(found, Response):
            return found
        source = "/compare/" + "/".join(quote(name, safe="") for name in dict.fromkeys(names))
        return _page(await found.page(source))

    async def compare_stream(self, request: Request) -> Response:
        """Changes of any of several runs."""
        found = self._comparison(request.path_params["names"].split("/"))
        return found if isinstance(found, Response) else Stream(found, self.closing)

    async def compare_figure(self, request: Request) -> Response:
        """A figure of several runs."""
        found = self._comparison(request.path_params["names"].split("/"))
        if isinstance(found, Response):
            return found
        return await _figure(found, request)

    def _asked_for(self, request: Request) -> Follower | None:
        return self._follower(request.path_params["name"], request.path_params.get("rank", 0))

    def _follower(self, name: str, rank: int = 0) -> Follower | None:
        run = self.shelf.find(name, rank)
        if run is None:
            return None
        found = self._followers.pop(run, None) or Follower(run, self._reports, self._figures)
        self._followers[run] = found  # the last one asked for stands last
        _forget(self._followers, run)
        return found

    def _comparison(self, names: Sequence[str]) -> Comparison | Response:
        names = list(dict.fromkeys(names))
        if not 2 <= len(names) <= MOST_COMPARED:
            sentence = f"Name 2 to {MOST_COMPARED} different runs: /compare?run=A&run=B"
            return _problem(400, sentence)
        found = [self._follower(name) for name in names]
        there = [follower for follower in found if follower is not None]
        if len(there) < len(found):
            return _no_run()
        key = tuple(follower.run for follower in there)
        kept = self._comparisons.pop(key, None)
        # A follower may have been forgotten and made anew meanwhile.
        same = kept is not None and kept.runs == tuple(there)
        fresh = kept if kept is not None and same else Comparison(there, self._figures)
        self._comparisons[key] = fresh
        _forget(self._comparisons, key)
        return fresh


def _forget(kept: dict[K, S], but: K) -> None:
    """Let go of the sources that nobody has looked at for longest, where there are too many."""
    idle = [key for key, source in kept.items() if not source.listeners and key != but]
    for key in idle[: max(0, len(kept) - MOST_KEPT)]:
        del kept[key]


async def _figure(of: Follower | Comparison, request: Request) -> Response:
    try:
        body = await of.figure(request.path_params["figure"])
    except UnknownName as error:
        return _plain(404, str(error))
    if body is None:
        return _plain(404, "Nothing of it was measured yet.")
    return _answer(request, body)


def _answer(request: Request, body: Body) -> Response:
    accepted = request.headers.get("accept-encoding", "")
    names = [part.split(";")[0].strip().lower() for part in accepted.split(",")]
    packed = "gzip" in names and "gzip;q=0" not in accepted.replace(" ", "").lower()
    answer = Response(body.packed if packed else body.plain, media_type="application/json")
    answer.headers["Vary"] = "Accept-Encoding"
    if packed:
        answer.headers["Content-Encoding"] = "gzip"
    return answer


def _page(html: str, status: int = 200) -> Response:
    return HTMLResponse(html, status, {"Content-Security-Policy": page_policy(html)})


def _problem(status: int, sentence: str) -> Response:
    html = f'{views.problem_html(sentence)}<p><a href="/">All runs</a></p>'
    return _page(views.plain_page("Not shown", html), status)


def _no_run() -> Response:
    # The name is not repeated: it is whatever somebody typed.
    return _problem(404, "There is no run of that name in the folder, or no longer.")


def _plain(status: int, sentence: str) -> Response:
    body = json.dumps({"problem": sentence}).encode("ascii")
    return Response(body, status, media_type="application/json")


async def _missing(request: Request, error: Exception) -> Response:
    del request, error
    return _problem(404, "There is no such page.")


async def _refused(request: Request, error: Exception) -> Response:
    """A run that is damaged or went away between two looks."""
    if request.url.path.endswith(".json"):
        return _plain(409, str(error))
    return _problem(409, str(error))
