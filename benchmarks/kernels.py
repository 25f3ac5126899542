"""What statistics of all gradients cost: ``python3 dev.py bench kernels``.

Prints times as ratios to reading the same tensors once, interleaved in one run, with their
quartiles: by how much a pass misses the speed of memory, for hundreds of tiny tensors and for the
gradients of a 10M-parameter network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradmend.probe.kernels import _backend, backend, compare, exponents, sample, sweep, warm

SETS = {"200 x 512": [512] * 200, "149, 10M in all": [1024] * 100 + [201_000] * 49}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    resident, began = memory(), time.perf_counter()
    warm()
    print(f"{backend()}: warm in {time.perf_counter() - began:.2f} s, {memory() - resident:.0f} MB")
    print("| tensors | format | what | us, best | times one reading (quartiles) |")
    print("| --- | --- | --- | --- | --- |")
    for name, sizes in SETS.items():
        for dtype in (torch.float32, torch.bfloat16):
            table(name, [torch.randn(size).to(dtype) for size in sizes], dtype, rounds)


def table(name: str, tensors: list[Tensor], dtype: torch.dtype, rounds: int) -> None:
    """Measure one set of tensors."""
    before = sample(tensors, 4096)
    words = [tensor.view(torch.int64).numpy() for tensor in tensors]
    whats: dict[str, Callable[[], object]] = {
        "read once": lambda: [np.bitwise_xor.reduce(word) for word in words],
        "torch._foreach_norm": lambda: torch.stack(torch._foreach_norm(tensors)).tolist(),
        "norm().item() of each": lambda: [tensor.norm().item() for tensor in tensors],
        "sweep": lambda: sweep(tensors),
        "sweep, most=4096": lambda: sweep(tensors, most=4096),
        "exponents, every 8th block": lambda: exponents(tensors, stride=8),
        "exponents": lambda: exponents(tensors),
        "sample(4096)": lambda: sample(tensors, 4096),
        "compare with gradients": lambda: compare(before, tensors, tensors),
        "sweep by torch": lambda: by_torch(lambda: sweep(tensors)),
    }
    seconds: dict[str, list[float]] = {what: [] for what in whats}
    for _ in range(rounds + 1):
        for what, run in whats.items():
            began = time.perf_counter()
            run()
            seconds[what].append(time.perf_counter() - began)
    reading = np.array(seconds["read once"][1:])
    for what in whats:
        own = np.array(seconds[what][1:])
        low, middle, high = np.quantile(own / reading, [0.25, 0.5, 0.75])
        print(
            f"| {name} | {str(dtype).removeprefix('torch.')} | {what} | {own.min() * 1e6:.0f}"
            f" | {middle:.2f} ({low:.2f}-{high:.2f}) |",
            flush=True,
        )


def by_torch(run: Callable[[], object]) -> object:
    """Run with the other backend."""
    usual = _backend.backend
    _backend.backend = lambda: "torch"  # type: ignore[assignment]
    try:
        return run()
    finally:
        _backend.backend = usual


def memory() -> float:
    """Resident memory in MB; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
