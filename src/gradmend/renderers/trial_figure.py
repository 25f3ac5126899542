"""The trial's training curves: every seed of the original and the winner, their spread, rivals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradmend.records.history import Floats
from gradmend.records.verdict import Arm, Verdict
from gradmend.renderers import numbers, plot, treatment
from gradmend.renderers.page.figure import Axis, Lines, Series
from gradmend.renderers.visible import escape, visible
from gradmend.renderers.waterfall import line_key

TITLE = "Training, before and after"
MOST_POINTS = 400
"""Values of x: an arm keeps at most 200 points, and arms of one length keep the same."""
MOST_RIVALS = 40
"""Rivals drawn; a race has fewer but for very long ones."""
LOG_FROM = 50.0
"""From this ratio of the largest to the smallest loss on, the axis is logarithmic."""


def trial_figure(verdict: Verdict) -> Lines | None:
    """The curves for the page's script; ``None`` where no arm has any."""
    points = _points(verdict)
    if not points:
        return None
    steps = np.unique([step for step, _ in points])
    if len(steps) > MOST_POINTS:
        steps = np.unique(np.linspace(steps[0], steps[-1], MOST_POINTS).round())
    rivals = _described(verdict.rivals)
    shown = [(name, arm) for name, arm in rivals if treatment.curve(arm)][:MOST_RIVALS]
    series = [
        Series(name=name, values=_sampled(arm, steps), role="background") for name, arm in shown
    ]
    for role, name, arms in (
        ("before", "original", verdict.original),
        ("after", "repaired", verdict.winner),
    ):
        series += _seeds(role, name, arms, steps)
    return Lines(
        id="trial",
        title=TITLE,
        caption=_caption(verdict),
        words="Training loss over steps for the original, the repaired model and its rivals.",
        x=Axis(label="optimizer step"),
        at=steps,
        panels=(Axis(label="training loss", log=_logarithmic(points)),),
        series=series,
    )


def _seeds(role: str, name: str, arms: Sequence[Arm], steps: Floats) -> list[Series]:
    """A thin line for each seed, and their mean with the range between them."""
    drawn = [arm for arm in arms if treatment.curve(arm)]
    if not drawn:
        return []
    if len(drawn) == 1:
        only = f"{name}, seed {drawn[0].seed}" if len(arms) > 1 else name
        return [Series(name=only, values=_sampled(drawn[0], steps), role=role)]
    lines = [_sampled(arm, steps) for arm in drawn]
    table = np.array(lines)
    # Where one seed was stopped early the mean would jump: it ends with the first that ends.
    whole = np.isfinite(table).all(axis=0)
    mean, low, high = (
        np.where(whole, values, np.nan)
        for values in (table.mean(axis=0), table.min(axis=0), table.max(axis=0))
    )
    return [
        *(
            Series(name=f"{name}, seed {arm.seed}", values=line, role=f"{role}-seed")
            for arm, line in zip(drawn, lines, strict=True)
        ),
        Series(
            name=f"{name}, mean and range of {len(drawn)} seeds",
            values=mean, low=low, high=high, role=role,
        ),
    ]  # fmt: skip


def _sampled(arm: Arm, steps: Floats) -> Floats:
    """An arm's losses at other steps, up to its first that is not finite."""
    known: list[tuple[int, float]] = []
    for point in arm.losses:
        if not math.isfinite(point[1]):
            break
        known.append(point)
    if not known:
        return np.full(len(steps), np.nan)
    at, values = np.array(known, dtype=np.float64).T
    order = np.argsort(at, kind="stable")
    sampled: Floats = np.interp(steps, at[order], values[order], left=np.nan, right=np.nan)
    return sampled


def _described(arms: Sequence[Arm]) -> list[tuple[str, Arm]]:
    several = len({arm.seed for arm in arms}) > 1
    return [(visible(a.name) + (f", seed {a.seed}" if several else ""), a) for a in arms]


def _points(verdict: Verdict) -> list[tuple[int, float]]:
    arms = (*verdict.rivals, *verdict.original, *verdict.winner)
    return [point for arm in arms for point in treatment.curve(arm)]


def _logarithmic(points: Sequence[tuple[int, float]]) -> bool:
    losses = [loss for _, loss in points]
    return min(losses) > 0 and max(losses) > LOG_FROM * min(losses)


def _caption(verdict: Verdict) -> str:
    caption = "Same start, same batches and same budget for every training of one seed."
    arms = (*verdict.rivals, *verdict.original, *verdict.winner)
    gone = [arm for arm in arms if arm.diverged or arm.error]
    if gone:
        caption += f" {numbers.count(len(gone), 'training')} diverged or failed."
    return caption


def trial_curves(verdict: Verdict) -> str | None:
    """The curves as they stand without the page's script."""
    points = _points(verdict)
    if not points:
        return None
    losses = [loss for _, loss in points]
    log = _logarithmic(points)
    # A log axis needs no round ends; a little room keeps the curves off the frame.
    y = plot.Scale(min(losses) / 1.2, max(losses) * 1.2, True) if log else plot.padded(losses)
    first, last = min(s for s, _ in points), max(s for s, _ in points)
    frame = plot.Plot(
        x=plot.Scale(first, last if last > first else first + 1),
        y=y,
        x_title="optimizer steps",
        y_title="training loss" + (" (logarithmic)" if log else ""),
        words="Training loss over steps for the original, the repaired model and its rivals.",
        height=260,
    )
    keys = []
    for style, name, arms in (
        ("rival", "rivals", verdict.rivals),
        ("before", "original", verdict.original),
        ("after", "repaired", verdict.winner),
    ):
        drawn = [curve for arm in arms if (curve := treatment.curve(arm))]
        for curve in drawn:
            frame.line([(float(s), loss) for s, loss in curve], style)
        if drawn:
            amount = f" ({numbers.count(len(drawn), 'training')})" if len(drawn) > 1 else ""
            keys.append(line_key(style, name + amount))
    caption = escape(_caption(verdict))
    return (
        '<figure class="fig" data-figure="trial" id="fig-trial">'
        f"<figcaption><strong>{escape(TITLE)}</strong> {caption}</figcaption>"
        f'<div class="ledger-static"><div class="legend">{"".join(reversed(keys))}</div>'
        f"{frame.html()}</div></figure>"
    )
