"""The demo's figures over seeds and settings: ``python3 dev.py bench demo``.

Each row is one run of ``gradmend demo --json`` in a process of its own. ``--quick`` runs the
three seeds of the headline figure only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile

HEADLINE = [["--seed", str(seed)] for seed in range(3)]
OTHERS = [
    ["--activation", "tanh"],
    ["--activation", "relu"],
    ["--activation", "gelu"],
    ["--keep", "nothing"],
    ["--keep", "activations,architecture,optimizer"],
    ["--depth", "20"],
    ["--depth", "3", "--activation", "relu"],
    ["--depth", "1000"],
]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the headline's three seeds only")
    arguments = parser.parse_args()
    print(
        "| gradmend demo | as it is | repaired | steps | remedies | total, decades | off |"
        " seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for options in HEADLINE + ([] if arguments.quick else OTHERS):
        row(options)


def row(options: list[str]) -> None:
    """One run."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "gradmend", "demo", "--json", "--out", folder, *options],
            capture_output=True,
            text=True,
            check=True,
        )
    said = json.loads(done.stdout)
    ledger = said["ledger"]
    remedies = " + ".join(said["remedies"]) or said["reason"]
    print(
        f"| {' '.join(options)} | {said['accuracy_before']:.1%} | {said['accuracy_after']:.1%} |"
        f" {said['steps']} | {remedies} | {ledger['total_decades']:.2f} |"
        f" {ledger['unexplained_decades']:.0e} | {said['seconds']:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
