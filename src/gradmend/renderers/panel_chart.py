"""The pictures of the live panel as SVG: a line over steps, and a strip over depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradmend.records.history import Floats, Steps
from gradmend.renderers import numbers
from gradmend.renderers.run_profile import Layer
from gradmend.renderers.run_tables import size
from gradmend.renderers.visible import escape, isolate, shorten, visible

WIDTH, TALL = 290, 122
LEFT, RIGHT, TOP, BOTTOM = 50, 284, 26, 102
CELLS = 110
"""Stretches of steps of a line, each drawn from its least to its most: no spike is lost."""
LINE, LIMIT, BAD = "#3b87c8", "#d5651f", "#d1495b"
"""Blue and vermilion that stand out from white and from black alike (at least 3 : 1)."""
CIVIDIS = (
    (0x00, 0x22, 0x4E), (0x12, 0x35, 0x70), (0x3B, 0x49, 0x6C), (0x57, 0x5D, 0x6D),
    (0x70, 0x71, 0x73), (0x8A, 0x86, 0x78), (0xA5, 0x9C, 0x74), (0xC3, 0xB3, 0x69),
    (0xE1, 0xCC, 0x55), (0xFE, 0xE8, 0x38),
)  # fmt: skip
"""Nunez, Anderton and Renslow 2018: even in lightness, and the same for the colour-blind."""
STRIP = 906
"""Pixels that three charts take beside each other."""
_SMALL = "font-size:11px;font-variant-numeric:tabular-nums"


@dataclass(frozen=True, slots=True)
class Chart:
    """A quantity over the steps."""

    title: str
    note: str
    """What is to be known of it, in grey beside the title."""
    steps: Steps
    values: Floats
    """As they are drawn: logarithms where ``log``."""
    log: bool = False
    """Whether they are powers of ten."""
    line: float | None = None
    """A value to draw a line at."""


def chart(each: Chart) -> str:
    """One chart; what is not finite is a mark at the edge it went over."""
    finite = each.values[np.isfinite(each.values)]
    low, high = _range(finite, each.line)
    begin, end = int(each.steps[0]), int(each.steps[-1])
    last = float(each.values[-1])
    newest = _say(last, each.log)
    parts = [
        f'<text x="0" y="12" font-weight="600">{escape(each.title)}'
        f'<tspan font-weight="400" opacity=".65" dx="6">{escape(each.note)}</tspan></text>',
        f'<text x="{RIGHT}" y="12" text-anchor="end" font-weight="600" fill="{LINE}">'
        f"{escape(newest)}</text>",
        f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" stroke="currentColor"'
        ' opacity=".35"/>',
        _label(LEFT - 5, TOP + 4, "end", _say(high, each.log)),
        _label(LEFT - 5, BOTTOM, "end", _say(low, each.log)),
        _label(LEFT, TALL - 5, "start", f"step {begin:,}"),
        _label(RIGHT, TALL - 5, "end", f"{end:,}"),
    ]
    if each.line is not None:
        y = _y(each.line, low, high)
        near = any(abs(y - edge) < 13 for edge in (TOP + 4, BOTTOM))
        said = "" if near else _label(LEFT - 5, y + 4, "end", _say(each.line, each.log), LIMIT)
        parts.append(
            f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{LIMIT}" stroke-dasharray="4 3"/>{said}'
        )
    parts.append(_drawn(each, low, high, begin, end))
    about = f"{each.title}: {newest} at step {end:,}, between {_say(low, each.log)} and"
    named = escape(f"{about} {_say(high, each.log)}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {TALL}" width="{WIDTH}" height="{TALL}" role="img"'
        f' style="flex:0 1 {WIDTH}px;max-width:100%;{_SMALL}" fill="currentColor"'
        f' aria-label="{named}">{"".join(parts)}</svg>'
    )


def _range(finite: Floats, line: float | None) -> tuple[float, float]:
    values = [*finite.tolist(), *([] if line is None else [line])]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-30):
        pad = 0.5 * abs(high) if high else 0.5
        return low - pad, high + pad
    return low, high


def _drawn(each: Chart, low: float, high: float, begin: int, end: int) -> str:
    """The median of each stretch as a line, from its least to its most as a band."""
    reach = max(end - begin, 1)
    cell = np.minimum((each.steps - begin) * CELLS // reach, CELLS - 1)
    line: list[str] = []
    over: list[str] = []
    under: list[str] = []
    marks: dict[tuple[int, int], str] = {}
    for at in np.unique(cell):
        here = cell == at
        values, steps = each.values[here], each.steps[here]
        x = LEFT + (RIGHT - LEFT) * (float(steps.mean()) - begin) / reach
        finite = values[np.isfinite(values)]
        if len(finite):
            middle, most, least = np.median(finite), finite.max(), finite.min()
            for points, value in ((line, middle), (over, most), (under, least)):
                points.append(f"{x:.1f} {_y(float(value), low, high):.1f}")
        for bad in values[~np.isfinite(values)]:
            edge = BOTTOM if bad < 0 else TOP
            marks[round(x), edge] = f'<circle cx="{x:.1f}" cy="{edge}" r="2.5" fill="{BAD}"/>'
    if len(line) > 1:
        band = f"M{'L'.join([*over, *reversed(under)])}Z"
        drawn = (
            f'<path d="{band}" fill="{LINE}" stroke="{LINE}" stroke-width=".5" opacity=".3"/>'
            f'<path d="M{"L".join(line)}" fill="none" stroke="{LINE}" stroke-width="1.6"/>'
        )
    else:
        drawn = "".join(
            f'<circle cx="{x}" cy="{y}" r="2.5" fill="{LINE}"/>'
            for x, y in (point.split() for point in line)
        )
    return drawn + "".join(marks.values())


def _y(value: float, low: float, high: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)


def _say(value: float, log: bool) -> str:
    if math.isnan(value):
        return "not finite"
    return size(value) if log else numbers.number(value)


def _label(x: float, y: float, anchor: str, text: str, colour: str = "currentColor") -> str:
    opacity = ' opacity=".75"' if colour == "currentColor" else ""
    return (
        f'<text x="{x}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{opacity}>'
        f"{escape(text)}</text>"
    )


def heat_strip(rows: Sequence[Layer]) -> str:
    """Gradient over depth, first and now, as two rows of coloured cells as wide as there is room.

    A layer without a gradient is an empty cell, one whose gradient is not finite a crossed one.
    """
    both = (("at first", [r.log10_first for r in rows]), ("now", [r.log10_last for r in rows]))
    known = [v for _, values in both for v in values if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    drawn = []
    for line, (name, values) in enumerate(both):
        cells = "".join(
            _cell(at, row, value, row.state if line else "", low, high)
            for at, (row, value) in enumerate(zip(rows, values, strict=True))
        )
        drawn.append(
            f'<div style="display:flex;gap:6px;align-items:center;margin-top:3px"><span'
            f' style="flex:0 0 44px;text-align:right;opacity:.75">{name}</span>'
            f'<svg viewBox="0 0 {len(rows)} 1" preserveAspectRatio="none" role="img"'
            f' aria-label="gradient by layer, {name}" style="flex:1;min-width:0;height:16px">'
            f"{cells}</svg></div>"
        )
    scale = "".join(
        f'<rect x="{at}" y="0" width="1.05" height="1" fill="{_hex(colour)}"/>'
        for at, colour in enumerate(CIVIDIS)
    )
    told = f"{size(low)} to {size(high)}" if known else "no gradient yet"
    ends = (visible(rows[0].name or "(the model)"), visible(rows[-1].name or "(the model)"))
    first, last = (isolate(shorten(end, 24)) for end in ends)
    return (
        f'<div style="max-width:{STRIP}px;margin-top:8px;{_SMALL}"><div><b>gradient by layer</b>'
        ' <span style="opacity:.65">root mean square; left the input, right the output</span>'
        f"</div>{''.join(drawn)}"
        '<div style="display:flex;gap:6px;align-items:center;margin:4px 0 0 50px">'
        f'<svg viewBox="0 0 {len(CIVIDIS)} 1" preserveAspectRatio="none" width="80" height="8"'
        f' aria-hidden="true">{scale}</svg><span style="opacity:.75">{escape(told)}</span>'
        f'<span style="margin-left:auto;opacity:.75">{first} to {last}</span></div></div>'
    )


def _cell(at: int, row: Layer, value: float, state: str, low: float, high: float) -> str:
    said = state or ("not measured" if math.isnan(value) else size(value))
    name = escape(shorten(visible(row.name or "(the model)"), 80))
    title = f"<title>{name}: {escape(said)}</title>"
    box = f'x="{at + 0.03:.2f}" y="0" width="0.94" height="1"'
    thin = 'vector-effect="non-scaling-stroke"'
    if state == "not finite" or value == math.inf:
        cross = f"M{at + 0.03:.2f} 0l.94 1m0 -1l-.94 1"
        return (
            f'<g stroke="{BAD}" fill="none"><rect {box} {thin}/><path d="{cross}" {thin}/>'
            f"{title}</g>"
        )
    if state or not math.isfinite(value):
        outline = 'fill="none" stroke="currentColor" opacity=".4"'
        return f"<rect {box} {outline} {thin}>{title}</rect>"
    share = (value - low) / (high - low) if high > low else 1.0
    return f'<rect {box} fill="{_hex(_shade(share))}">{title}</rect>'


def _shade(share: float) -> tuple[int, int, int]:
    """A colour of the map, straight between its anchors."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    at = min(int(place), len(CIVIDIS) - 2)
    pairs = zip(CIVIDIS[at], CIVIDIS[at + 1], strict=True)
    red, green, blue = (round(a + (b - a) * (place - at)) for a, b in pairs)
    return red, green, blue


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)
