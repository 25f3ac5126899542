"""The ledger by cause: a bar each, measured, with theory's figure as a mark on it."""

from __future__ import annotations

import math

from gradmend.records.ledger import CAUSES, Ledger
from gradmend.renderers import plot
from gradmend.renderers.visible import Markup, visible
from gradmend.renderers.waterfall import legend_key, signed


def cause_figure(ledger: Ledger, when: str = "") -> str:
    """A bar per cause, measured, with theory's figure as a mark on it.

    Args:
        ledger: The books.
        when: Which look they are of, where there are several.
    """
    known = {k: v for k, v in ledger.by_cause.items() if math.isfinite(v)}
    guesses = {k: v for k, v in ledger.predicted_by_cause.items() if math.isfinite(v)}
    values = [*known.values(), *guesses.values(), 0.0]
    low, high = min(values), max(values)
    span = high - low or 1.0
    rows = []
    for cause, value in sorted(ledger.by_cause.items(), key=lambda item: item[1]):
        guess = guesses.get(cause)
        picture = _cause_bar(cause, known.get(cause, 0.0), guess, low, span)
        rows.append(
            [
                legend_key(cause, visible(cause)),
                signed(value),
                "" if guess is None else signed(guess),
                picture,
            ]
        )
    predicted = ledger.predicted_decades
    rows.append(
        [
            Markup("<b>total</b>"),
            Markup(f"<b>{signed(ledger.total_decades)}</b>"),
            "" if predicted is None else signed(predicted),
            "",
        ]
    )
    head = ["decades by cause", "measured", "predicted", "loss ← 0 → gain"]
    caption = "Bars: measured. Upright mark: what theory predicts from weights and activations."
    inner = f'<div class="causes">{plot.table(head, rows)}</div>'
    title = f"By cause, {when[:1].lower()}{when[1:]}" if when else "By cause"
    return plot.figure(title, inner, caption)


def _cause_bar(cause: str, value: float, guess: float | None, low: float, span: float) -> Markup:
    def x(v: float) -> str:
        return f"{100 * (v - low) / span:.2f}%"

    known = cause if cause in CAUSES else "other"
    width = f"{100 * abs(value) / span:.2f}%"
    mark = "" if guess is None else _upright("guess", x(guess), 1, 21)
    return Markup(
        '<svg class="cbar" aria-hidden="true">'
        f'<rect x="{x(min(value, 0.0))}" y="4" width="{width}" height="14" fill="url(#p-{known})"/>'
        f"{_upright('axis', x(0.0), 0, 22)}{mark}</svg>"
    )


def _upright(style: str, x: str, top: int, bottom: int) -> str:
    return f'<line class="{style}" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
