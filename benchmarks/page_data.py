"""The first picture of a long run: ``python3 dev.py bench page_data``.

Writes a run of 1,000 parameter tensors over 100,000 steps as a watcher would, every row a random
walk (the worst case: it hardly deflates), and measures what a page waits for: which figures there
are, the training over steps, the heat map of the gradient. Then every other figure, and the size
of each as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gradmend.records.exponents import Exponents
from gradmend.records.history import Column, Event, RunFacts
from gradmend.renderers.run_figures import catalogue
from gradmend.renderers.run_figures.smaller import REPORT_CELLS
from gradmend.store.reader import RunReader, open_run
from gradmend.store.writer import RunWriter

LAYER = ("q", "k", "v", "out", "up", "down", "norm1", "norm2", "gate", "mix")
"""Modules of a block, each with one parameter tensor."""
WALKS = ("log10_rms", "log10_max", "log10_min", "mean_share", "log10_raw")
STILL = {"state": 2.0, "zero_share": 0.0, "non_finite": 0.0, "underflow_share": 0.0}


def main() -> None:
    """Write where there is none yet, read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="folder of the run; read again if it is there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        folder = arguments.keep or Path(base) / "run"
        if not folder.exists():
            began = time.perf_counter()
            write(folder, arguments.columns, arguments.steps)
            print(f"written in {time.perf_counter() - began:.0f} s")
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"on disk: {size / 1e6:.1f} MB")
        measure(folder)


def measure(folder: Path) -> None:
    """Print how long each figure takes, cold in Python but warm in the disk's cache."""

    def first() -> None:
        reader = open_run(folder)
        catalogue.figures(reader)
        for name in ("training", "heat-gradient"):
            figure = catalogue.build(reader, name)
            assert figure is not None
            json.dumps(figure.plain())

    print(f"first picture (which there are, training, heat-gradient): {timed(first):.0f} ms")
    reader = open_run(folder)
    print(f"which there are: {timed(lambda: catalogue.figures(reader)):.1f} ms")
    total = report = 0
    for name in names(reader):
        spent = timed(lambda name=name: catalogue.build(reader, name))
        figure = catalogue.build(reader, name)
        if figure is None:
            print(f"{name}: nothing")
            continue
        data = len(json.dumps(figure.plain(), separators=(",", ":")))
        total += data
        small = catalogue.build(reader, name, most_cells=REPORT_CELLS)
        assert small is not None
        report += len(json.dumps(small.plain(), separators=(",", ":")))
        print(f"{name}: {spent:.0f} ms, {data / 1e3:.0f} kB")
    print(f"all figures: {total / 1e6:.2f} MB; as a report holds them: {report / 1e6:.2f} MB")


def names(reader: RunReader) -> Sequence[str]:
    """Every figure of the run."""
    return [name for section in catalogue.figures(reader).values() for name in section]


def write(folder: Path, columns: int, steps: int) -> None:
    """A run of random walks: gradients at every step, updates at every tenth, outputs rarer."""
    draw = np.random.default_rng(0)
    modules = [f"blocks.{at // len(LAYER)}.{LAYER[at % len(LAYER)]}" for at in range(columns)]
    writer = RunWriter.create(folder, RunFacts(name="bench", steps=steps))
    writer.columns("step", [Column(name="AdamW", kind="AdamW", order=0)], at=0)
    parameters = [
        Column(name=f"{module}.weight", module=module, kind="weight", order=at, shape=(256, 256),
               facts={"optimizer": 0, "trainable": True})
        for at, module in enumerate(modules)
    ]  # fmt: skip
    for table in ("gradient", "update"):
        writer.columns(table, parameters, at=0)
    outputs = [
        Column(name=name, module=name, kind="Linear", order=at) for at, name in enumerate(modules)
    ]
    writer.columns("output", outputs, at=0)
    walks = draw.normal(-3, 1, (len(WALKS), columns)).astype(np.float32)
    still = {name: np.full(columns, value) for name, value in STILL.items()}
    for step in range(steps):
        walks += draw.standard_normal(walks.shape, dtype=np.float32) * np.float32(0.02)
        norm = float(walks[0].mean())
        writer.append(
            "step",
            step,
            {"loss": [4 * math.exp(-step / steps) + 0.1 * draw.normal()], "log10_norm": [norm],
             "learning_rate": [1e-3], "log10_raw_norm": [norm + 0.2], "clip_limit": [1.0],
             "clip_factor": [0.5], "log10_update_norm": [norm - 3], "skipped": [0.0],
             "seconds": [0.01]},
        )  # fmt: skip
        writer.append("gradient", step, dict(zip(WALKS, walks, strict=True)) | still)
        if step % 10 == 0:
            ratio = {
                "log10_weight": walks[1],
                "log10_ratio": walks[2],
                "unchanged_share": still["zero_share"],
            }
            writer.append("update", step, ratio)
        if step % 20 == 0:
            share = 1 / (1 + np.exp(-walks[3]))
            writer.append(
                "output",
                step,
                {"log10_rms": walks[4], "flat_share": share, "dead_share": share / 2},
            )
        if step % 100 == 0:
            bins = {-e: 1000 + step * e for e in range(1, 25)}
            writer.histogram(
                "gradient", step, dict.fromkeys(range(columns), Exponents(counts=bins))
            )
        if step % 1000 == 0:
            writer.event(Event(step=step, kind="look", text="a look"))
        if writer.due():
            writer.flush()
    writer.close()


def timed(call: Callable[[], object]) -> float:
    """Milliseconds, median of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


if __name__ == "__main__":
    main()
