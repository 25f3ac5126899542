import gzip
import hashlib
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gradmend.live.app import MOST_COMPARED, MOST_KEPT
from gradmend.records.history import Column, RunFacts
from gradmend.store.writer import RunWriter

HOSTILE = [
    "</script><img src=x onerror=alert(1)>".replace("/", "\u2215"), "<b>bold<b>", "a&b=c?d#e",
    "\u202egnp.exe", "%2e%2e", "..", "figure", "stream", 'q"uo\'te', "sp ace", "é ü", "a" * 200,
    "new\nline", "report.json",
]  # fmt: skip


def policy(page: str) -> str:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found is not None
    return found[1]


def test_the_list_names_every_run_and_leads_to_it(begin: Any, server: Any) -> None:
    begin("first", started_at="2026-01-01T00:00:00+00:00").finish()
    begin("second", started_at="2026-01-02T00:00:00+00:00")
    page = server()("/")
    assert page.status_code == 200
    assert page.text.index('href="/run/second"') < page.text.index('href="/run/first"')
    for word in ("2 runs", "running", "finished", "last loss", "verdict", "begun"):
        assert word in page.text
    assert 'data-source="/runs"' in page.text


def test_the_page_allows_its_own_script_alone_and_no_frame(begin: Any, server: Any) -> None:
    begin("first")
    asks = server()
    for path in ("/", "/run/first", "/nothing"):
        answer = asks(path)
        header = answer.headers["content-security-policy"]
        assert header == f"{policy(answer.text)}; frame-ancestors 'none'"
        assert "default-src 'none'" in header
        assert re.search(r"script-src 'sha256-[^']+'(;|$)", header)
        assert "unsafe-eval" not in header


def test_without_runs_the_page_waits_for_one(server: Any, begin: Any) -> None:
    asks = server("runs")  # not even the folder is there
    assert "Waiting for a run" in asks("/").text
    begin("first")
    assert "1 run" in asks("/").text


def test_a_named_run_is_gone_to_at_once(begin: Any, server: Any) -> None:
    begin("first")
    begin("other")
    asks = server("runs/first")
    answer = asks("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/run/first")
    assert asks("/run/first").status_code == 200
    assert asks("/run/other").status_code == 404


def test_the_page_of_a_run_tells_its_report(begin: Any, server: Any) -> None:
    begin("first").finish()
    asks = server()
    page = asks("/run/first")
    assert page.status_code == 200
    assert 'data-source="/run/first"' in page.text
    assert 'id="section-verdict"' in page.text
    report = asks.json("/run/first/report.json")
    assert report["watched"]["steps"] == 10
    assert report["watched"]["status"] == "finished"


def test_figures_are_served_packed_where_that_is_accepted(begin: Any, server: Any) -> None:
    begin("first")
    asks = server()
    page = asks("/run/first").text
    ids = re.findall(r'data-figure="([^"]+)"', page)
    assert "training" in ids
    for name in ids:
        plain = asks(f"/run/first/figure/{quote(name)}.json", headers={"accept-encoding": "br"})
        packed = asks(f"/run/first/figure/{quote(name)}.json", headers={"accept-encoding": "gzip"})
        none = asks(
            f"/run/first/figure/{quote(name)}.json", headers={"accept-encoding": "gzip;q=0"}
        )
        assert "content-encoding" not in plain.headers
        assert "content-encoding" not in none.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.json() == plain.json() == none.json()
        assert plain.json()["id"] == name
        assert plain.headers["content-type"] == "application/json"
    raw = gzip.decompress(gzip.compress(plain.content))
    assert json.loads(raw)["id"] == ids[-1]


def test_the_books_of_looks_are_served(begin: Any, server: Any) -> None:
    # Given a run that was looked at twice, when its page is asked for,
    training = begin("first", steps=0)
    training.look(-3.0)
    training.steps(10)
    training.look(-5.0)
    training.finish()
    asks = server()
    page = asks("/run/first").text
    # then the newest books have a place, and the figure offers those of the first look.
    assert page.count('data-figure="ledger"') == 1 and "spec-ledger" not in page
    newest = asks.json("/run/first/figure/ledger.json")
    first = asks.json("/run/first/figure/ledger-first.json")
    assert newest["choices"] == first["choices"]
    assert newest["choices"] == [
        ["ledger-first", "On the first look"],
        ["ledger", "After 10 steps"],
    ]
    assert "\N{MINUS SIGN}5.00" in newest["words"] and "\N{MINUS SIGN}3.00" in first["words"]
    assert asks.json("/run/first/figure/before-after.json")["kind"] == "lines"
    # And a server that has shown no page yet knows them too.
    assert server()("/run/first/figure/ledger-first.json").status_code == 200


def test_each_rank_of_a_run_has_its_page(begin: Any, server: Any, tmp_path: Path) -> None:
    # Given a training of two processes, which saw different losses,
    begin("alone").finish()
    training = begin("both", steps=20, rank=0, ranks=2)
    facts = {**training.facts, "rank": 1, "ranks": 2, "steps": 5}
    other = RunWriter.create(training.folder, RunFacts(**facts), rank=1)
    other.columns("step", [Column(name="SGD", kind="SGD")], at=0)
    for step in range(5):
        other.append("step", step, {"loss": [7.0 - step]})
    other.close()
    training.finish()
    asks = server()
    # when either is asked for, then its own numbers are shown, and the way to the other;
    first, second = asks("/run/both").text, asks("/run/both/rank/1").text
    assert '<b>0</b> <a href="/run/both/rank/1">1</a>' in first
    assert '<a href="/run/both">0</a> <b>1</b>' in second
    assert 'data-source="/run/both/rank/1"' in second
    assert asks.json("/run/both/report.json")["watched"]["steps"] == 20
    told = asks.json("/run/both/rank/1/report.json")["watched"]
    assert (told["steps"], told["rank"], told["ranks"], told["loss_last"]) == (5, 1, 2, 3.0)
    losses = asks.json("/run/both/rank/1/figure/training.json")["series"][0]["values"]
    assert losses["shape"] == [5]
    # a run of one process has no such choice, and what is not there is not there.
    assert "Seen by rank" not in asks("/run/alone").text
    for path in ("/run/both/rank/2", "/run/alone/rank/1", "/run/both/rank/-1", "/run/both/rank/x"):
        assert asks(path).status_code == 404
    # A link that leads out of the folder is none of its ranks.
    (tmp_path / "elsewhere.db").write_bytes((training.folder / "rank-1.db").read_bytes())
    (training.folder / "rank-3.db").symlink_to(tmp_path / "elsewhere.db")
    assert asks("/run/both/rank/3").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/run/none", "/run/none/report.json", "/run/none/stream", "/run/none/figure/training.json",
     "/run/first/figure/none.json", "/run/first/figure/../report.json.json", "/run/", "/run",
     "/nothing", "/favicon.ico", "/run/first/", "/run/first/manifest.json", "/static/x",
     "/run/%2e%2e", "/run/..%2f..%2fetc%2fpasswd", "/run/first%00", "/compare?run=first&run=none",
     "/compare/first/none/stream", "/compare/first/none/figure/compare-loss.json"],
)  # fmt: skip
def test_what_is_not_there_is_said_without_repeating_it(begin: Any, server: Any, path: str) -> None:
    begin("first")
    answer = server()(path)
    assert answer.status_code == 404, answer.text[-300:]
    assert "Traceback" not in answer.text
    assert "passwd" not in answer.text


@pytest.mark.parametrize("path", ["/", "/run/first", "/healthz", "/run/first/report.json"])
def test_head_is_answered_without_a_body(begin: Any, server: Any, path: str) -> None:
    begin("first")
    answer = server()(path, method="HEAD")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading(begin: Any, server: Any, method: str) -> None:
    begin("first")
    for path in ("/", "/run/first", "/nothing"):
        assert server()(path, method=method).status_code == 405


def test_strangers_are_refused_before_anything_is_read(begin: Any, server: Any) -> None:
    begin("first")
    asks = server()
    assert asks("/run/first", headers={"host": "evil.com"}).status_code == 400
    answer = asks("/run/first", headers={"origin": "http://evil.com"})
    assert answer.status_code == 403
    assert "first" not in answer.text


@pytest.mark.parametrize("name", [n for n in HOSTILE if n != ".."])
def test_hostile_names_are_links_that_work_and_text_that_does_nothing(
    begin: Any, server: Any, name: str
) -> None:
    # given a run and a model of that name
    begin(name, models=(name,)).finish()
    begin("plain")
    asks = server()
    # when
    listed = asks("/").text
    (href,) = [h for h in re.findall(r'<a href="(/run/[^"]*)"', listed) if "plain" not in h]
    page = asks(html.unescape(href))
    # then
    assert page.status_code == 200
    compared = asks(f"/compare?run={quote(name, safe='')}&run=plain")
    assert compared.status_code == 200
    source = re.search(r'data-source="([^"]*)"', compared.text)
    assert source is not None
    figure = asks(f"{html.unescape(source[1])}/figure/compare-loss.json")
    assert len(figure.json()["series"]) == 2
    for text in (listed, page.text, compared.text):
        for mark in ("<b>bold", "<img", "\u202e", 'q"uo'):
            assert mark not in text, mark
    assert asks(f"/run/{quote(name, safe='')}/report.json").status_code == 200


def test_a_damaged_run_is_a_sentence(begin: Any, server: Any, tmp_path: Path) -> None:
    begin("bad").finish()
    begin("good")
    (tmp_path / "runs" / "bad" / "rank-0.db").write_bytes(b"x" * 9000)
    asks = server()
    page = asks("/run/bad")
    assert page.status_code == 200
    assert "damaged" in page.text
    assert 'data-source="/run/bad"' in page.text  # and waits for it to be mended
    assert asks("/run/bad/report.json").status_code == 409
    assert "damaged" in asks("/run/bad/figure/training.json").json()["problem"]
    assert "damaged" in asks("/").text
    assert "damaged" in asks("/compare?run=bad&run=good").text


def test_a_run_that_has_written_nothing_yet_is_waited_for(
    begin: Any, server: Any, tmp_path: Path
) -> None:
    training = begin("first", steps=0)
    asks = server()
    assert "Waiting for the first training step" in asks("/run/first").text
    training.steps()
    assert asks.json("/run/first/report.json") is not None


def test_a_run_that_disappears_is_said_to_be_gone(begin: Any, server: Any, tmp_path: Path) -> None:
    begin("first").finish()
    asks = server()
    assert asks("/run/first").status_code == 200
    shutil.rmtree(tmp_path / "runs" / "first")
    for path in ("/run/first", "/run/first/report.json", "/run/first/figure/training.json"):
        assert asks(path).status_code == 404
    assert "Waiting for a run" in asks("/").text


def test_runs_are_compared_in_columns(begin: Any, server: Any) -> None:
    for name in ("a", "b", "c"):
        begin(name)
    asks = server()
    page = asks("/compare?run=b&run=a&run=c&run=b").text
    assert "3 runs side by side" in page
    assert page.index('href="/run/b"') < page.index('href="/run/a"') < page.index('href="/run/c"')
    assert page.count('data-figure="compare-loss"') == 1
    figure = asks.json("/compare/b/a/c/figure/compare-loss.json")
    assert [series["name"] for series in figure["series"]] == ["b", "a", "c"]


def test_too_few_and_too_many_runs_are_not_compared(begin: Any, server: Any) -> None:
    names = [f"run{k}" for k in range(MOST_COMPARED + 1)]
    for name in names:
        begin(name, steps=0)
    asks = server()
    for some in ([], names[:1], names[:1] * 3, names):
        query = "&".join(f"run={name}" for name in some)
        assert asks(f"/compare?{query}").status_code == 400
    query = "&".join(f"run={name}" for name in names[:-1])
    assert asks(f"/compare?{query}").status_code == 200


def test_runs_that_nobody_looks_at_are_forgotten(begin: Any, server: Any) -> None:
    training = begin("run0")
    training.finish()
    for k in range(1, MOST_KEPT + 3):
        shutil.copytree(training.folder, training.folder.with_name(f"run{k}"))
    asks = server()
    for k in range(MOST_KEPT + 3):
        assert asks(f"/run/run{k}/report.json").status_code == 200
    assert len(asks.live._followers) == MOST_KEPT


def test_nothing_is_written(begin: Any, server: Any, tmp_path: Path) -> None:
    begin("first").finish()
    begin("second").finish("crashed")
    before = contents(tmp_path)
    asks = server()
    for path in ("/", "/run/first", "/run/first/report.json", "/run/first/figure/training.json",
                 "/compare?run=first&run=second", "/compare/first/second/figure/compare-loss.json",
                 "/nothing"):  # fmt: skip
        asks(path)
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
