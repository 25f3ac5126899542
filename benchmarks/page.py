"""The page in a real browser, and what its server costs: ``python3 dev.py bench page``.

A run of 1,000 parameter tensors over 100,000 steps (``page_data.py`` writes it) is looked at in
Chromium, through the live server: bytes of the page without its data, milliseconds to the first
picture, frame times while the pointer moves over the heat map. Then a training is watched and its
steps timed in windows, in turn with nobody and somebody looking at its page: the ratio of each
window with a look to the mean of its neighbours without one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import page_data

LAUNCH = ["--no-sandbox", "--disable-gpu"]
WINDOW = 2.5
"""Seconds of a window; its first half second and its last third are not counted."""
MOVES = 240

DRAWN = """() => new Promise((done) => {
  const drawn = () => {
    const heat = document.querySelector('#fig-heat-gradient');
    heat && heat.querySelector('canvas') && heat.classList.contains('drawn')
      ? requestAnimationFrame(() => done(performance.now())) : requestAnimationFrame(drawn);
  };
  drawn();
})"""
FRAMES = """async (moves) => {
  const stage = document.querySelector('#fig-heat-gradient .heat-stage');
  const box = stage.getBoundingClientRect(), frames = [], work = [];
  let last = null;
  for (let i = 0; i < moves; i++) {
    const x = box.left + box.width * (0.25 + 0.7 * i / moves);
    const y = box.top + box.height * (0.1 + 0.8 * ((i * 7) % moves) / moves);
    const began = performance.now();
    stage.dispatchEvent(new PointerEvent('pointermove', { clientX: x, clientY: y, bubbles: true }));
    work.push(performance.now() - began);
    const now = await new Promise((done) => requestAnimationFrame(done));
    if (last !== null) frames.push(now - last);
    last = now;
  }
  return { frames, work };
}"""


def main() -> None:
    """Measure both, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of the long run; written if not there")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the watched training")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--times", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train, arguments.seconds, arguments.times)
        return
    with tempfile.TemporaryDirectory() as base:
        folder = arguments.run or Path(base) / "long" / "run"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            page_data.write(folder, 1000, 100_000)
        first_visit(folder)
        look_at(folder)
        cost(Path(base), arguments.seconds)


def first_visit(folder: Path) -> None:
    """Processor time of the server: until it listens, while it prepares, for the first page."""
    server, address = serve(folder)
    try:
        begun = known = spent(server.pid)
        time.sleep(1.0)
        while spent(server.pid) > known:  # until it rests
            known = spent(server.pid)
            time.sleep(3.0)
        urllib.request.urlopen(address).read()
        page = spent(server.pid) - known
    finally:
        server.terminate()
        server.wait()
    print(
        f"server's processor time (s): {begun:.2f} until it listens, {known - begun:.2f} to read"
        f" the run before anybody asks, {page:.2f} for the first visitor's page"
    )


def spent(process: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def look_at(folder: Path) -> None:
    """The long run in Chromium."""
    from playwright.sync_api import sync_playwright

    server, address = serve(folder)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=LAUNCH)
            firsts = []
            for _ in range(5):  # a context of its own each time: nothing is cached
                page = browser.new_context(viewport={"width": 1280, "height": 1600}).new_page()
                page.goto(address, wait_until="commit")
                firsts.append(page.evaluate(DRAWN))
            page.locator("#fig-heat-gradient").scroll_into_view_if_needed()
            page.wait_for_timeout(1000)
            found = page.evaluate(FRAMES, MOVES)
            html = page.request.get(address).text()
            browser.close()
    finally:
        server.terminate()
        server.wait()
    data = sum(map(len, re.findall(r'<script type="application/json".*?</script>', html, re.S)))
    rest = len(html.encode()) - data
    packed = len(gzip.compress(html.encode()))
    print(f"page without data: {rest / 1e3:.1f} kB ({packed / 1e3:.1f} kB as sent by gzip)")
    print(f"first heat map drawn after (ms): {', '.join(f'{first:.0f}' for first in firsts)}")
    frames, work = found["frames"], found["work"]
    print(
        f"pointer over the heat map: frame {of(frames)} ms, handling one move {of(work)} ms"
        f" (median, 95th percentile, longest of {MOVES})"
    )


def of(times: list[float]) -> str:
    """Median, 95th percentile and longest."""
    ordered = sorted(times)
    shown = (statistics.median(ordered), ordered[int(0.95 * len(ordered))], ordered[-1])
    return " / ".join(f"{each:.1f}" for each in shown)


def serve(place: Path) -> tuple[subprocess.Popen[str], str]:
    """A live server on a free port, and the address of the run's page."""
    command = [sys.executable, "-m", "gradmend", "live", str(place), "--port", "0", "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found is not None
    return server, f"{found[0]}run/{place.name}"


def cost(base: Path, seconds: float) -> None:
    """A training with and without somebody looking, window by window."""
    folder, times = base / "runs" / "a", base / "times.txt"
    folder.parent.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--train", str(folder), "--times", str(times)]
    training = subprocess.Popen([*command, "--seconds", str(seconds)], env=environment)
    ends = time.time() + seconds
    while not (folder / "rank-0.db").exists():
        time.sleep(0.2)
    server, address = serve(folder)
    try:
        time.sleep(3)
        windows: list[tuple[float, float, bool]] = []
        while time.time() < ends - WINDOW - 3:
            began, looking = time.time(), len(windows) % 2 == 1
            if looking:
                watch(address, began + WINDOW)
            else:
                time.sleep(WINDOW)
            windows.append((began + 0.5, time.time() - 0.3, looking))
    finally:
        training.wait()
        server.terminate()
        server.wait()
    rows = [tuple(map(float, line.split())) for line in times.read_text().splitlines()]
    for column, name in ((1, "wall"), (2, "processor")):
        medians = [
            statistics.median([row[column] for row in rows if begin < row[0] < end])
            for begin, end, _ in windows
        ]
        ratios = [
            medians[at] / ((medians[at - 1] + medians[at + 1]) / 2)
            for at in range(1, len(windows) - 1)
            if windows[at][2]
        ]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"a step with somebody looking, {name} time: {middle:.3f} times that without"
            f" (quartiles {low:.3f} to {high:.3f}, {len(ratios)} windows, {len(rows):,} steps)"
        )


def watch(address: str, until: float) -> None:
    """What a page does: hold the stream, fetch what it says has changed."""
    with urllib.request.urlopen(f"{address}/stream", timeout=20) as stream:
        name = ""
        while time.time() < until:
            line = stream.readline().decode()
            if line.startswith("event: "):
                name = line[7:].strip()
            if line.startswith("data: ") and name == "figures":
                changed: Any = json.loads(line[6:])
                for figure in [each for each in changed if each in ("heat-gradient", "training")]:
                    urllib.request.urlopen(f"{address}/figure/{figure}.json", timeout=20).read()


def train(folder: Path, seconds: float, times: Path) -> None:
    """Thirty layers of 128, watched; writes when each step ended and what it took."""
    import torch
    from torch import nn

    import gradmend

    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = [part for _ in range(30) for part in (nn.Linear(128, 128), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    ends = time.time() + seconds
    with times.open("w") as out, gradmend.watch(model, run=folder):
        while time.time() < ends:
            wall, cpu = time.perf_counter(), time.process_time()
            x = torch.randn(64, 128)
            loss = nn.functional.cross_entropy(model(x), x[:, :10].argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            out.write(f"{time.time()} {spent[0]} {spent[1]}\n")


if __name__ == "__main__":
    main()
