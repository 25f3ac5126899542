"""What watching costs, beside a plain step and other monitors: ``python3 dev.py bench overhead``.

Every variant trains in a process of its own, one of them awake at a time, a chunk of steps each,
round after round. Each chunk lies between two chunks of plain steps *of the same process*, while
the monitor has its hooks taken away, and its ratio is to their mean. So hooks, threads and memory
of one monitor are not felt by the others, peak memory can be told apart, and a watch is opened
once: what its tiers cost shows only over many steps. A plain process beside it would not do: two
plain ones differ by up to 7% for as long as they live, by where their memory lies. The row
``nothing`` is plain steps between plain steps: what cannot be told from noise.

The time for which gradmend's watch is paused is taken out of its budget, and after ``--warm``
seconds its accounts are set to where they are in a long run: the credit that every run has once is
spent, and what the first steps cost is paid back (``Gradmend.steady`` in ``_monitors.py``). So the
ratios are those of a long run; the first minutes cost up to that credit more. Dear tiers are rare:
a round has three chunks of gradmend, and the second table tells what ran how often. Where a tier
has not run, the ratio lacks its share of the budget (a full look costs some twenty steps, so short
benchmarks of slow nets have none). ``counted`` is the watch's own account of the same chunks; what
it leaves out is the difference to the measured time.

CPU time is that of the process and all its threads, and not of the second process that wandb
has. Set-up is the first step with everything before it (libraries are loaded, kernels read from
their cache, the model looked at), in no ratio.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _monitors import VARIANTS
from _nets import NETS


class Process:
    """One training in a process of its own."""

    def __init__(self, net: str, variant: str, folder: Path, small: bool) -> None:
        folder.mkdir(parents=True)
        env = dict(os.environ, OMP_NUM_THREADS="1", WANDB_MODE="offline", WANDB_SILENT="true")
        env["WANDB_CONFIG_DIR"] = env["WANDB_CACHE_DIR"] = str(folder)
        if VARIANTS[variant].kernels:
            env["GRADMEND_KERNELS"] = VARIANTS[variant].kernels
        worker = Path(__file__).with_name("_monitors.py")
        command = [sys.executable, str(worker), net, variant, str(folder)]
        self.said = (folder.parent / f"{variant}.txt").open("w+")
        self.process = subprocess.Popen(
            command + ["--small"] * small,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env=env,
            text=True,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        pipes = self.process.stdin, self.process.stdout
        assert pipes[0] is not None and pipes[1] is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=pipes[0], flush=True)
            answer: dict[str, Any] = json.loads(pipes[1].readline())
            return answer
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.wait()
            self.said.seek(0)
            lines = self.said.read().split("\n")
            raise RuntimeError(next((line for line in reversed(lines) if line), "?")) from None

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        self.said.close()


@dataclass
class Measured:
    """One variant of one net."""

    name: str
    process: Process | None = None
    failed: str = ""
    steps: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    wall: list[float] = field(default_factory=list)
    """Ratio of each round, and so below."""
    cpu: list[float] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    """Every chunk."""
    plain: int = 2
    """Steps of a plain chunk; ``steps``: of a watched one."""

    def total(self, clock: str) -> float:
        """Ratio over all chunks: what is rare counts as often as it was."""
        return ratio(self.taken, clock, self.steps)

    def counted(self, quantity: str) -> float:
        """What the watch booked in the measured chunks, summed."""
        return float(sum(c["after"][quantity] - c["before"][quantity] for c in self.taken))


def ratio(chunks: Sequence[dict[str, Any]], clock: str, steps: int) -> float:
    """What chunks took by a clock, over what as many plain steps would have."""
    usual = sum(chunk["plain"][clock == "cpu"] * steps for chunk in chunks)
    return float(sum(chunk[clock] for chunk in chunks) / usual)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--nets", help=f"default: {','.join(NETS)}; --quick: mlp")
    parser.add_argument("--variants", help=f"default: all of {', '.join(VARIANTS)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a chunk, at least")
    parser.add_argument("--warm", type=float, default=5.0, help="seconds before")
    parser.add_argument("--quick", action="store_true", help="a tiny net, one short round")
    arguments = parser.parse_args()
    nets, variants = list(NETS), [name for name in VARIANTS if name != "plain"]
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.warm = 1, 0.05, 0.05
        nets, variants = ["mlp"], ["foreach-norm", "gradmend", "gradmend-all"]
    nets = arguments.nets.split(",") if arguments.nets else nets
    variants = arguments.variants.split(",") if arguments.variants else variants
    for unknown in ({*nets} - {*NETS}) | ({*variants} - {*VARIANTS}):
        parser.error(f"there is no {unknown}")
    print(f"{facts()}\n{arguments.rounds} rounds of chunks of {arguments.seconds:g} s; {load()}.")
    for net in nets:
        bench(net, variants, arguments)
    print(f"\nAfterwards: {load()}.")


def facts() -> str:
    """The machine and the versions."""
    packages = ("torch", "numpy", "numba", "wandb", "tensorboard")
    found = [f"{p} {importlib.metadata.version(p)}" for p in packages if installed(p)]
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} cores, one thread, AdamW (fused); Python {python}, {', '.join(found)}"


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def load() -> str:
    """The load average, where there is one."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load not known"


def bench(net: str, variants: Sequence[str], how: argparse.Namespace) -> None:
    """All variants of one net, and its tables."""
    every = [Measured(name) for name in dict.fromkeys(["plain", *variants])]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        try:
            for each in every:
                begin(each, net, Path(base) / each.name, how)
            for _ in range(how.rounds):
                for each in every:
                    one_round(each)
            for each in every:
                if not each.failed:
                    each.facts |= attempt(each, "end")
        finally:
            for each in every:
                if each.process is not None:
                    each.process.close()
    if every[0].failed:
        raise SystemExit(f"overhead: the plain training of {net} failed: {every[0].failed}")
    show(net, every)


def begin(each: Measured, net: str, folder: Path, how: argparse.Namespace) -> None:
    """Start a training and find how many steps a chunk of it has."""
    variant = VARIANTS[each.name]
    if variant.package and not installed(variant.package):
        each.failed = "not installed"
        return
    each.process = Process(net, each.name, folder, how.quick)
    each.facts = attempt(each, "set_up", seconds=how.warm)
    if not each.failed:
        least = math.ceil(variant.period / variant.turns)
        each.steps = max(math.ceil(how.seconds / each.facts["step"]), least, 2)
        each.plain = max(math.ceil(how.seconds / 2 / each.facts["plain"]), 2)
        if variant.turns == 1:
            each.steps = math.ceil(each.steps / variant.period) * variant.period


def attempt(each: Measured, do: str, **arguments: Any) -> dict[str, Any]:
    """Give a training an order; a failure is kept."""
    assert each.process is not None
    try:
        return each.process.ask(do, **arguments)
    except RuntimeError as error:
        each.failed = str(error)
        return {}


def one_round(each: Measured) -> None:
    """A variant's chunks of one round."""
    chunks = []
    for _ in range(VARIANTS[each.name].turns):
        if not each.failed:
            chunks.append(attempt(each, "chunk", steps=each.steps, plain=each.plain))
    if not each.failed:
        each.taken += chunks
        each.wall.append(ratio(chunks, "wall", each.steps))
        each.cpu.append(ratio(chunks, "cpu", each.steps))


def show(net: str, every: Sequence[Measured]) -> None:
    """Print one net's tables; the first is of plain steps alone."""
    size = every[0].facts
    steps = [chunk["plain"][0] * 1e3 for chunk in every[0].taken]
    print(
        f"\n**{net}**: {size['parameters'] / 1e6:.2f} M parameters in {size['tensors']} tensors;"
        f" a plain step takes {spread(steps, 1)} ms, its process {size['peak']:.0f} MB;"
        f" its first step {size['setup']:.2f} s.\n\n"
        "| variant | time (quartiles) | CPU time (quartiles) | over all chunks: time, CPU | counted"
        " | steps | set-up, s | peak, MB more | on disk, KB/step |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for each in every:
        title = VARIANTS[each.name].title
        if each.failed:
            print(f"| {title} | {each.failed} | | | | | | | |")
            continue
        counted = ""
        if each.taken[0]["after"]:
            counted = f"{1 + each.counted('overhead') / each.counted('seconds'):.3f}"
        print(
            f"| {title} | {spread(each.wall)} | {spread(each.cpu)}"
            f" | {each.total('wall'):.3f}, {each.total('cpu'):.3f} | {counted}"
            f" | {each.steps * len(each.taken)} | {each.facts['setup']:.2f}"
            f" | {each.facts['peak'] - size['peak']:.0f} | {each.facts['written'] / 1e3:.2f} |"
        )
        if each.name == "wandb-1":
            rare = ((busy - 1) / 1000 + 1 for busy in (each.total("wall"), each.total("cpu")))
            both = ", ".join(f"{each_clock:.3f}" for each_clock in rare)
            print(f"| the same, log_freq=1000 (derived) | | | {both} | | | | | |")
    ours = [each for each in every if not each.failed and each.taken[0]["after"]]
    if ours:
        show_tiers(ours)


def show_tiers(ours: Sequence[Measured]) -> None:
    """Print what ran how often, and its share of the training's time."""
    tiers = list(ours[0].taken[0]["after"]["spent"])
    print(f"\n| how often, and percent of the time | {' | '.join(tiers)} | no tier's |")
    print("| --- |" + " --- |" * (len(tiers) + 1))
    for each in ours:
        seconds, rest = each.counted("seconds"), each.counted("overhead")
        cells = []
        for tier in tiers:
            ends = [(chunk["before"], chunk["after"]) for chunk in each.taken]
            times = sum(b["times"].get(tier, 0) - a["times"].get(tier, 0) for a, b in ends)
            spent = sum(b["spent"][tier] - a["spent"][tier] for a, b in ends)
            rest -= spent
            cells.append(f"{times} x, {100 * spent / seconds:.2f}" if times else "0")
        cells.append(f"{100 * rest / seconds:.2f}")
        print(f"| {VARIANTS[each.name].title} | {' | '.join(cells)} |")


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median and quartiles."""
    known = list(values) * (2 if len(values) == 1 else 1)
    low, middle, high = statistics.quantiles(known, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


if __name__ == "__main__":
    main()
