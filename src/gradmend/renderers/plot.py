"""One plot frame for every figure: an SVG that stretches, with labels that do not.

The SVG is stretched to the width of the page; its labels are HTML laid over it at percentages, so
that they keep their size on a phone. A figure is described in words for those who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gradmend.renderers import numbers
from gradmend.renderers.visible import as_markup, escape

WIDE = 1000.0
"""Units across every SVG; down, one unit is one CSS pixel."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to a fraction of the axis."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """0 at ``low``, 1 at ``high``."""
        low, high, x = self.low, self.high, value
        if self.log:
            low, high, x = math.log10(low), math.log10(high), math.log10(value)
        return (x - low) / (high - low) if high > low else 0.5

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, math.ceil((last - first + 1) / count))
            found = [10.0**k for k in range(first, last + 1, step)]
            return found if len(found) > 1 else [self.low, self.high]
        return nice_ticks(self.low, self.high, count)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def padded(values: Iterable[float], *, zero: bool = False, whole: bool = True) -> Scale:
    """A scale that holds all finite values, widened to round ends.

    Args:
        values: What is to be drawn.
        zero: Whether 0 must be inside.
        whole: Whether the ends are ticks.
    """
    finite = [v for v in values if math.isfinite(v)]
    if zero:
        finite.append(0.0)
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if high - low < 1e-12 * max(abs(low), abs(high), 1.0):
        room = max(abs(high) * 0.1, 0.5)
        low, high = (low if zero and low == 0 else low - room), high + room
    if not whole:
        return Scale(low, high)
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


@dataclass(slots=True)
class Plot:
    """A figure's frame: scales, marks inside, axis titles with units, and words for it."""

    x: Scale
    y: Scale
    x_title: str
    y_title: str
    words: str
    """What the figure shows, for a screen reader."""
    height: int = 280
    x_labels: Sequence[tuple[float, str]] | None = None
    """(position, text) instead of numbers."""
    y_percent: bool = False
    marks: list[str] = field(default_factory=list)

    def place(self, point: Point) -> Point:
        """A value pair in units of the SVG."""
        return self.x.at(point[0]) * WIDE, (1 - self.y.at(point[1])) * self.height

    def line(self, points: Sequence[Point], style: str) -> None:
        """Add a line through points, in a class of the page's style sheet."""
        if len(points) == 1:
            points = [points[0], points[0]]
        if points:
            self.marks.append(f'<path class="line {style}" d="{self._path(points)}"/>')

    def area(self, points: Sequence[Point], fill: str) -> None:
        """Add a closed shape with a fill such as ``url(#p-weights)``, in a class of its own."""
        if points:
            self.marks.append(f'<path class="area" fill="{fill}" d="{self._path(points)}Z"/>')

    def dot(self, point: Point, style: str) -> None:
        """Add a round dot: a line of no length with round ends, which stretching leaves round."""
        x, y = self.place(point)
        self.marks.append(f'<path class="dot {style}" d="M{x:.1f} {y:.1f}h0.01"/>')

    def _path(self, points: Sequence[Point]) -> str:
        placed = [self.place(point) for point in points]
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)

    def html(self) -> str:
        """The frame with everything in it."""
        grid, labels = [], []
        for value in self.y.ticks(max(2, self.height // 56)):
            share = 1 - self.y.at(value)
            strong = " zero" if value == 0 else ""
            y = share * self.height
            grid.append(f'<path class="grid{strong}" d="M0 {y:.1f}H{WIDE:.0f}"/>')
            text = f"{100 * value:.0f} %" if self.y_percent else tick(value)
            labels.append(f'<span class="yt" style="top:{100 * share:.2f}%">{text}</span>')
        ticks = self.x_labels
        if ticks is None:
            ticks = [(value, tick(value)) for value in self.x.ticks(6)]
        for rank, (value, text) in enumerate(ticks):
            share = self.x.at(value)
            side = " first" if share < 0.04 else " last" if share > 0.96 else ""
            side += " odd" if rank % 2 else ""  # on a phone there is room for every second one
            labels.append(
                f'<span class="xt{side}" style="left:{100 * share:.2f}%">{escape(text)}</span>'
            )
        return (
            f'<div class="plot" role="img" aria-label="{escape(self.words)}">'
            f'<div class="ytitle">{escape(self.y_title)}</div>'
            f'<div class="frame" style="height:{self.height}px">'
            f'<svg viewBox="0 0 {WIDE:.0f} {self.height}" preserveAspectRatio="none" '
            f'aria-hidden="true">{"".join(grid)}{"".join(self.marks)}</svg>{"".join(labels)}</div>'
            f'<div class="xtitle">{escape(self.x_title)}</div></div>'
        )


def tick(value: float) -> str:
    """A value beside an axis."""
    if abs(value) < 1e-12:
        return "0"
    return numbers.number(value).replace("-", "−")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table; the first column names the row. Cells are escaped unless they are markup."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{as_markup(row[0])}</th>'
        + "".join(f"<td>{as_markup(c)}</td>" for c in row[1:])
        + "</tr>"
        for row in rows
    )
    words = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{words}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(title: str, inner: str, caption: str, fallback: str = "") -> str:
    """A figure with its caption, and its numbers as a table to be opened."""
    more = f"<details><summary>The numbers as a table</summary>{fallback}</details>"
    return (
        f"<figure><h3>{escape(title)}</h3>{inner}<figcaption>{escape(caption)}</figcaption>"
        f"{more if fallback else ''}</figure>"
    )
