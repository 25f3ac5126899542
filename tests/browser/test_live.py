"""The live page in a browser: a real training beside it, a server that dies, runs side by side."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import gradmend
from gradmend.records.history import Column, RunFacts
from gradmend.records.ledger import Booked, Entry, Ledger
from gradmend.store.writer import RunWriter

pytestmark = pytest.mark.browser

HOME = {
    **os.environ,
    "PYTHONPATH": str(Path(gradmend.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
}
PATIENCE = 60_000
"""Milliseconds until a test gives up."""
TRAINING = """
import sys, time, torch, gradmend
folder, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
torch.manual_seed(0)
torch.set_num_threads(1)
layers = [layer for _ in range(3) for layer in (torch.nn.Linear(16, 16), torch.nn.Tanh())]
model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 4))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
with gradmend.watch(model, run=folder):
    for _ in range(steps):
        x = torch.randn(32, 16)
        loss = torch.nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(pause)
"""


class Place:
    """A folder of runs, its server, and trainings beside it: all processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.script = folder / "train.py"
        self.script.write_text(TRAINING)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen[str]] = []

    def train(self, name: str, steps: int = 100_000, pause: float = 0.02) -> subprocess.Popen[str]:
        return self._start(str(self.script), str(self.runs / name), str(steps), str(pause))

    def serve(self) -> subprocess.Popen[str]:
        arguments = ("-m", "gradmend", "live", str(self.runs), "--port", str(self.port))
        process = self._start(*arguments)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("gradmend live")
        return process

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=HOME, stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def written(self, name: str) -> int:
        """Steps that the run's manifest tells; 0 before there is one."""
        try:
            text = (self.runs / name / "manifest.json").read_text()
        except FileNotFoundError:
            return 0
        return int(json.loads(text)["run"]["steps"])

    def wait_for(self, name: str, steps: int) -> None:
        until = time.monotonic() + PATIENCE / 1000
        while self.written(name) < steps:
            assert time.monotonic() < until, "the training does not train"
            time.sleep(0.05)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.communicate()


@pytest.fixture
def live(page: Any) -> Any:
    page.set_default_timeout(PATIENCE)
    return page


def says(page: Any, words: str) -> None:
    page.wait_for_function(
        "words => document.getElementById('status').textContent.includes(words)", arg=words
    )


def test_a_step_is_shown_within_a_second_of_being_written(live: Any, place: Place) -> None:
    # given a page that notes when it shows a step, and a watch that notes when it was written
    place.train("first")
    place.wait_for("first", 10)
    place.serve()
    live.goto(f"{place.address}/run/first")
    says(live, "running, step")
    live.evaluate(
        """() => {
            window.shown = [];
            const status = document.getElementById("status");
            const note = () => window.shown.push([Number(status.dataset.step), Date.now() / 1000]);
            new MutationObserver(note).observe(status, { attributeFilter: ["data-step"] });
        }"""
    )
    written: list[tuple[int, float]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            step = place.written("first")
            if not written or step != written[-1][0]:
                written.append((step, time.time()))

    noting = threading.Thread(target=watch)
    noting.start()
    # when it trains for some flushes
    live.wait_for_function("() => window.shown.length >= 8")
    ended.set()
    noting.join()
    # then
    times = dict(written[1:])  # the first may have been there before
    delays = [at - times[step] for step, at in live.evaluate("() => window.shown") if step in times]
    print(f"shown after {median(delays):.2f} s (median), at most {max(delays):.2f} s")
    assert len(delays) >= 5
    assert median(delays) < 1.0


def test_figures_and_words_follow_the_training(live: Any, place: Place) -> None:
    # given
    training = place.train("first", pause=0.005)
    place.wait_for("first", 30)
    place.serve()
    live.goto(f"{place.address}/run/first")
    live.locator("#fig-training").scroll_into_view_if_needed()
    live.wait_for_selector("#fig-training.drawn")
    before = live.evaluate(LAST_STEP)
    told = live.locator("#section-verdict").inner_text()
    # when it goes on
    live.wait_for_function(f"before => ({LAST_STEP})() > before + 100", arg=before)
    live.wait_for_function(
        "told => document.getElementById('section-verdict').innerText !== told", arg=told
    )
    # and is killed
    training.kill()
    training.wait()
    says(live, "killed")
    live.wait_for_function("() => document.title.includes('killed')")
    live.wait_for_function(
        "() => document.getElementById('section-verdict').innerText.includes('killed')"
    )


LAST_STEP = """() => {
    const entry = window.gm.figures.get(document.getElementById("fig-training"));
    const at = window.gm.array(entry.spec.at).values;
    return at[at.length - 1];
}"""


def test_what_somebody_does_on_the_page_outlasts_its_changes(live: Any, place: Place) -> None:
    # given a folded part opened, a link focused, the page scrolled to the figures
    place.train("first", pause=0.005)
    place.wait_for("first", 30)
    place.serve()
    live.goto(f"{place.address}/run/first")
    live.locator("#fig-training").scroll_into_view_if_needed()
    live.wait_for_selector("#fig-training.drawn")
    live.evaluate(
        """() => {
            window.canvas = document.querySelector("#fig-training .fig-body").firstElementChild;
            const focused = document.querySelector("#fig-training [tabindex='0']");
            if (focused) focused.focus({ preventScroll: true });
            window.focused = document.activeElement;
            window.top0 = document.getElementById("fig-training").getBoundingClientRect().top;
            window.changes = 0;
            const count = (records) => (window.changes += records.length);
            const section = document.getElementById("section-verdict");
            const all = { subtree: true, childList: true, characterData: true };
            new MutationObserver(count).observe(section, all);
        }"""
    )
    # when the words have changed
    live.wait_for_function("() => window.changes > 0")
    # then nothing else has
    assert live.evaluate(
        """() => [
            window.canvas.isConnected,
            document.activeElement === window.focused,
            Math.abs(document.getElementById("fig-training").getBoundingClientRect().top
                - window.top0) < 2,
        ]"""
    ) == [True, True, True]


CHANGE = """([before, after]) => {
    const place = document.createElement("section");
    const next = document.createElement("div");
    place.innerHTML = before;
    next.innerHTML = after;
    document.querySelector("main").append(place);
    const seen = [...place.querySelectorAll("*")];
    for (const element of place.querySelectorAll("[data-test-open]")) element.open = true;
    const focused = place.querySelector("[data-test-focus]");
    if (focused) focused.focus();
    window.gm.live.morph(place, next);
    const told = {
        html: place.innerHTML,
        kept: [...place.querySelectorAll("*")].filter((element) => seen.includes(element)).length,
        focused: focused ? document.activeElement === focused : null,
    };
    place.remove();
    return told;
}"""


@pytest.fixture
def change(live: Any, place: Place) -> Callable[[str, str], Any]:
    """Changes one markup into another, as when a section is replaced."""
    place.runs.mkdir()
    place.serve()
    live.goto(f"{place.address}/")
    return lambda before, after: live.evaluate(CHANGE, [before, after])


def test_markup_is_changed_node_by_node(change: Callable[[str, str], Any]) -> None:
    cases = [
        ("<p>a</p>", "<p>a</p>", 1),
        ("<p>a</p>", "<p>b</p>", 1),
        ("", "<p>b</p><p>c</p>", 0),
        ("<p>b</p><p>c</p>", "", 0),
        ("<p>a <b>1</b> c</p>", "<p>a <b>2</b> <i>d</i></p>", 2),
        ("<p>a</p><ul><li>1</li></ul>", "<ul><li>1</li><li>2</li></ul><p>a</p>", 3),
        ('<p class="x" title="y">a</p>', '<p class="z" lang="en">a</p>', 1),
        ('<tr data-key="1"></tr>', '<div data-key="1"></div>', 0),
    ]
    for before, after, kept in cases:
        told = change(before, after)
        assert (told["html"], told["kept"]) == (after, kept), before


def test_rows_keep_their_own_when_others_come_between(
    change: Callable[[str, str], Any],
) -> None:
    rows = [f'<p data-key="{key}">{key}</p>' for key in "abcd"]
    told = change("".join(rows), "".join([rows[3], rows[1], "<p>new</p>", rows[0]]))
    assert told["html"] == "".join([rows[3], rows[1], "<p>new</p>", rows[0]])
    assert told["kept"] == 3


def test_what_is_unfolded_focused_selected_or_drawn_stays(
    change: Callable[[str, str], Any],
) -> None:
    before = (
        "<details data-test-open><summary>s</summary>old</details>"
        '<p data-layer="a" class="x selected" aria-current="true">old</p>'
        '<figure class="fig" data-figure="loss"><b>drawn</b></figure>'
        '<button id="b" data-test-focus>old</button><a data-keep href="#here">filled in</a>'
    )
    after = (
        "<h3>more</h3><details><summary>s</summary>new</details>"
        '<p data-layer="a" class="x">new</p>'
        '<figure class="fig" data-figure="loss"></figure>'
        '<button id="b">new</button><a data-keep hidden></a>'
    )
    told = change(before, after)
    assert told["html"] == (
        '<h3>more</h3><details open=""><summary>s</summary>new</details>'
        '<p data-layer="a" class="x selected" aria-current="true">new</p>'
        '<figure class="fig" data-figure="loss"><b>drawn</b></figure>'
        '<button id="b">new</button><a data-keep="" href="#here">filled in</a>'
    )
    assert told["focused"]


def test_markup_from_the_server_runs_no_script(
    change: Callable[[str, str], Any], live: Any
) -> None:
    change("", "<img src=x onerror='window.hacked = 1'><script>window.hacked = 2</script>")
    live.wait_for_timeout(200)
    assert live.evaluate("() => window.hacked") is None


def test_it_finds_its_way_back_to_a_server_that_was_killed(live: Any, place: Place) -> None:
    # given
    place.train("first")
    place.wait_for("first", 10)
    server = place.serve()
    live.goto(f"{place.address}/run/first")
    says(live, "running, step")
    # when the server dies
    server.kill()
    server.wait()
    says(live, "connection lost, trying again")
    before = int(live.locator("#status").get_attribute("data-step"))
    place.wait_for("first", before + 20)
    # and comes back
    place.serve()
    # then the page goes on where the training is
    says(live, "running, step")
    live.wait_for_function(
        "before => Number(document.getElementById('status').dataset.step) > before", arg=before
    )


def test_a_run_is_shown_as_it_appears_and_two_are_compared(live: Any, place: Place) -> None:
    # given a folder that is not there yet
    place.serve()
    live.goto(f"{place.address}/")
    says(live, "waiting for a run")
    # when runs begin
    place.train("one")
    live.wait_for_selector("a[href='/run/one']")
    place.train("two", pause=0.01)
    live.wait_for_selector("a[href='/run/two']")
    says(live, "2 runs, 2 running")
    # and are marked
    assert live.locator("#compare").is_hidden()
    for name in ("one", "two"):
        live.check(f"input[data-run='{name}']")
    live.wait_for_timeout(2500)  # the list has changed meanwhile
    assert live.locator("input[data-run]:checked").count() == 2
    live.click("#compare")
    # then they stand side by side, and grow
    live.wait_for_selector("#fig-compare-loss.drawn")
    assert live.locator("table.compared thead th").all_inner_texts() == ["two", "one"]
    says(live, "2 of 2 runs running, step")
    steps = int(live.locator("#status").get_attribute("data-step"))
    live.wait_for_function(
        "before => Number(document.getElementById('status').dataset.step) > before", arg=steps
    )


def test_a_page_nobody_sees_gives_its_connection_back(live: Any, place: Place) -> None:
    place.train("first")
    place.wait_for("first", 10)
    place.serve()
    live.goto(f"{place.address}/run/first")
    says(live, "running, step")
    # a hidden page cannot be made here, but it can be said to be one
    live.clock.install()
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    live.evaluate(hide, True)
    live.clock.run_for(11_000)
    before = int(live.locator("#status").get_attribute("data-step"))
    place.wait_for("first", before + 60)
    assert int(live.locator("#status").get_attribute("data-step")) == before
    live.evaluate(hide, False)
    live.wait_for_function(
        "before => Number(document.getElementById('status').dataset.step) > before", arg=before
    )


def test_a_new_look_renews_the_ledger_and_leaves_what_somebody_chose(
    live: Any, place: Place
) -> None:
    # Given the page of a run that was looked at once,
    writer = RunWriter.create(place.runs / "first", RunFacts(name="first", models=("Net",)))
    writer.columns("step", [Column(name="Adam", kind="Adam")], at=0)

    def look(slot: str, step: int, decades: float) -> None:
        inside = Entry(name="sigmoid", kind="operation", cause="weights", decades=decades)
        layer = Entry(name="0", kind="module", decades=decades, children=(inside,))
        root = Entry(name="", kind="module", decades=decades, children=(layer,))
        ledger = Ledger(
            cotangent="loss", total_decades=decades, unexplained_decades=0.0, root=root,
            by_cause={"weights": decades},
        )  # fmt: skip
        writer.append("step", step, {"loss": [1.0]})
        writer.books(slot, Booked(step=step, ledger=ledger))
        writer.flush()

    look("first", 0, -3.0)
    place.serve()
    live.goto(f"{place.address}/run/first")
    live.locator("#fig-ledger").scroll_into_view_if_needed()
    live.wait_for_selector("#fig-ledger.drawn")
    tabs = live.locator("#fig-ledger [role=tab]")
    readout = live.locator("#fig-ledger .readout")
    assert tabs.count() == 0 and "\N{MINUS SIGN}3.00" in readout.inner_text()
    # when it is looked at again, the newest is shown, and the first can be chosen;
    look("newest", 10, -5.0)
    live.wait_for_selector("#fig-ledger [role=tab]")
    assert tabs.all_inner_texts() == ["On the first look", "After 10 steps"]
    assert "\N{MINUS SIGN}5.00" in readout.inner_text()
    tabs.first.click()
    live.wait_for_function(
        "() => document.querySelector('#fig-ledger .readout').innerText.includes('3.00')"
    )
    # when it is looked at once more, the choice stays, and the newest is the newest.
    look("newest", 20, -7.0)
    live.wait_for_function(
        "() => document.querySelectorAll('#fig-ledger [role=tab]')[1]?.innerText.includes('20')"
    )
    assert "\N{MINUS SIGN}3.00" in readout.inner_text()
    tabs.first.press("ArrowRight")
    live.wait_for_function(
        "() => document.querySelector('#fig-ledger .readout').innerText.includes('7.00')"
    )
    writer.close()
