"""What each layer of a very deep plain network costs: ``python3 dev.py bench depth_cost``.

Plain networks as they come, ``Linear(784, 32), phi, [Linear(32, 32), phi] x (L - 1), Linear(32,
10)`` in torch's default initialisation, 64 samples, Adam and cross entropy; with ``--net conv``
convolutions of 8 channels on 16 images of 16 x 16. Each depth is measured in a process of its own,
on one thread, by CPU time: one plain training step, everything saved and put back (a snapshot), the
look, the rules on it, the prescribing, the edits of the first prescriptions with the way back, and
the report as values, text and page. Everything should be linear in depth: the last columns of a row
should be those of the row above. Also printed: the peak memory of the process after the look and at
the end, the total of the books with what a second pass leaves unexplained, and what is prescribed
first. ``--largest 100000`` takes about five minutes and goes there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits
from gradmend.engine.diagnose import diagnose
from gradmend.engine.examine import examine
from gradmend.engine.measure import Measurer
from gradmend.engine.prescribe import prescribe
from gradmend.engine.state import Snapshot
from gradmend.errors import GradmendError
from gradmend.probe.batch import Feeder
from gradmend.records.finding import Severity
from gradmend.registry import remedies, rules
from gradmend.renderers import html, text

DEPTHS = (10, 100, 1_000, 10_000, 100_000)
FUNCTIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
APPLIED = 4
"""Prescriptions applied and undone, the first ones."""
COLUMNS = ("step", "snapshot", "look", "rules", "prescribe", "edits and undo", "report")


def build(net: str, depth: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A plain network and a batch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    if net == "conv":
        for channels in (3, *[8] * (depth - 1)):
            layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU()]
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
        batch = torch.randn(16, 3, 16, 16), torch.randint(10, (16,))
        return nn.Sequential(*layers, *end), batch
    for width in (784, *[32] * (depth - 1)):
        layers += [nn.Linear(width, 32), FUNCTIONS[net]()]
    batch = torch.randn(64, 784), torch.randint(10, (64,))
    return nn.Sequential(*layers, nn.Linear(32, 10)), batch


def measured(net: str, depth: int) -> dict[str, Any]:
    """Seconds of everything at one depth, in this process."""
    torch.set_num_threads(1)
    model, batch = build(net, depth)
    optimizer = torch.optim.Adam(model.parameters())
    loss_fn = nn.CrossEntropyLoss()
    feeder = Feeder(loss_fn=loss_fn)
    found: dict[str, Any] = {"depth": depth}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        found[name] = found.get(name, 0.0) + time.process_time() - began
        return result

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(model(batch[0]), batch[1]).backward()
        optimizer.step()

    def back_and_forth() -> None:
        shot = Snapshot.take(model, optimizer)
        shot.restore()
        shot.put_back()

    rules(), remedies()  # their modules are loaded
    untouched = Snapshot.take(model, optimizer)
    step()
    timed("step", step)
    timed("snapshot", back_and_forth)
    untouched.put_back()
    del untouched
    measure = Measurer(model=model, batch=batch, feeder=feeder, optimizer=optimizer, seconds=0.0)
    report = timed("look", lambda: examine(measure))
    began = time.process_time()
    diagnose(report.trace)
    found["rules"] = time.process_time() - began
    found["look"] -= found["rules"]  # an examination without measurements is a look and the rules
    found["peak after the look"] = _peak()
    candidates = timed(
        "prescribe", lambda: prescribe(report.at_least(Severity.WARNING), report.trace)
    )
    for prescription in candidates.prescriptions[:APPLIED]:
        bench = Bench(
            model=model, optimizer=optimizer, run_batch=lambda edited: feeder.loss(edited, batch)
        )
        try:
            timed("edits and undo", lambda: apply_edits(bench, prescription.edits))  # noqa: B023
        except GradmendError as refusal:
            print(f"{'+'.join(prescription.remedies)} refused: {refusal}", file=sys.stderr)
        timed("edits and undo", bench.undo)
    timed("report", report.to_dict)
    timed("report", lambda: text.render(report, width=100, colour=False))
    page = timed("report", lambda: html.render(report))
    ledger = report.ledger
    return found | {
        "peak": _peak(),
        "page": len(page),
        "decades": ledger.total_decades if ledger else None,
        "unexplained": ledger.unexplained_decades if ledger else None,
        "first": ["+".join(p.remedies) for p in candidates.prescriptions[:3]],
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--net", choices=[*FUNCTIONS, "conv"], default="sigmoid")
    parser.add_argument("--largest", type=int, default=10_000, help="10000 where not given")
    parser.add_argument("--quick", action="store_true", help="10 and 100 layers")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.net, arguments.one)))
        return
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{arguments.net}; {os.cpu_count()} cores, one thread; Python {platform.python_version()},"
        f" torch {torch.__version__}{load}. CPU seconds; in brackets microseconds per layer.\n"
    )
    print(
        f"| layers | {' | '.join(COLUMNS)} | check and prescribe | peak memory: look, all"
        " | page | books, decades (unexplained) | first prescriptions |\n"
        f"|{' --- |' * (len(COLUMNS) + 6)}"
    )
    depths = [d for d in DEPTHS if d <= arguments.largest]
    if arguments.largest not in depths:
        depths.append(arguments.largest)
    for depth in (10, 100) if arguments.quick else depths:
        row(arguments.net, depth)


def row(net: str, depth: int) -> None:
    """One depth, in a process of its own."""
    command = [sys.executable, __file__, "--net", net, "--one", str(depth)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        print(f"| {depth:,} | failed with status {done.returncode} |", flush=True)
        return
    found = json.loads(done.stdout)
    whole = found["look"] + found["rules"] + found["prescribe"]
    cells = [seconds(found.get(name, 0.0), depth) for name in COLUMNS]
    unexplained = found["unexplained"]
    books = "none" if found["decades"] is None else f"{found['decades']:.4f}"
    left = "" if unexplained is None else f" ({unexplained:.0e})"
    print(
        f"| {depth:,} | {' | '.join(cells)} | {seconds(whole, depth)}"
        f" | {found['peak after the look'] / 1e9:.2f}, {found['peak'] / 1e9:.2f} GB"
        f" | {found['page'] / 1e6:.2f} MB | {books}{left} | {', '.join(found['first'])} |",
        flush=True,
    )


def seconds(value: float, depth: int) -> str:
    """``12.3 s (123)``: seconds, and microseconds per layer."""
    return f"{value:.3g} s ({value / depth * 1e6:.0f})"


def _peak() -> float:
    """Bytes of memory that the process held at most so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


if __name__ == "__main__":
    main()
