"""Stands in for the process of a trial: speaks its words, and trains nothing.

Its script is a JSON file: how the losses go as they are and by remedy, and what else happens.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    os.chdir(spec["folder"])
    act = json.loads(Path(spec["target"]).read_text())
    words, orders = os.fdopen(spec["words"], "w"), os.fdopen(spec["orders"])
    began = time.monotonic()

    def say(kind: str, **more: Any) -> None:
        words.write(json.dumps({"kind": kind, "t": time.monotonic() - began, **more}) + "\n")
        words.flush()

    name = "original"
    if spec["prescription"]:
        name = json.loads(Path(spec["prescription"]).read_text())["remedies"][0]
    role = {**act, **act.get("by", {}).get(name, {})}
    say("torch")
    for word in role.get("instead", ()):
        say(**word)
    if role.get("instead"):
        return
    shift, until, step, told = spec["seed_shift"], spec["until"], 0, 0
    rate = role["rate"] * (1 + 0.01 * shift)
    losses: list[tuple[int, Any]] = []
    while True:
        while step < min(until, role.get("length", 10**9)):
            step += 1
            loss = 2.0 * math.exp(-rate * step) + role.get("noise", 0.0) * os.urandom(1)[0]
            loss += role.get("chance", (0.0, 0.0, 0.0))[shift]
            losses.append((step, "nan" if step >= role.get("breaks", 10**9) else loss))
            if "figure" in role and step % 5 == 0:
                print(f"test {role['figure'][0]} {role['figure'][1]}", flush=True)
        several = [losses[told:]] * role.get("optimizers", 1)
        if role.get("optimizers", 1) > 1:
            several[1] = [(at, -value) for at, value in several[1]]
        told = len(losses)
        said = {"step": step, "losses": several, "evaluations": [], "report": None}
        if step < until:
            say("ended", how=role.get("how", "finished"), error=role.get("error", ""), **said)
            return
        say("stop", **said)
        line = orders.readline()
        if not line or json.loads(line)["kind"] == "quit":
            return
        until = json.loads(line)["until"]


if __name__ == "__main__":
    main()
