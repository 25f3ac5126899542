"""The forward signal over depth: how much tells the samples apart, and how much they share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradmend.records.trace import Operation, Trace
from gradmend.renderers import numbers, plot
from gradmend.renderers.visible import isolate, visible
from gradmend.renderers.waterfall import MOST_BINS, line_key

KINDS = {"first": "outputs of linear maps", "second": "outputs of activations"}


def signal_figure(trace: Trace) -> str | None:
    """Spread and offset of the forward signal, or ``None`` where no signal was measured."""
    series = {
        "first": [op for op in trace.operations if op.weights is not None and op.signal],
        "second": [op for op in trace.operations if op.activation is not None and op.signal],
    }
    if not any(series.values()):
        series = {"first": [op for op in trace.operations if op.signal]}
    names = KINDS if len(series) > 1 else {"first": "outputs of operations"}
    drawn = {kind: ops for kind, ops in series.items() if ops}
    if not drawn:
        return None
    places = {op.id: k for k, op in enumerate(_in_order(drawn))}
    spread = {k: _thinned([(places[op.id], _log_spread(op)) for op in v]) for k, v in drawn.items()}
    shared = {k: _thinned([(places[op.id], _share(op)) for op in v]) for k, v in drawn.items()}
    across = plot.Scale(0, max(len(places) - 1, 1))
    title = f"position in the model, input → output ({numbers.count(len(places), 'operation')})"
    labels = _labels(_in_order(drawn))
    upper = plot.Plot(
        x=across,
        y=plot.padded([y for line in spread.values() for _, y in line], whole=True),
        x_title="",
        y_title="spread across samples (log10 of rms)",
        x_labels=labels,
        words="Spread of the forward signal across samples over depth; the table has the numbers.",
        height=200,
    )
    lower = plot.Plot(
        x=across,
        y=plot.Scale(0, 1),
        x_title=title,
        y_title="share of the energy that all samples have in common",
        x_labels=labels,
        words="Share of the signal's energy that is the same for every sample, over depth.",
        height=140,
        y_percent=True,
    )
    for kind in drawn:
        for frame, lines in ((upper, spread), (lower, shared)):
            frame.line(lines[kind], kind)
            if len(lines[kind]) <= 24:
                for point in lines[kind]:
                    frame.dot(point, kind)
    keys = "".join(line_key(kind, names[kind]) for kind in drawn)
    caption = (
        "Above: what tells the samples of the batch apart. Below: what is the same for all of "
        "them and carries no information."
    )
    if any(len(ops) > MOST_BINS for ops in drawn.values()):
        caption += f" Each line is thinned to {MOST_BINS} averages."
    silent = sum(1 for ops in drawn.values() for op in ops if not math.isfinite(_log_spread(op)))
    if silent:
        caption += f" {numbers.count(silent, 'operation')} without any finite spread not drawn."
    inner = f'<div class="legend">{keys}</div>{upper.html()}{lower.html()}'
    return plot.figure("What tells samples apart", inner, caption, _fallback(_in_order(drawn)))


def _in_order(series: dict[str, list[Operation]]) -> list[Operation]:
    unique = {op.id: op for ops in series.values() for op in ops}
    return [unique[key] for key in sorted(unique)]


def _log_spread(op: Operation) -> float:
    spread = op.signal.spread_square if op.signal else math.nan
    return 0.5 * math.log10(spread) if math.isfinite(spread) and spread > 0 else math.nan


def _share(op: Operation) -> float:
    if op.signal is None or not math.isfinite(op.signal.mean_square):
        return math.nan  # offset_share says 0 where the energy is not a number
    share = op.signal.offset_share
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else math.nan


def _thinned(points: Sequence[plot.Point]) -> list[plot.Point]:
    """Finite points, as averages over neighbours where there are too many to see."""
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) <= MOST_BINS:
        return finite
    found = []
    for k in range(MOST_BINS):
        start, end = k * len(finite) // MOST_BINS, (k + 1) * len(finite) // MOST_BINS
        part = finite[start:end]
        found.append(
            (math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part))
        )
    return found


def _labels(ops: Sequence[Operation]) -> list[tuple[float, str]]:
    wanted = min(len(ops), 5)
    spots = [round(k * (len(ops) - 1) / max(wanted - 1, 1)) for k in range(wanted)]
    names = [visible(ops[k].module or ops[k].name) for k in spots]
    return [
        (float(k), name if len(name) <= 14 else "…" + name[-13:])
        for k, name in zip(spots, names, strict=True)
    ]


def _fallback(ops: Sequence[Operation]) -> str:
    """At most 25 operations, evenly over the depth, always the first and the last."""
    most = min(len(ops), 25)
    spots = sorted({round(k * (len(ops) - 1) / max(most - 1, 1)) for k in range(most)})
    rows = [
        [
            isolate(ops[k].module or "–"),
            isolate(ops[k].name),
            numbers.number(math.sqrt(s.spread_square)) if s.spread_square >= 0 else "n/a",
            numbers.percent(s.offset_share),
        ]
        for k in spots
        if (s := ops[k].signal) is not None
    ]
    words = "" if most == len(ops) else f"{most} of {len(ops):,} operations, evenly over the depth"
    head = ["module", "operation", "spread (rms)", "in common"]
    return plot.table(head, rows, caption=words)
