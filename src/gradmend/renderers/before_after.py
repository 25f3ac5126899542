"""The gradient over depth on two looks: before the repair and after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Floats
from gradmend.records.ledger import Entry
from gradmend.records.report import Report
from gradmend.renderers import plot, words
from gradmend.renderers.page.figure import Axis, Level, Lines, Series
from gradmend.renderers.visible import escape, visible
from gradmend.renderers.waterfall import bins, line_key, pile, signed

TITLE = "The gradient, before and after"
UNTREATED = "The gradient, then and now"
"""Where nothing was changed between the looks but by training."""
CAPTION = "The flatter the line, the more evenly the layers are reached."
POINTS = 200
"""Of a line over a depth that is only a share, because the two models differ in their entries."""


def before_and_after(report: Report) -> str | None:
    """The figure that stands without the page's script; ``None`` where there was one look only."""
    looks = _looks(report)
    if looks is None:
        return None
    lines: dict[str, list[plot.Point]] = {}
    keys = []
    for style, name, root in looks:
        heights = pile([part.decades for part in bins(list(root.leaves()))])
        # As a share of the depth: the edits may have added or taken away operations.
        lines[style] = [(k / max(len(heights) - 1, 1), v) for k, v in enumerate(heights)]
        keys.append(line_key(style, name))
    frame = plot.Plot(
        x=plot.Scale(0, 1),
        y=plot.padded([v for line in lines.values() for _, v in line], zero=True),
        x_title="depth, from input to output (share of the operations booked)",
        y_title="decades gained or lost since the output",
        words="Cumulative decades of gradient over depth, on the first and on the second look.",
        x_labels=[(k / 4, f"{25 * k} %") for k in range(5)],
        height=220,
    )
    for style, line in lines.items():
        frame.line(line, style)
    return (
        '<figure class="fig" data-figure="before-after" id="fig-before-after">'
        f"<figcaption><strong>{escape(_title(report))}</strong> {escape(CAPTION)}</figcaption>"
        f'<div class="ledger-static"><div class="legend">{"".join(keys)}</div>{frame.html()}</div>'
        "</figure>"
    )


def before_after_figure(report: Report) -> Lines | None:
    """The same for the page's script."""
    looks = _looks(report)
    if looks is None:
        return None
    (_, _, first), (_, _, second) = looks
    named = [list(_named(root)) for root in (first, second)]
    same = [name for name, _ in named[0]] == [name for name, _ in named[1]]
    series = []
    for (role, name, _), leaves in zip(looks, named, strict=True):
        heights = np.array(pile([part.decades for part in bins([leaf for _, leaf in leaves])]))
        values = heights[:-1] if same else _over_share(heights)
        series.append(Series(name=name, values=values, role=role))
    if same:
        parts = bins([leaf for _, leaf in named[0]])
        path_of = {id(leaf): path for path, leaf in named[0]}
        layers = [visible(path_of[id(part.first)]) for part in parts]
        categories = [layer or "(the model)" for layer in layers]
        at: NDArray[Any] = np.arange(len(parts))
        x = Axis(label="position in the model, input to output")
    else:
        layers, categories = [], []
        at = np.linspace(0, 1, POINTS + 1)
        x = Axis(label="depth, from input to output", percent=True, lo=0.0, hi=1.0)
    return Lines(
        id="before-after",
        title=_title(report),
        caption=CAPTION,
        words="Cumulative decades of gradient over depth, on the first and on the second look.",
        x=x,
        at=at,
        panels=(Axis(label="gained or lost since the output", unit="decades"),),
        series=series,
        levels=(Level(y=0.0, text="as it left the output"),),
        categories=categories,
        layers=layers,
    )


def _title(report: Report) -> str:
    treated = report.prescription is not None or report.verdict is not None
    return TITLE if treated else UNTREATED


def _looks(report: Report) -> list[tuple[str, str, Entry]] | None:
    """(role, name in a legend, root of the books) of both looks."""
    found = []
    for role, name, ledger in (
        ("before", "on the first look", report.ledger),
        ("after", words.second_look_words(report), report.after.ledger if report.after else None),
    ):
        if ledger is None or ledger.root is None:
            return None
        found.append((role, f"{name} {signed(ledger.total_decades)}", ledger.root))
    return found


def _named(root: Entry) -> Iterator[tuple[str, Entry]]:
    """(path of the module it belongs to, leaf) in forward order."""
    stack = [(root.name if root.kind == "module" else "", root)]
    while stack:
        path, entry = stack.pop()
        if not entry.children:
            yield path, entry
        stack.extend(
            (child.name if child.kind == "module" else path, child)
            for child in reversed(entry.children)
        )


def _over_share(heights: Floats) -> Floats:
    places = np.linspace(0, 1, POINTS + 1)
    sampled: Floats = np.interp(places, np.linspace(0, 1, len(heights)), heights)
    return sampled
