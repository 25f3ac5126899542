"""Shares, how sure one may be of them, and the tables they are printed in."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) of nothing."""
    if of == 0:
        return 0.0, 1.0
    share, square = hits / of, z * z / of
    middle = share + square / 2
    half = z * math.sqrt(share * (1 - share) / of + square / (4 * of))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return (0.0 if hits == 0 else low), (1.0 if hits == of else high)


def at_most(hits: int, of: int, sure: float = 0.95) -> float:
    """One-sided upper bound of a share (Clopper and Pearson 1934), ``sure`` of it."""
    if hits >= of:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        below = sum(
            math.exp(
                math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
                + k * math.log(p) + (of - k) * math.log1p(-p)
            )
            for k in range(hits + 1)
        )  # fmt: skip
        low, high = (p, high) if below > 1 - sure else (low, p)
    return high


def share(hits: int, of: int) -> str:
    """``87 % (80-92) of 118``."""
    if of == 0:
        return "-"
    low, high = wilson(hits, of)
    return f"{100 * hits / of:.0f} % ({100 * low:.0f}-{100 * high:.0f}) of {of}"


def counts(row: Row) -> bool:
    """Whether a case is scored: the fault does harm, or is a plain mistake whatever it does."""
    return bool(row["planted"] and (row["exact"] or row["harm"] == "worse"))


def mentioned(row: Row) -> bool:
    """Whether the cause is named first, be it as a note."""
    return right(row) or (not row["named"] and bool({*row["notes"][:1]} & {*row["accepted"]}))


def right(row: Row) -> bool:
    """Whether the first finding names the cause."""
    return row["first"] in row["accepted"]


def well_placed(row: Row) -> bool:
    """Whether it names the module, too."""
    return bool(row["module_right"])


MEASURES: dict[str, Callable[[Row], bool]] = {
    "flagged": lambda row: bool(row["named"]),
    "cause right": right,
    "module right": well_placed,
}


def line(title: str, rows: Sequence[Row]) -> str:
    """One row of a table: each measure over its cases."""
    cells = []
    for name, holds in MEASURES.items():
        of = [row for row in rows if name != "module right" or row["guilty"]]
        cells.append(share(sum(map(holds, of)), len(of)))
    return f"| {title} | {' | '.join(cells)} |"


def table(rows: Iterable[Row], key: str, title: str) -> str:
    """The measures by the values of a key, the worst first, and over all."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[str(row[key])].append(row)

    def poor(group: str) -> tuple[float, str]:
        mine = groups[group]
        return sum(map(right, mine)) / len(mine), group

    head = [f"| {title} | {' | '.join(MEASURES)} |", "| --- " * (1 + len(MEASURES)) + "|"]
    body = [line(group, groups[group]) for group in sorted(groups, key=poor)]
    every = [row for group in groups.values() for row in group]
    return "\n".join([*head, *body, line("**all**", every)])


def confusion(rows: Iterable[Row]) -> str:
    """For each true cause, what was named first and how often; the right one first."""
    named: dict[str, Counter[str]] = defaultdict(Counter)
    accepted: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        named[row["cause"]][row["first"] or "nothing"] += 1
        accepted[row["cause"]] |= set(row["accepted"])
    lines = ["| planted | named first |", "| --- | --- |"]
    for cause in sorted(named):
        said = sorted(
            named[cause].items(),
            key=lambda item: (item[0] != cause, item[0] not in accepted[cause], -item[1], item[0]),
        )
        marks = {n: "**" if n == cause else "_" if n in accepted[cause] else "" for n, _ in said}
        text = ", ".join(f"{marks[name]}{name}{marks[name]} {number}" for name, number in said)
        lines.append(f"| {cause} | {text} |")
    return "\n".join(lines)


def silence(rows: Sequence[Row]) -> str:
    """Alarms on healthy trainings that learned, and the bound that follows."""
    fit = [row for row in rows if not row["planted"] and row["harm"] == "learns"]
    lines = [
        "| entry | healthy trainings | with a warning | the rate is below, 95 % sure |",
        "| --- | --- | --- | --- |",
    ]
    for entry in dict.fromkeys(row["entry"] for row in fit):
        mine = [row for row in fit if row["entry"] == entry]
        alarms = sum(bool(row["named"]) for row in mine)
        bound = 100 * at_most(alarms, len(mine))
        lines.append(f"| {entry} | {len(mine)} | {alarms} | {bound:.2f} % |")
    trainings = {row["case"] for row in fit}
    alarmed = {row["case"] for row in fit if row["named"]}
    bound = 100 * at_most(len(alarmed), len(trainings))
    lines.append(f"| any of them | {len(trainings)} | {len(alarmed)} | {bound:.2f} % |")
    said = Counter(row["first"] for row in fit if row["named"])
    if said:
        lines.append("")
        lines.append("Alarms: " + ", ".join(f"{n} {k}" for n, k in said.most_common()) + ".")
    return "\n".join(lines)
