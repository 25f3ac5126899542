"""What each training reached on data not trained on: a dot per seed, with mean and range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradmend.records.verdict import Arm, Verdict
from gradmend.renderers import numbers, plot, treatment
from gradmend.renderers.visible import Markup, escape, isolate

MOST_RIVALS = 12
"""Rivals with a row of their own, the best first."""
LOG_FROM = 50.0
"""From this ratio of the largest to the smallest on, the scale is logarithmic."""


@dataclass(frozen=True, slots=True)
class Row:
    """Seeds of the original, of the winner or of a rival that were trained equally long.

    Seeds that agree early are not trained to the end; their figures are no part of one mean.
    """

    kind: str
    """``original``, ``repaired`` or ``rival``."""
    name: str
    arms: tuple[Arm, ...]

    @property
    def known(self) -> list[float]:
        """What was measured, as numbers."""
        return [a.unseen for a in self.arms if a.unseen is not None and math.isfinite(a.unseen)]

    @property
    def mean(self) -> float | None:
        """``None`` where no seed has a figure."""
        return math.fsum(self.known) / len(self.known) if self.known else None

    @property
    def steps(self) -> int:
        """How far they were trained."""
        return self.arms[0].steps

    @property
    def words(self) -> str:
        """Mean and range, and what became of seeds without a figure."""
        lost = [arm for arm in self.arms if arm.unseen is None or not math.isfinite(arm.unseen)]
        parts = []
        if self.mean is not None:
            text = numbers.number(self.mean, 4)
            if len(self.known) > 1:
                low, high = (numbers.number(f(self.known), 4) for f in (min, max))
                text += f" ({low} to {high})"
            parts.append(text)
        reasons = dict.fromkeys(treatment.unseen_words(arm) for arm in lost)
        if reasons and parts:
            parts.append(f"{len(lost)} of {len(self.arms)}: {', '.join(reasons)}")
        elif reasons:
            parts.append(", ".join(reasons))
        return "; ".join(parts)


def rows_of(verdict: Verdict) -> list[Row]:
    """Original beside winner, the longest trainings first; then the rivals, best first."""
    sign = -1 if verdict.judged_by.higher else 1
    pairs = [
        *_by_length("original", "original", verdict.original),
        *(
            row
            for name, arms in _by_name(verdict.winner).items()
            for row in _by_length("repaired", f"repaired: {name}", arms)
        ),
    ]
    pairs.sort(key=lambda row: -row.steps)  # the original stays above the winner
    rivals = [
        row
        for name, arms in _by_name(verdict.rivals).items()
        for row in _by_length("rival", name, arms)
    ]
    rivals.sort(key=lambda row: math.inf if row.mean is None else sign * row.mean)
    return pairs + rivals


def _by_name(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        found.setdefault(arm.name, []).append(arm)
    return found


def _by_length(kind: str, name: str, arms: Sequence[Arm]) -> list[Row]:
    lengths = sorted({arm.steps for arm in arms}, reverse=True)
    return [Row(kind, name, tuple(a for a in arms if a.steps == length)) for length in lengths]


def unseen_dots(verdict: Verdict) -> str:
    """The rows as a table with a strip of dots in each; empty where there are no trainings."""
    rows = rows_of(verdict)
    if not rows:
        return ""
    rivals = sum(1 for row in rows if row.kind == "rival")
    shown = rows[: len(rows) - max(rivals - MOST_RIVALS, 0)]
    values = [value for row in shown for value in row.known]
    scale = _scale(values)
    judged = treatment.judged_words(verdict)
    better = "more is better" if verdict.judged_by.higher else "less is better"
    body: list[list[str]] = [
        [
            Markup(f'<span class="arm arm-{row.kind}">{isolate(row.name)}</span>'),
            _strip(row, scale),
            escape(row.words),
            _length(row),
        ]
        for row in shown
    ]
    if values:
        body.append([Markup('<span class="small">scale</span>'), _axis(scale), "", ""])
    left = rivals - MOST_RIVALS
    caption = f"One dot per seed; the bar is their range, the upright mark their mean; {better}."
    if scale.log:
        caption += " Logarithmic scale."
    if left > 0:
        caption += f" {numbers.count(left, 'rival')} that did worse left out."
    head = ["training", judged, "mean (range)", "steps"]
    table = plot.table(head, body, caption=caption)
    return f'<div class="unseen-dots">{table}</div>'


def _length(row: Row) -> str:
    seeds = ", ".join(str(arm.seed) for arm in row.arms[:6])
    return f"{row.steps:,} (seed{'s' if len(row.arms) > 1 else ''} {seeds})"


def _scale(values: Sequence[float]) -> plot.Scale:
    if not values:
        return plot.Scale(0.0, 1.0)
    low, high = min(values), max(values)
    if low > 0 and high > LOG_FROM * low:
        return plot.Scale(low / 1.3, high * 1.3, True)
    return plot.padded(values, zero=0 <= low < 0.5 * high)


def _strip(row: Row, scale: plot.Scale) -> Markup:
    known = row.known
    if not known:
        return Markup("")

    def x(value: float) -> str:
        return f"{3 + 94 * scale.at(value):.2f}%"

    marks = ['<line class="rail" x1="0" x2="100%" y1="11" y2="11"/>']
    if len(known) > 1:
        ends = f'x1="{x(min(known))}" x2="{x(max(known))}"'
        marks.append(f'<line class="range" {ends} y1="11" y2="11"/>')
        assert row.mean is not None
        at = x(row.mean)
        marks.append(f'<line class="mean" x1="{at}" x2="{at}" y1="3" y2="19"/>')
    for arm in row.arms:
        if arm.unseen is not None and math.isfinite(arm.unseen):
            words = escape(f"seed {arm.seed}: {numbers.number(arm.unseen, 4)}")
            spot = f'cx="{x(arm.unseen)}" cy="11" r="4.5"'
            marks.append(f"<circle {spot}><title>{words}</title></circle>")
    words = escape(", ".join(f"{numbers.number(value, 4)}" for value in known))
    return Markup(
        f'<svg class="dots dots-{row.kind}" role="img" aria-label="{words}" height="22">'
        f"{''.join(marks)}</svg>"
    )


def _axis(scale: plot.Scale) -> Markup:
    labels = []
    ticks = scale.ticks(4)
    for value in ticks:
        share = scale.at(value)
        if not -0.001 <= share <= 1.001:
            continue
        x = f"{3 + 94 * share:.2f}%"
        labels.append(
            f'<line x1="{x}" x2="{x}" y1="0" y2="5"/>'
            f'<text x="{x}" y="18" text-anchor="middle">{escape(plot.tick(value))}</text>'
        )
    return Markup(
        f'<svg class="dots dots-axis" aria-hidden="true" height="22">{"".join(labels)}</svg>'
    )
