"""The small live panel of a training: words, three charts and a strip of layers, without a script.

It stands in a notebook's own page and is replaced every few seconds, so it takes the notebook's
colours (``currentColor``), needs no style sheet and holds a few kilobytes whatever the run's size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from gradmend.records.finding import Finding, Severity
from gradmend.records.history import Floats, History, Steps
from gradmend.renderers import numbers
from gradmend.renderers.panel_chart import Chart, chart, heat_strip
from gradmend.renderers.run_profile import layers
from gradmend.renderers.visible import escape, isolate, shorten, visible

MOST_FINDINGS = 3
LAYERS = 64
"""Cells of the strip, at most."""
EDGE = 20
"""Steps at either end whose median is told as the loss: one batch says little."""
_COLOUR = {Severity.ERROR: "#d1495b", Severity.WARNING: "#c77d0a", Severity.NOTE: "#4a86b8"}
_FRAME = (
    "font:13px/1.45 system-ui,-apple-system,'Segoe UI',sans-serif;max-width:980px;"
    "padding:10px 14px;border:1px solid rgba(128,128,128,.35);border-radius:8px"
)


def panel_of(history: History, findings: Sequence[Finding]) -> str:
    """The panel of a run so far.

    Args:
        history: The run so far.
        findings: Those that hold now, in any order.
    """
    parts = [f'<div style="{_FRAME}">', _status(history), _findings(history, findings)]
    drawn = [chart(each) for each in charts(history)]
    if drawn:
        parts.append(
            '<div style="display:flex;flex-wrap:wrap;gap:6px 18px;margin-top:8px">'
            f"{''.join(drawn)}</div>"
        )
    rows = layers(history, limit=LAYERS)
    if len(rows) > 1:
        parts.append(heat_strip(rows))
    return "".join([*parts, "</div>"])


def panel_words_of(history: History, findings: Sequence[Finding]) -> str:
    """The panel as a few lines of text."""
    lines = [f"gradmend, {status_words(history)}", *map(visible, finding_lines(history, findings))]
    return "\n".join(lines)


def status_words(history: History) -> str:
    """``watching: step 1,200, 34 s, loss 2.3 -> 0.42``."""
    run = history.run
    if not run.steps:
        return "watching: waiting for the first step"
    planned = f" of {run.planned_steps:,}" if run.planned_steps else ""
    told = [f"step {run.steps:,}{planned}", numbers.seconds(run.seconds)]
    _, loss = _loss(history)
    known = loss[np.isfinite(loss)]
    if len(known):
        edge = max(1, min(EDGE, len(known) // 5))
        first, last = (float(np.median(part)) for part in (known[:edge], known[-edge:]))
        told.append(f"loss {numbers.number(first)} -> {numbers.number(last)}")
    return f"watching: {', '.join(told)}"


def finding_lines(history: History, findings: Sequence[Finding]) -> list[str]:
    """The gravest findings in a line each, as they stand in the text."""
    if not findings:
        return ["nothing found so far"] if history.run.steps else []
    ranked = sorted(findings, key=lambda f: -f.severity.rank)
    lines = [f"{f.severity.value}: {f.name}: {f.summary}" for f in ranked[:MOST_FINDINGS]]
    more = len(ranked) - len(lines)
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def charts(history: History) -> list[Chart]:
    """Loss, gradient norm and update ratio over the steps, those of which anything is known."""
    steps, loss = _loss(history)
    known = loss[np.isfinite(loss)]
    log = len(known) > 0 and float(known.min()) > 0 and float(known.max() / known.min()) >= 10
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = np.log10(loss) if log else loss
    table = history["step"]
    at = _main(history)
    norm = table.series("log10_norm", at) if table.columns else (steps[:0], loss[:0])
    found = [
        Chart("loss", "", steps, loss, log=log),
        Chart("gradient norm", "", *norm, log=True),
        Chart("update : weight", "median of the tensors", *_ratios(history), log=True, line=-3.0),
    ]
    return [each for each in found if len(each.values)]


def _main(history: History) -> int:
    """The optimizer with the most losses."""
    losses = history["step"]["loss"]
    return int(np.argmax((~np.isnan(losses)).sum(axis=0))) if losses.size else 0


def _loss(history: History) -> tuple[Steps, Floats]:
    table = history["step"]
    if not table.columns:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return table.series("loss", _main(history))


def _ratios(history: History) -> tuple[Steps, Floats]:
    """The median over all tensors of log10 update over weight, at each measured step."""
    table = history["update"]
    values = table["log10_ratio"]
    rows = ~np.isnan(values).all(axis=1) if values.size else np.zeros(len(table), dtype=bool)
    return table.steps[rows], np.nanmedian(values[rows], axis=1) if rows.any() else np.zeros(0)


def _status(history: History) -> str:
    told = status_words(history).replace("->", "\N{RIGHTWARDS ARROW}")
    head, _, rest = re.sub(r"(\d) (s|min|h)\b", "\\1\u00a0\\2", told).partition(": ")
    name = shorten(visible(history.run.name or " ".join(history.run.models)), 40)
    named = f' <span style="opacity:.7">{isolate(name)}</span>' if name else ""
    return (
        f'<div role="status"><b>gradmend</b>{named} \N{MIDDLE DOT} {escape(head)}:'
        f' <span style="font-variant-numeric:tabular-nums">{escape(rest)}</span></div>'
    )


def _findings(history: History, findings: Sequence[Finding]) -> str:
    lines = finding_lines(history, findings)
    if not findings:
        return f'<div style="opacity:.75">{escape(line)}.</div>' if (line := "".join(lines)) else ""
    ranked = sorted(findings, key=lambda f: -f.severity.rank)[:MOST_FINDINGS]
    items = [
        f'<div style="margin-top:3px"><b style="color:{_COLOUR[f.severity]}">'
        f"{escape(f.severity.value)}</b> <b>{isolate(f.name)}</b>:"
        f" {isolate(shorten(visible(f.summary), 220))}</div>"
        for f in ranked
    ]
    more = lines[len(ranked) :]
    return "".join(items) + "".join(f'<div style="opacity:.75">{escape(m)}</div>' for m in more)
