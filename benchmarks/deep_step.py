"""What a step of a very deep plain net costs: ``python3 dev.py bench deep_step``.

One training step (forward, backward, Adam) of ``Linear`` and ``Tanh`` in turn, layer by layer and
as a trial runs it (``engine/trial/express.py``), interleaved in one run on one thread. Times are
this process's processor time per layer; ratios are medians over rounds. Peak memory is that of a
process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from gradmend.engine.trial import blocks, express, sequences


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 10, 30, 100, 1000, 10_000])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", action="store_true", help="a loop over a ModuleList")
    parser.add_argument("--peak", choices=["plain", "lent"], help="print the peak memory only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # From the first layer on, and whatever the width: where it begins to pay is what is asked.
    express.DEEP = sequences.DEEP = 1
    blocks.SMALL = 2**40
    if given.peak:
        print(peak(given))
        return
    print("| layers | us per layer, plain | lent | ratio | us per layer to lend and give back "
          "| judging: plain | lent | peak MB, plain | lent |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for depth in given.depths:
        row(depth, given)


def row(depth: int, given: argparse.Namespace) -> None:
    """Measure one depth."""
    step, judge, model, optimizer = made(depth, given)
    plain, lent, around, seen, fast = [], [], [], [], []
    few = max(1, 1000 // depth)
    step()
    for _ in range(given.rounds):
        plain.append(seconds(step, few))
        seen.append(seconds(judge, few))
        began = time.process_time()
        with express.express(model, optimizer):
            taken = time.process_time() - began
            step()
            lent.append(seconds(step, few))
            fast.append(seconds(judge, few))
            began = time.process_time()
        around.append(taken + time.process_time() - began)
    ratio = statistics.median(a / b for a, b in zip(plain, lent, strict=True))
    times = [1e6 * min(t) / depth for t in (plain, lent, around, seen, fast)]
    command = [sys.executable, __file__, *sys.argv[1:], "--depths", str(depth)]
    peaks = [
        subprocess.run([*command, "--peak", kind], capture_output=True, text=True, check=True)
        for kind in ("plain", "lent")
    ]
    print(
        f"| {depth} | {times[0]:.1f} | {times[1]:.1f} | {ratio:.2f} | {times[2]:.1f}"
        f" | {times[3]:.1f} | {times[4]:.1f} | {' | '.join(p.stdout.strip() for p in peaks)} |",
        flush=True,
    )


def peak(given: argparse.Namespace) -> int:
    """Megabytes of a process that takes two steps."""
    step, _, model, optimizer = made(given.depths[0], given)
    way: AbstractContextManager[Any] = contextlib.nullcontext()
    if given.peak == "lent":
        way = express.express(model, optimizer)
    with way:
        step()
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def made(depth: int, given: argparse.Namespace) -> tuple[Any, Any, nn.Module, Any]:
    """A training step, a forward pass, and what they work on."""
    torch.manual_seed(0)
    width = given.width
    start = nn.init.orthogonal_(torch.empty(width, width), 1.0)
    model: nn.Module = Looped(depth, width) if given.loop else chain(depth, width)
    with torch.no_grad():
        for p in model.parameters():
            if p.shape == start.shape:
                p.copy_(start)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    x, y = torch.randn(given.batch, 64), torch.randint(0, 10, (given.batch,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def judge() -> None:
        with torch.no_grad():
            model(x)

    return step, judge, model, optimizer


def chain(depth: int, width: int) -> nn.Sequential:
    """A plain net in one container."""
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), *layers, nn.Linear(width, 10))


class Looped(nn.Module):
    """The same, with a loop of its own: only the optimizer's part is lent."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.tanh(self.first(x))
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.last(x)


def seconds(run: Any, times: int) -> float:
    """Processor time of one run."""
    began = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - began) / times


if __name__ == "__main__":
    main()
