"""How far beyond its limit a figure is, as a small bar and in words."""

from __future__ import annotations

import math

from gradmend.records.finding import Evidence
from gradmend.renderers import numbers
from gradmend.renderers.visible import Markup, escape

LOG_FROM = 20.0
"""From this ratio on a bar is logarithmic: on a linear one the smaller could not be seen."""
ALREADY_LOG = ("decades", "nats", "bits")
"""Units of logarithms, in which distances are differences and not ratios."""


def beyond(item: Evidence) -> str:
    """``15 × the limit``, ``57.2 decades beyond``; empty where nothing can be said."""
    observed, limit = item.observed, item.limit
    if limit is None or not (math.isfinite(observed) and math.isfinite(limit)):
        return ""
    gap = observed - limit
    if abs(gap) <= 1e-12 * max(abs(observed), abs(limit)):
        return "at the limit"
    if item.unit in ALREADY_LOG or item.quantity.startswith("log10") or limit == 0 or not observed:
        side = "above" if gap > 0 else "below"
        return f"{numbers.with_unit(abs(gap), item.unit)} {side}"
    ratio = observed / limit
    if ratio <= 0:
        return f"{numbers.number(abs(gap))} {'above' if gap > 0 else 'below'}"
    return f"{numbers.number(ratio, 2)} × the limit"


def limit_bar(item: Evidence, level: str) -> Markup:
    """The figure as a bar and its limit as an upright mark; empty without two finite numbers.

    Args:
        item: What was observed.
        level: The finding's severity, for the colour.
    """
    observed, limit = item.observed, item.limit
    if limit is None or not (math.isfinite(observed) and math.isfinite(limit)):
        return Markup("")
    low, high = sorted((observed, limit))
    log = low > 0 and high > LOG_FROM * low and item.unit not in ALREADY_LOG
    if log:
        start, end = math.log10(low) - 0.3, math.log10(high) + 0.05
        value, mark, origin = math.log10(observed), math.log10(limit), start
    else:
        start, end = min(low, 0.0), max(high, 0.0)
        room = 0.04 * (end - start) or 1.0
        start, end = (start - room if start < 0 else start), end + room
        value, mark, origin = observed, limit, 0.0
    span = end - start
    left, right = sorted((value, origin))
    scale = "on a logarithmic scale" if log else "on a linear scale"
    words = escape(
        f"observed {numbers.with_unit(observed, item.unit)} against a limit of "
        f"{numbers.with_unit(limit, item.unit)}, {scale}"
    )
    return Markup(
        f'<svg class="limit-bar {escape(level)}" role="img" aria-label="{words}" width="110" '
        f'height="14"><title>{words}</title>'
        '<rect class="track" x="0" y="4" width="100%" height="6" rx="3"/>'
        f'<rect class="value" x="{_percent(left - start, span)}" y="4" '
        f'width="{_percent(right - left, span)}" height="6" rx="3"/>'
        f'<line class="mark" x1="{_percent(mark - start, span)}" '
        f'x2="{_percent(mark - start, span)}" y1="0" y2="14"/></svg>'
    )


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}%"
