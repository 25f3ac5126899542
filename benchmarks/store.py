"""Size and speed of a run on disk: ``python3 dev.py bench store``.

Writes a run of random walks, the worst case: a row of every quantity of every parameter at every
step, none of which deflates well. Prints the size on disk, the time a row takes, and how long each
kind of reading takes. ``--typical`` makes those quantities constant that are so in healthy runs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradmend.records.exponents import Exponents
from gradmend.records.history import QUANTITIES, Column, Event, RunFacts
from gradmend.store.reader import open_run
from gradmend.store.writer import RunWriter

CONSTANT = {"state": 2.0, "zero_share": 0.0, "non_finite": 0.0, "underflow_share": 0.0}
"""Quantities of a healthy run's gradient that hardly ever change."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--quantities", type=int, default=len(QUANTITIES["gradient"]))
    parser.add_argument("--typical", action="store_true")
    parser.add_argument("--memory", action="store_true", help="keep the run in memory")
    arguments = parser.parse_args()
    names = (*QUANTITIES["gradient"], "more", "still_more")[: arguments.quantities]
    with tempfile.TemporaryDirectory() as base:
        folder = None if arguments.memory else Path(base) / "run"
        began = peak()
        writer = write(folder, arguments.columns, arguments.steps, names, arguments.typical)
        print(f"memory: {peak() - began:.0f} MB more than at the beginning")
        if folder is None:
            reader = writer.reader()
        else:
            writer.close()
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(f"on disk: {size / 1e6:.1f} MB, after closing")
            print(f"open: {timed(lambda: open_run(folder)):.1f} ms")
            reader = open_run(folder)
        middle, last = f"p{arguments.columns // 2}", arguments.steps // 2
        quantity = names[min(1, len(names) - 1)]
        readings: dict[str, Callable[[], object]] = {
            "series of one column": lambda: reader.series("gradient", quantity, middle),
            "band of one column": lambda: reader.band("gradient", quantity, middle),
            "profile of one step": lambda: reader.profile("gradient", quantity, last),
            "matrix of 200 rows": lambda: reader.matrix("gradient", quantity, 200),
            "histograms of one column": lambda: reader.histograms("gradient", middle),
            "events": lambda: reader.events(),
            "history of 512 rows": lambda: reader.history(512),
        }
        for name, read in readings.items():
            print(f"{name}: {timed(read):.1f} ms")


def write(
    folder: Path | None, columns: int, steps: int, names: tuple[str, ...], typical: bool
) -> RunWriter:
    """Write the run; the walk itself is not in the times."""
    draw = np.random.default_rng(0)
    writer = RunWriter.create(folder, RunFacts(name="bench"))
    writer.columns("gradient", [Column(name=f"p{i}") for i in range(columns)], at=0)
    walks = draw.normal(-3, 2, (len(names), columns)).astype(np.float32)
    spent = []
    busy = 0.0
    for step in range(steps):
        walks += draw.standard_normal(walks.shape, dtype=np.float32) * np.float32(0.05)
        row: dict[str, np.ndarray] = dict(zip(names, walks, strict=True))
        if typical:
            row |= {name: np.full(columns, CONSTANT[name]) for name in names if name in CONSTANT}
        began, cpu = time.perf_counter(), time.process_time()
        writer.append("gradient", step, row)
        if step % 100 == 0:
            bins = {-e: 1000 + step * e for e in range(1, 25)}
            writer.histogram(
                "gradient", step, dict.fromkeys(range(columns), Exponents(counts=bins))
            )
        if step % 1000 == 0:
            writer.event(Event(step=step, kind="look", text="a look"))
        if writer.due():
            writer.flush()
        spent.append(1e3 * (time.perf_counter() - began))
        busy += time.process_time() - cpu
    rate = statistics.fmean(spent)
    print(f"{columns} columns x {len(names)} quantities x {steps} steps")
    print(
        f"a row: {rate:.3f} ms with its share of flushes, {1e3 * busy / steps:.3f} ms of a core"
        f" (a plain one {statistics.median(spent):.3f} ms, the longest {max(spent):.0f} ms)"
    )
    return writer


def timed(call: Callable[[], object]) -> float:
    """Milliseconds, median of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def peak() -> float:
    """The most memory the process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
