"""What the repair benchmark prints."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from _repair_judge import MARGIN, capped
from planted.score import at_most, share

Row = dict[str, Any]

OUTCOMES = (
    "repaired",
    "improved",
    "no better",
    "unchanged",
    "advised",
    "refused",
    "crashed",
    "worse",
)


def counts(row: Row) -> bool:
    """Whether a fault is one that an edit can mend, and does harm."""
    return bool(row["planted"] and row["harm"] == "worse" and not row["not_by_edit"])


def summary(rows: Sequence[Row]) -> str:
    """All tables of sick trainings."""
    scored = [row for row in rows if counts(row)]
    states = Counter(row["harm"] for row in rows)
    told = [r for r in rows if r["harm"] == "worse" and r["not_by_edit"]]
    parts = [
        f"{len(rows)} sick trainings: " + ", ".join(f"{n} {k}" for k, n in states.items())
        + f"; {len(scored)} can be mended by an edit, {len(told)} only by their author.",
        overall(scored, rows),
        grouped(scored, "set", "by set"),
        grouped(scored, "cause", "by cause"),
        grouped(scored, "arch", "by architecture"),
        remedies(scored),
        beside_random(scored),
        only_advice(told),
        failures(scored),
        worse(rows),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def overall(scored: Sequence[Row], rows: Sequence[Row]) -> str:
    """The promise, line by line."""
    mended = [row for row in scored if row["remedies"] and row["fixed"]]
    lone = [row for row in mended if row["one_guilty"] and row["outcome"] == "repaired"]
    costs = [row["spent"] / row["steps"] for row in mended]
    measures: list[tuple[str, Sequence[Row], Callable[[Row], bool]]] = [
        ("repaired to the healthy twin's level", scored, is_repaired),
        ("repaired or improved", scored, lambda r: r["outcome"] in ("repaired", "improved")),
        ("cause among the findings", scored, cause_found),
        ("prescribed: better than the original with the extra steps", mended, beats_longer),
        ("prescribed: all three seeds better", mended, lambda r: r["agree"] == 3),
        ("prescribed: every prediction held", mended, lambda r: bool(r["predictions_held"])),
        ("repaired, one layer guilty: not every layer touched", lone, fewer),
    ]
    lines = ["| what | share |", "| --- | --- |"]
    lines += [f"| {text} | {_share(mine, holds)} |" for text, mine, holds in measures]
    bad = sum(row["outcome"] == "worse" for row in rows)
    lines.append(f"| made worse, of all tried | {bad} of {len(rows)} |")
    if costs:
        quartiles = statistics.quantiles(costs, n=4) if len(costs) > 1 else costs * 3
        lines.append(
            f"| steps spent, in trainings (median, quartiles) | {statistics.median(costs):.1f}"
            f" ({quartiles[0]:.1f}-{quartiles[2]:.1f}) |"
        )
        times = statistics.median(row["seconds"] for row in mended)
        lines.append(f"| CPU seconds of `fix` (median) | {times:.1f} |")
    return "\n".join(lines)


def is_repaired(row: Row) -> bool:
    """Whether it came to the healthy twin's level."""
    return bool(row["outcome"] == "repaired")


def cause_found(row: Row) -> bool:
    """Whether a finding names the true cause."""
    return bool(row["cause_found"])


def beats_longer(row: Row) -> bool:
    """Whether the repair beats the original given the trial's steps on top, on the mean."""
    return capped(row["fixed"], row["before"]) < capped(row["longer"], row["before"])


def fewer(row: Row) -> bool:
    """Whether an edit names fewer layers than all."""
    return bool(row["touched"][0] < row["touched"][1])


def _share(rows: Sequence[Row], holds: Callable[[Row], bool]) -> str:
    return share(sum(map(holds, rows)), len(rows))


def grouped(rows: Iterable[Row], key: str, title: str) -> str:
    """Outcomes by the values of a key, the worst first."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[str(row[key])].append(row)

    def poor(group: str) -> tuple[float, str]:
        mine = groups[group]
        return sum(row["outcome"] == "repaired" for row in mine) / len(mine), group

    head = [f"| {title} | repaired | cause found | outcomes |", "| --- | --- | --- | --- |"]
    body = []
    for group in sorted(groups, key=poor):
        mine = groups[group]
        said = Counter(row["outcome"] for row in mine)
        text = ", ".join(f"{said[name]} {name}" for name in OUTCOMES if said[name])
        right = _share(mine, is_repaired)
        body.append(f"| {group} | {right} | {_share(mine, cause_found)} | {text} |")
    return "\n".join([*head, *body]) if body else ""


def remedies(rows: Sequence[Row]) -> str:
    """Which remedies won, and what came of it."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["remedies"]:
            groups[" + ".join(row["remedies"])][row["outcome"]] += 1
    head = ["| winner | outcomes |", "| --- | --- |"]
    body = [
        f"| {name} | {', '.join(f'{n} {k}' for k, n in said.most_common())} |"
        for name, said in sorted(groups.items(), key=lambda item: -item[1].total())
    ]
    return "\n".join([*head, *body]) if body else ""


def duel(row: Row) -> str:
    """``win``, ``tie`` or ``loss`` of ``fix`` against random search; the sick model for neither."""
    at, twins = row["before"], row["healthy"]
    ours = capped(row["fixed"] or row["sick"], at)
    theirs = capped(row["random"] or row["sick"], at)
    near = MARGIN * abs(at - statistics.fmean(twins))
    near = max(near, (max(twins) - min(twins)) / 2 if all(map(math.isfinite, twins)) else 0.0)
    return "tie" if abs(ours - theirs) <= near else "win" if ours < theirs else "loss"


def beside_random(rows: Sequence[Row]) -> str:
    """Wins, ties and losses against random search."""
    both = [row for row in rows if "random" in row]
    if not both:
        return ""
    said = Counter(duel(row) for row in both)
    lines = [
        f"Against random search over the same edits and steps, {len(both)} subjects:"
        f" {said['win']} wins, {said['tie']} ties, {said['loss']} losses;"
        f" better in {share(said['win'], len(both))},"
        f" not worse in {share(said['win'] + said['tie'], len(both))}."
    ]
    for row in both:
        if duel(row) == "loss":
            lines.append(
                f"- lost: {row['case']}: {' + '.join(row['remedies']) or row['outcome']}"
                f" {_mean(row['fixed'])} against {' + '.join(row['random_remedies'])}"
                f" {_mean(row['random'])} (healthy {_mean(row['healthy'])})"
            )
    return "\n".join(lines)


def only_advice(rows: Sequence[Row]) -> str:
    """What is said where no edit can help."""
    if not rows:
        return ""
    said = Counter(row["outcome"] for row in rows)
    right = sum(bool(row.get("advice_right")) for row in rows)
    reasons = Counter(row["not_by_edit"] for row in rows)
    return (
        f"Only by their author, {len(rows)}: "
        + ", ".join(f"{n} {k}" for k, n in said.most_common())
        + f";"
        f" cause among the findings {_share(rows, cause_found)},"
        f" advised on the true cause {share(right, len(rows))}. Why: "
        + "; ".join(f"{text} ({n})" for text, n in reasons.most_common()) + "."
    )  # fmt: skip


def failures(rows: Sequence[Row]) -> str:
    """Everything that was not repaired."""
    lines = ["Not repaired:"]
    for row in sorted(rows, key=lambda r: (r["cause"], r["case"])):
        if row["outcome"] == "repaired":
            continue
        lines.append(
            f"- {row['case']} ({row['cause']}): {row['outcome']};"
            f" sick {_mean(row['sick'])}, fixed {_mean(row['fixed'])},"
            f" healthy {_mean(row['healthy'])};"
            f" found {', '.join(row['named'][:3]) or 'nothing'};"
            f" {'+'.join(row['remedies']) or row['error'] or row['reason']}"
        )
    return "\n".join(lines) if len(lines) > 1 else ""


def worse(rows: Sequence[Row]) -> str:
    """What was made worse, harmless faults included."""
    lines = [
        f"- {row['case']}: {'+'.join(row['remedies'])}: {row['sick']} -> {row['fixed']}"
        for row in rows
        if row["outcome"] == "worse"
    ]
    return "\n".join(["Made worse:", *lines]) if lines else ""


def _mean(losses: Sequence[float]) -> str:
    return f"{statistics.fmean(losses):.3g}" if losses else "-"


def healthy(rows: Sequence[Row]) -> str:
    """What ``fix`` does to trainings that are well."""
    left = [row for row in rows if not row["remedies"]]
    bad = [row for row in rows if row["outcome"] == "worse"]
    lines = [
        f"{len(rows)} healthy trainings: {len(left)} left as they were,"
        f" {len(rows) - len(left)} changed, {len(bad)} made worse"
        f" (the rate is below {100 * at_most(len(bad), len(rows)):.1f} %, 95 % sure)."
    ]
    for row in rows:
        if row["remedies"]:
            lines.append(
                f"- {row['case']}: {'+'.join(row['remedies'])}:"
                f" {_mean(row['sick'])} -> {_mean(row['fixed'])}"
                f" ({row['outcome']}; found {', '.join(row['named'][:3])})"
            )
        elif row["error"]:
            lines.append(f"- {row['case']}: {row['error']}")
    return "\n".join([*lines, worse(rows)])
