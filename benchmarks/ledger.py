"""How exact the books are, and what they cost: ``python3 dev.py bench ledger``.

Prints, for every specimen, how far the books are off against a backward pass without hooks and
at every level of the module tree; the look's time as a ratio to one plain training step,
interleaved, with its spread; and both against depth up to 10,000 layers.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.zoo import build

SPECIMENS: list[tuple[str, dict[str, object]]] = [
    ("mlp", {"depth": 100, "activation": "sigmoid"}),
    ("mlp", {"depth": 24, "activation": "relu", "norm": "batch"}),
    ("functional_mlp", {"depth": 6}),
    ("functional_mlp", {"depth": 6, "in_place": True}),
    ("cnn", {"depth": 6}),
    ("residual_mlp", {"depth": 12}),
    ("transformer", {"depth": 4}),
    ("transformer", {"depth": 4, "norm_first": False}),
    ("recurrent", {"cell": "lstm"}),
    ("recurrent", {"cell": "gru"}),
    ("recurrent", {"cell": "rnn"}),
    ("dense", {"depth": 6}),
    ("shared", {}),
]
REPEATS = 7


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", default="10,100,1000,10000")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| specimen | total, decades | off against a pass without hooks | off at any level"
        " | look / step (min, median, max) |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, args in SPECIMENS:
        row(name, args)
    for depth in (int(text) for text in arguments.depths.split(",")):
        row("mlp", {"depth": depth, "activation": "sigmoid", "width": 32})


def row(name: str, args: dict[str, object]) -> None:
    """One specimen."""
    specimen = build(name, **args)
    feeder = Feeder(loss_fn=specimen.loss_fn)
    trace = look(specimen.model, specimen.batch, feeder)
    ratios = []
    repeats = REPEATS if trace.run.seconds < 2 else 2
    for _ in range(repeats):
        began = time.perf_counter()
        specimen.loss_fn(specimen.model(specimen.batch[0]), specimen.batch[1]).backward()
        step = time.perf_counter() - began
        began = time.perf_counter()
        look(specimen.model, specimen.batch, feeder)
        ratios.append((time.perf_counter() - began) / step)
    ledger = trace.ledger
    assert ledger is not None and ledger.total_decades is not None
    inner = ", ".join(f"{key}={value}" for key, value in args.items())
    print(
        f"| {name}({inner}) | {ledger.total_decades:.2f} | {ledger.unexplained_decades:.1e}"
        f" | {ledger.imbalance:.1e} | {min(ratios):.0f}, {statistics.median(ratios):.0f},"
        f" {max(ratios):.0f} (look {trace.run.seconds:.2f} s) |",
        flush=True,
    )


if __name__ == "__main__":
    main()
