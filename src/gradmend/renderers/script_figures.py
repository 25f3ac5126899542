"""Figures of a script's own evaluation, original beside winner."""

from __future__ import annotations

from collections.abc import Sequence

from gradmend.records.verdict import Arm, Verdict
from gradmend.renderers import numbers, plot
from gradmend.renderers.visible import isolate

MOST_FIGURES = 20


def figure_table(verdict: Verdict) -> str:
    """What the script itself says at the end of each training; empty where it says nothing."""
    names = list(
        dict.fromkeys(f.name for arm in (*verdict.original, *verdict.winner) for f in arm.figures)
    )
    if not names:
        return ""
    rows = []
    for name in names[:MOST_FIGURES]:
        higher = any(
            f.higher for arm in (*verdict.original, *verdict.winner) for f in arm.figures
            if f.name == name
        )  # fmt: skip
        better = "more" if higher else "less"
        rows.append(
            [isolate(name), better, _values(verdict.original, name), _values(verdict.winner, name)]
        )
    more = len(names) - MOST_FIGURES
    caption = f"{numbers.count(more, 'further figure')} left out." if more > 0 else ""
    head = ["what the script prints", "better is", "original, by seed", "repaired, by seed"]
    return plot.table(head, rows, caption=caption)


def _values(arms: Sequence[Arm], name: str) -> str:
    found = [next((f.value for f in arm.figures if f.name == name), None) for arm in arms]
    return ", ".join(numbers.number(value, 4) for value in found) or numbers.UNKNOWN
