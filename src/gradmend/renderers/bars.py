"""Bars and sparklines made of characters; sides and signs carry what colour repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

LOSS = "red"
GAIN = "green"


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of a picture; ASCII for pipes and plain terminals."""

    loss: str
    half_loss: str
    gain: str
    half_gain: str
    axis: str
    levels: str
    ellipsis: str


BLOCKS = Glyphs("█", "▐", "▓", "▌", "│", "▁▂▃▄▅▆▇█", "…")
ASCII = Glyphs("#", "", "+", "", "|", "_.-~=*#", "...")


def axis_position(values: Sequence[float], width: int) -> tuple[int, int]:
    """Split a bar column into room for losses and room for gains, as the values need.

    Returns:
        Characters left and right of the axis; their sum is ``width - 1``.
    """
    room = max(width - 1, 2)
    finite = [v for v in values if math.isfinite(v)]
    loss = max((-v for v in finite), default=0.0)
    gain = max(finite, default=0.0)
    loss, gain = max(loss, 0.0), max(gain, 0.0)
    if loss + gain <= 0:
        return room // 2, room - room // 2
    left = round(room * loss / (loss + gain))
    left = min(max(left, 1), room - 1)
    return left, room - left


def bar(value: float, scale: float, left: int, right: int, glyphs: Glyphs) -> Text:
    """One bar: losses grow leftwards from the axis, gains rightwards.

    Args:
        value: Decades.
        scale: Characters per decade.
        left: Characters left of the axis.
        right: Characters right of it.
        glyphs: What it is drawn with.
    """
    text = Text(no_wrap=True)
    length = abs(value) * scale if math.isfinite(value) else 0.0
    room = left if value < 0 else right
    whole = min(int(length + (0.5 if not glyphs.half_loss else 0.0)), room)
    half = bool(glyphs.half_loss) and length - whole >= 0.5 and whole < room
    if value < 0:
        drawn = (glyphs.half_loss if half else "") + glyphs.loss * whole
        text.append(" " * (left - len(drawn)))
        text.append(drawn, style=LOSS)
        text.append(glyphs.axis, style="dim")
    else:
        drawn = glyphs.gain * whole + (glyphs.half_gain if half else "")
        text.append(" " * left)
        text.append(glyphs.axis, style="dim")
        text.append(drawn, style=GAIN)
    return text


def bars(values: Sequence[float], width: int, glyphs: Glyphs) -> list[Text]:
    """Bars on one common scale and axis."""
    left, right = axis_position(values, width)
    finite = [v for v in values if math.isfinite(v)]
    loss = max((-v for v in finite), default=0.0)
    gain = max(finite, default=0.0)
    scales = [room / most for room, most in ((left, loss), (right, gain)) if most > 0]
    scale = min(scales, default=0.0)
    return [bar(value, scale, left, right, glyphs) for value in values]


def sparkline(
    values: Sequence[float], width: int, glyphs: Glyphs, *, low: float, high: float
) -> str:
    """Values over time in one line of characters; several lines may share ``low`` and ``high``."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite or width < 1:
        return ""
    cells = min(width, len(finite))
    top = len(glyphs.levels) - 1
    drawn = []
    for cell in range(cells):
        part = finite[cell * len(finite) // cells : (cell + 1) * len(finite) // cells]
        mean = sum(part) / len(part)
        level = (mean - low) / (high - low) if high > low else 0.5
        drawn.append(glyphs.levels[round(min(max(level, 0.0), 1.0) * top)])
    return "".join(drawn)
