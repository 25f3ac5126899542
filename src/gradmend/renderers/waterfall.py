"""The ledger drawn: decades piled up from the output back to the input, and by cause."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradmend.records.ledger import CAUSES, Entry, Ledger
from gradmend.renderers import numbers, plot
from gradmend.renderers.grouping import depth_rows
from gradmend.renderers.places import what, where
from gradmend.renderers.visible import Markup, escape, isolate, visible
from gradmend.renderers.words import CAUSE_WORDS

MOST_BINS = 400
"""Bins across a figure: more than about one per two pixels cannot be seen."""
STEPS = 60
"""Up to this many bins are drawn as steps, one per entry; more as slopes."""
MOST_CAUSES = 6


@dataclass(frozen=True, slots=True)
class Bin:
    """Neighbouring leaves of the books, added up."""

    first: Entry
    last: Entry
    size: int
    decades: float
    by_cause: dict[str, float]
    predicted: float | None
    """``None`` where an entry that changes something has no prediction."""


def bins(leaves: Sequence[Entry], most: int = MOST_BINS) -> list[Bin]:
    """Leaves in forward order as at most ``most`` bins of nearly equal size.

    Entries that are not finite add nothing; the figure's caption counts them.
    """
    count = min(len(leaves), most)
    found = []
    for k in range(count):
        part = leaves[k * len(leaves) // count : (k + 1) * len(leaves) // count]
        by_cause: dict[str, float] = {}
        predicted: float | None = 0.0
        for leaf in part:
            value = leaf.decades if math.isfinite(leaf.decades) else 0.0
            cause = leaf.cause if leaf.cause in CAUSES else "other"
            by_cause[cause] = by_cause.get(cause, 0.0) + value
            if leaf.predicted is not None and math.isfinite(leaf.predicted):
                predicted = None if predicted is None else predicted + leaf.predicted
            elif abs(value) > 1e-9:
                predicted = None
        total = math.fsum(by_cause.values())
        found.append(Bin(part[0], part[-1], len(part), total, by_cause, predicted))
    return found


def ledger_figure(ledger: Ledger) -> str:
    """The cumulative figure and the table over depth: what stands without the page's script.

    The script draws :class:`gradmend.renderers.ledger_tree.Books` in its place; on paper this
    one stands.
    """
    assert ledger.root is not None
    leaves = list(ledger.root.leaves())
    parts = bins(leaves)
    total = math.fsum(part.decades for part in parts)
    amount = numbers.count(len(leaves), "entry", "entries")
    causes = _leading_causes(parts)
    piles = {cause: pile([_of(part, cause, causes) for part in parts]) for cause in causes}
    net = pile([part.decades for part in parts])
    predicted = _predicted_pile(parts)
    layers = _stack(piles)
    ends = [v for _, low, high in layers for v in (*low, *high)]
    frame = plot.Plot(
        x=plot.Scale(0, len(parts)),
        y=plot.padded([*ends, *net, *(v for v in predicted if v is not None)], zero=True),
        x_title=f"position in the model, input → output ({amount})",
        y_title="decades gained or lost since the output",
        x_labels=_positions(parts),
        words=(
            f"Cumulative decades of gradient from the output back to the input, "
            f"{signed(total)} in all; the table below has the numbers."
        ),
        height=320,
    )
    for cause, low, high in layers:
        outline = _points(high, len(parts)) + _points(low, len(parts))[::-1]
        frame.area(outline, f"url(#p-{cause})")
    frame.line(_points(net, len(parts)), "net halo")
    frame.line(_points(net, len(parts)), "net")
    known = [v for v in predicted if v is not None]
    if len(known) > 1:
        frame.line(_points(known, len(parts)), "predicted")
    keys = [
        legend_key(cause, f"{cause_words(cause)} {signed(piles[cause][0])}") for cause in causes
    ]
    keys.append(line_key("net", f"all together {signed(total)}"))
    if len(known) > 1:
        keys.append(line_key("predicted", "predicted by theory"))
    inner = f'<div class="legend">{"".join(keys)}</div>{frame.html()}'
    caption = _caption(leaves, parts, len(known) > 1 and len(known) < len(net))
    table = depth_fallback(ledger.root)
    return (
        '<figure class="fig fig-ledger" data-figure="ledger" id="fig-ledger">'
        f"<figcaption><strong>Where the gradient went</strong> {escape(caption)}</figcaption>"
        f'<div class="ledger-static">{inner}<h3>Layer by layer, like ones grouped</h3>{table}</div>'
        "</figure>"
    )


def depth_fallback(root: Entry) -> str:
    """The books over depth as a table, like entries grouped."""
    rows = []
    for row in depth_rows(root):
        group = row.group
        indent = f'<span class="in{row.level}"></span>' if row.level else ""
        rows.append(
            [
                Markup(indent + isolate(where(row) or "–")),
                isolate(what(group)),
                signed(group.decades),
                signed(group.per_repeat) if group.repeats > 1 else "",
                "" if group.predicted is None else signed(group.predicted),
            ]
        )
    table = plot.table(["where", "what", "decades", "each", "predicted"], rows)
    return f'<div class="depth">{table}</div>'


def signed(value: float | None) -> str:
    """Decades with a minus sign as wide as the plus."""
    return numbers.decades(value).replace("-", "\N{MINUS SIGN}")


def cause_words(cause: str) -> str:
    """A cause in a legend."""
    return CAUSE_WORDS.get(cause, "other operations")


def legend_key(cause: str, text: str) -> Markup:
    """A swatch with the cause's colour and pattern, and its name."""
    known = cause if cause in CAUSES else "other"
    return Markup(
        f'<span class="key"><svg class="swatch" viewBox="0 0 16 12" aria-hidden="true">'
        f'<rect width="16" height="12" fill="url(#p-{known})"/></svg>{isolate(text)}</span>'
    )


def line_key(style: str, text: str) -> Markup:
    """A piece of line and its name."""
    return Markup(
        f'<span class="key"><svg class="swatch" viewBox="0 0 16 12" aria-hidden="true">'
        f'<path class="line {style}" d="M0 6H16"/></svg>{isolate(text)}</span>'
    )


def _leading_causes(parts: Sequence[Bin]) -> list[str]:
    """Causes with something to show, weightiest first; the rest goes under ``other``."""
    weight: dict[str, float] = {}
    for part in parts:
        for cause, value in part.by_cause.items():
            weight[cause] = weight.get(cause, 0.0) + abs(value)
    order = sorted((c for c in weight if weight[c] > 0), key=lambda c: -weight[c])
    if len(order) <= MOST_CAUSES:
        return order
    kept = [cause for cause in order if cause != "other"][: MOST_CAUSES - 1]
    return [*kept, "other"]


def _of(part: Bin, cause: str, causes: Sequence[str]) -> float:
    if cause != "other":
        return part.by_cause.get(cause, 0.0)
    return math.fsum(v for c, v in part.by_cause.items() if c == "other" or c not in causes)


def pile(values: Sequence[float]) -> list[float]:
    """Sums from the right: entry k holds everything from bin k to the output."""
    found, total = [0.0], 0.0
    for value in reversed(values):
        total += value
        found.append(total)
    return found[::-1]


def _predicted_pile(parts: Sequence[Bin]) -> list[float | None]:
    found: list[float | None] = [0.0]
    for part in reversed(parts):
        last = found[-1]
        found.append(None if last is None or part.predicted is None else last + part.predicted)
    return found[::-1]


def _stack(piles: dict[str, list[float]]) -> list[tuple[str, list[float], list[float]]]:
    """(cause, from, to) at every position: losses stacked downwards from 0, gains upwards.

    A cause that loses at one depth and gains at another is in it twice.
    """
    size = len(next(iter(piles.values()), []))
    edges = ([0.0] * size, [0.0] * size)
    found = []
    for cause, heights in piles.items():
        for edge, part in zip(edges, (min, max), strict=True):
            start = edge[:]
            for k, value in enumerate(heights):
                edge[k] += part(value, 0.0)
            if edge != start:
                found.append((cause, start, edge[:]))
    return found


def _points(values: Sequence[float], size: int) -> list[plot.Point]:
    """Positions of piled values; ``values`` may start further right where theory ends."""
    offset = size + 1 - len(values)
    if size > STEPS:
        return [(k + offset, value) for k, value in enumerate(values)]
    points: list[plot.Point] = []
    for k, value in enumerate(values[:-1]):
        points += [(k + offset, value), (k + offset + 1, value)]
    return [*points, (size, values[-1])]


def _positions(parts: Sequence[Bin]) -> list[tuple[float, str]]:
    """Module names along the depth: the ends, and some between that have room."""
    wanted = min(len(parts), 5)
    found = []
    for k in range(wanted):
        at = round(k * (len(parts) - 1) / (wanted - 1)) if wanted > 1 else 0
        entry = parts[at].first if k < wanted - 1 or wanted == 1 else parts[at].last
        name = visible(entry.name or entry.label)
        short = name if len(name) <= 14 else "…" + name[-13:]
        found.append((at + 0.5, short))
    return found


def _caption(leaves: Sequence[Entry], parts: Sequence[Bin], theory_ends: bool) -> str:
    words = [
        "The gradient starts at the right, at the output, and flows back to the left. "
        "Below 0 it shrinks, above 0 it grows; each decade is a factor of ten."
    ]
    if len(parts) < len(leaves):
        words.append(f"{len(leaves):,} entries are drawn as {len(parts)} bins.")
    if theory_ends:
        words.append("The predicted line ends where theory has no figure.")
    broken = sum(1 for leaf in leaves if not math.isfinite(leaf.decades))
    if broken:
        words.append(
            f"{numbers.count(broken, 'entry', 'entries')} without a finite figure left out."
        )
    return " ".join(words)
