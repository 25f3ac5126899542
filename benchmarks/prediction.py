"""Theory beside measurement before training: ``python3 dev.py bench prediction``.

Predicted and measured total gain of plain networks over activations, initialisations, depths and
widths; prints Pearson's correlation, the median absolute error in decades, and the share of
networks whose verdict (vanishes, stable, explodes, at one decade) is the same.
"""

from __future__ import annotations

import itertools
import math
import statistics

import torch

from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.zoo import build

ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu", "silu", "elu", "selu", "softplus")
INITS = (("default", 1.0), ("normal", 1.0), ("normal", 1.414), ("orthogonal", 1.0))
DEPTHS = (10, 20, 40)


def main() -> None:
    """Run and print."""
    torch.set_num_threads(1)
    print("| width | networks | Pearson r | median error, decades | largest | same verdict |")
    print("| --- | --- | --- | --- | --- | --- |")
    for width in (32, 128):
        pairs = [
            pair
            for combination in itertools.product(ACTIVATIONS, INITS, DEPTHS)
            if (pair := measure(width, *combination)) is not None
        ]
        predicted, measured = zip(*pairs, strict=True)
        errors = [abs(p - m) for p, m in pairs]
        same = sum(verdict(p) == verdict(m) for p, m in pairs) / len(pairs)
        print(
            f"| {width} | {len(pairs)} | {statistics.correlation(predicted, measured):.4f} |"
            f" {statistics.median(errors):.2f} | {max(errors):.2f} | {same:.0%} |",
            flush=True,
        )


def measure(
    width: int, activation: str, init: tuple[str, float], depth: int
) -> tuple[float, float] | None:
    """(predicted, measured) decades of one network; ``None`` if either is not finite."""
    specimen = build(
        "mlp", depth=depth, width=width, activation=activation, init=init[0], gain=init[1]
    )
    ledger = look(specimen.model, specimen.batch, Feeder(loss_fn=specimen.loss_fn)).ledger
    if ledger is None or ledger.total_decades is None or ledger.predicted_decades is None:
        return None
    pair = (ledger.predicted_decades, ledger.total_decades)
    return pair if all(math.isfinite(value) for value in pair) else None


def verdict(decades: float) -> int:
    """-1 vanishes, 0 stable, 1 explodes, at one decade."""
    return (decades > 1) - (decades < -1)


if __name__ == "__main__":
    main()
