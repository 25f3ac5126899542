"""Counts and tables of ``benchmarks/third_party.py``."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from planted.score import at_most

Line = dict[str, Any]


def tables(lines: list[Line]) -> str:
    """Everything, as markdown."""
    return "\n\n".join([counts(lines), by_rule(lines), by_alarm(lines)])


def alarms(line: Line) -> list[dict[str, Any]]:
    """What a line says at or above a warning."""
    return [f for f in line.get("findings", []) if f["severity"] != "note"]


def counts(lines: list[Line]) -> str:
    """Tried, built, silent; and the bound on the rate of alarms."""
    rows = [
        "| way | half | tried | built | judged | silent | with an alarm | at most, 95 % | crashes |"
    ]
    rows.append("| --- |" + " --- |" * 8)
    for way in ("look", "watch"):
        for half in ("seen", "unseen", "both"):
            part = [
                line
                for line in lines
                if line["way"] == way and half in ("both", "unseen" if line["unseen"] else "seen")
            ]
            if not part:
                continue
            built = [line for line in part if "failed" not in line]
            judged = [line for line in built if "findings" in line]
            loud = [line for line in judged if alarms(line)]
            crashes = sum("crash" in line or "died" in line for line in part)
            rows.append(
                f"| {way} | {half} | {len(part)} | {len(built)} | {len(judged)}"
                f" | {len(judged) - len(loud)} | {len(loud)}"
                f" | {100 * at_most(len(loud), len(judged)):.1f} % | {crashes} |"
            )
    return "\n".join(rows)


def by_rule(lines: list[Line]) -> str:
    """How many architectures each rule rang at."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines:
        half = "unseen" if line["unseen"] else "seen"
        for name in {f["name"] for f in alarms(line)}:
            names[name][f"{line['way']} {half}"] += 1
    columns = ["look seen", "look unseen", "watch seen", "watch unseen"]
    rows = [f"| rule | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for name, found in sorted(names.items(), key=lambda pair: -pair[1].total()):
        rows.append(f"| {name} | {' | '.join(str(found[c]) for c in columns)} |")
    return "\n".join(rows)


def by_alarm(lines: list[Line]) -> str:
    """Every alarm, with how the training went."""
    courses = {line["name"]: course(line) for line in lines if line["way"] == "watch"}
    rows = ["| architecture | way | rule | severity | modules | loss |", "| --- |" + " --- |" * 5]
    for line in lines:
        for f in alarms(line):
            rows.append(
                f"| {line['name']} | {line['way']} | {f['name']} | {f['severity']}"
                f" | {', '.join(f['modules'][:2])} | {courses.get(line['name'], '')} |"
            )
    return "\n".join(rows)


def course(line: Line) -> str:
    """A training's loss at its beginning and end: medians of five steps."""
    losses = line.get("losses", [])
    if len(losses) < 10:
        return ""
    return f"{sorted(losses[:5])[2]:.3g} to {sorted(losses[-5:])[2]:.3g}"
