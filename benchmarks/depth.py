"""No depth is too deep: ``python3 dev.py bench depth``.

Networks of up to 100,000 layers as they come, each given to :func:`gradmend.fix` with its data, an
Adam of its default rate and a budget, and to nothing else. Each row is one process with one
thread. ``keep`` says what must not change; the unseen figure is of data that neither training nor
trial has seen. ``--only`` names rows (a part of the name is enough), ``--seeds`` runs several,
``--core`` lets a budget count seconds of the core: what other work takes from it is then not lost.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

FIGURES = (
    "name",
    "seed",
    "as it is",
    "repaired",
    "goal",
    "steps",
    "seconds",
    "core seconds",
    "budget",
    "GB",
)
"""A budget is of seconds; on a busy machine fewer of them are seconds of the core."""


def main() -> None:
    """Run each row in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="parts of names, with commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--core",
        action="store_true",
        help="let budgets count seconds of the core, for busy machines",
    )
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(row(arguments.row, arguments.seed, arguments.core)))
        return
    from _depth_subjects import every_subject

    parts = [part for part in arguments.only.split(",") if part]
    print("| " + " | ".join((*FIGURES, "what was kept")) + " |")
    print("| --- " * (len(FIGURES) + 1) + "|")
    for name in every_subject():
        if parts and not any(part in name for part in parts):
            continue
        for seed in range(arguments.seeds):
            show(name, seed, arguments.core)


def show(name: str, seed: int, core: bool) -> None:
    """One row, in its own process."""
    command = [sys.executable, __file__, "--row", name, "--seed", str(seed)]
    command += ["--core"] if core else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        print(f"| {name} | {seed} | failed: {last[0]} |", flush=True)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    cells = [str(found[key]) for key in FIGURES]
    print("| " + " | ".join((*cells, found["reason"])) + " |", flush=True)


def row(name: str, seed: int, core: bool) -> dict[str, Any]:
    """Build, fix, measure."""
    wall = time.perf_counter
    if core:  # before gradmend takes the clock; with one thread, what an idle machine would show
        time.perf_counter = time.process_time
    import torch
    from _depth_subjects import every_subject

    import gradmend

    torch.set_num_threads(1)
    subject = every_subject()[name]
    model, batches, val, loss_fn, optimizer, measure = subject.build(seed)
    before = measure(model)
    began, began_core = wall(), time.process_time()
    fixed = gradmend.fix(
        model,
        batches,
        loss_fn,
        optimizer=optimizer,
        val=val,
        steps=subject.steps,
        budget=subject.budget,
        keep=subject.keep,
        seed=seed,
    )
    seconds, of_the_core = wall() - began, time.process_time() - began_core
    after = measure(fixed.model)
    reason = fixed.verdict.reason if fixed.verdict is not None else ""
    return {
        "name": name,
        "seed": seed,
        "as it is": f"{before:.3g}",
        "repaired": f"{after:.3g}",
        "goal": subject.goal,
        "steps": fixed.steps_trained,
        "seconds": f"{seconds:.0f}",
        "core seconds": f"{of_the_core:.0f}",
        "budget": subject.budget,
        "GB": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2g}",
        "reason": reason,
    }


if __name__ == "__main__":
    main()
