"""Scripts repaired as they stand: ``python3 dev.py bench scripts``.

Each script of ``examples/fix`` and two healthy ones are given to ``gradmend fix --json``, one after
the other, in a copy of their folder. Each row shows the first cause, what won, what the trial was
judged by, and the script's own evaluation, of the seed as written. ``--only`` names scripts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
HEALTHY = ("char_lm.py", "cnn_digits.py")
BUDGET = "8 min"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="parts of names, with commas")
    parser.add_argument("--jobs", default="2")
    arguments = parser.parse_args()
    parts = [part for part in arguments.only.split(",") if part]
    scripts = [*sorted((EXAMPLES / "fix").glob("*.py")), *(EXAMPLES / name for name in HEALTHY)]
    print("| script | first cause | kept | judged by | as it is | repaired | its evaluation |"
          " trials | seconds |")  # fmt: skip
    print("| --- " * 9 + "|")
    for script in scripts:
        if not parts or any(part in script.name for part in parts):
            row(script, arguments.jobs)


def row(script: Path, jobs: str) -> None:
    """One script."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(script, folder)
        done = subprocess.run(
            [sys.executable, "-m", "gradmend", "fix", "--json", "--jobs", jobs, "--budget", BUDGET,
             script.name],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        print(f"| {script.stem} | failed: {last} |", flush=True)
        return
    said = json.loads(done.stdout)
    print("| " + " | ".join((script.stem, *cells(said), f"{seconds:.0f}")) + " |", flush=True)


def cells(said: dict[str, Any]) -> tuple[str, ...]:
    """Of what ``gradmend fix --json`` printed."""
    verdict = said["verdict"]
    cause = said["causes"][0] if said["causes"] else "none"
    if not said["kept"]:
        return cause, said["reason"], "", "", "", "", str(len(verdict["rivals"]))
    before, after = verdict["original"], verdict["winner"]
    name = verdict["judged_by"]["name"]
    known = {figure["name"]: figure["value"] for figure in before[0]["figures"]}
    own = [
        f"{f['name']} {known[f['name']]:.3g} -> {f['value']:.3g}"
        for f in after[0]["figures"]
        if f["name"] in known and not f["name"].startswith("evaluation")
    ]
    return (
        cause,
        " + ".join(said["remedies"]),
        f"{name}, {len(after)} seeds",
        "diverged" if before[0]["unseen"] is None else f"{before[0]['unseen']:.3g}",
        f"{after[0]['unseen']:.3g}",
        "; ".join(own),
        str(len(verdict["rivals"]) + len(before) + len(after)),
    )


if __name__ == "__main__":
    main()
