"""The tables of a watched run: over depth, the books of a step, fates, attention, recurrence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gradmend.records import history as records
from gradmend.records.history import History
from gradmend.renderers import numbers
from gradmend.renderers.bars import GAIN, LOSS, bar, bars
from gradmend.renderers.run_books import StepBooks
from gradmend.renderers.run_profile import Layer
from gradmend.renderers.tables import Look
from gradmend.theory.fates import Fate

LEAST_SCALE = 3.0
"""Decades that the widest bar stands for at least: smaller differences are everyday."""
MOST_ROWS = 12
LEAST_NAME = 12
"""Characters of a module's name that a table has room for at least."""
_DASH = "-"


def depth_table(rows: Sequence[Layer], look: Look) -> Table:
    """Gradient, update and units of each module; bars are decades below the largest gradient."""
    largest = max((r.log10_last for r in rows if math.isfinite(r.log10_last)), default=0.0)
    gaps = [math.nan if r.state else r.log10_last - largest for r in rows]
    wide = look.width >= 100
    columns: list[tuple[str, list[str]]] = [
        ("gradient" if not wide else "gradient now", [r.state or size(r.log10_last) for r in rows]),
        ("at first", [size(r.log10_first) for r in rows]),
        ("update" if not wide else "update/weight", [size(r.log10_ratio) for r in rows]),
        ("same" if not wide else "unchanged", [share(r.unchanged) for r in rows]),
        ("flat" if not wide else "saturated", [share(r.flat) for r in rows]),
        ("dead" if not wide else "dead units", [share(r.dead) for r in rows]),
    ]
    columns = [(title, cells) for title, cells in columns if any(c != _DASH for c in cells)]
    widths = [max(len(title), *map(len, cells)) for title, cells in columns]
    names = [look.say(r.name or "(the model)") for r in rows]
    least = min(max(len("module"), *map(len, names)), LEAST_NAME)
    # Where there is no room for the name, the last number gives way.
    while len(columns) > 1 and look.width - sum(widths) - 2 * len(widths) < least:
        columns.pop()
        widths.pop()
    figures = sum(widths) + 2 * len(widths)
    room = look.width - figures
    wanted = max(len("module"), *map(len, names))
    name_width = min(wanted, max(room - 10, min(room, LEAST_NAME)))
    room -= 2
    bar_width = min(room - name_width, 40)
    table = _table()
    table.add_column("module", width=name_width, no_wrap=True)
    for (title, _), width in zip(columns, widths, strict=True):
        table.add_column(title, width=width, justify="right", no_wrap=True)
    drawn = bar_width >= 6
    if drawn:
        title = "decades below the largest"
        table.add_column(title if bar_width >= len(title) else "", width=bar_width, no_wrap=True)
    worst = max([LEAST_SCALE, *(-gap for gap in gaps if math.isfinite(gap))])
    gaps = [-worst if math.isinf(gap) else gap for gap in gaps]
    for at, name in enumerate(names):
        cells = [Text(look.cut(name, name_width)), *(Text(cells[at]) for _, cells in columns)]
        if drawn:
            left = bar_width - 1
            cells.append(bar(gaps[at], left / worst, left, 0, look.glyphs))
        table.add_row(*cells)
    return table


def books_table(books: StepBooks, look: Look) -> Table:
    """The way of one step's gradient into the weights."""
    changes = [line.decades for line in books.lines if line.decades is not None]
    names = [look.say(line.what) for line in books.lines]
    name_width = min(max(map(len, names)) + 2, look.width - 24)
    bar_width = min(look.width - name_width - 24, 50)
    table = _table()
    table.add_column("", width=name_width, no_wrap=not look.narrow)
    table.add_column("norm", width=10, justify="right", no_wrap=True)
    table.add_column("decades", width=8, justify="right", no_wrap=True)
    title = "smaller < | > larger"
    if bar_width >= 6:
        shown = title if bar_width >= len(title) else ""
        table.add_column(shown, width=bar_width, no_wrap=True)
    pictures = iter(bars(changes, bar_width, look.glyphs))
    for line, name in zip(books.lines, names, strict=True):
        change = line.decades
        name = name if change is None else f"  {name}"
        cells = [
            Text(name if look.narrow else look.cut(name, name_width)),
            Text("" if line.log10 is None else size(line.log10)),
            Text("") if change is None else Text(numbers.decades(change), style=_side(change)),
        ]
        if bar_width >= 6:
            cells.append(Text("") if change is None else next(pictures))
        table.add_row(*cells, style="dim" if change is not None else None)
    return table


def fate_table(columns: Sequence[records.Column], fates: Sequence[Fate], look: Look) -> Table:
    """How many parameters met which fate, and the first of them."""
    table = _table()
    table.add_column("fate of the gradient", width=21, no_wrap=True)
    table.add_column("parameters", width=10, justify="right", no_wrap=True)
    wide = look.width >= 72
    if wide:
        table.add_column("entries", width=13, justify="right", no_wrap=True)
    room = look.width - 21 - 10 - 4 - 15 * wide
    if not look.narrow:
        table.add_column("which", width=room, no_wrap=True)
    for fate in Fate:
        mine = [c for c, f in zip(columns, fates, strict=True) if f is fate]
        if not mine:
            continue
        names = [look.say(column.name) for column in (mine[0], mine[-1])]
        which = names[0] if len(mine) == 1 else f"{names[0]} .. {names[1]}"
        entries = sum(column.size for column in mine)
        fine = fate in (Fate.APPLIED, Fate.FROZEN, Fate.UNKNOWN)
        cells = [Text(fate.value, style="" if fine else "yellow"), Text(f"{len(mine):,}")]
        cells += [Text(f"{entries:,}")] if wide else []
        cells += [] if look.narrow else [Text(look.cut(which, room))]
        table.add_row(*cells)
    return table


def attention_table(history: History, look: Look) -> Table | None:
    """The newest numbers of each attention call; ``None`` where there is none."""
    return _newest_table(
        history["attention"],
        [
            ("entropy", "entropy", share),
            ("largest prob.", "largest_share", share),
            ("largest logit", "largest_logit", numbers.number),
            ("rows masked", "masked_rows", share),
        ],
        look,
        "attention",
    )


def recurrence_table(history: History, look: Look) -> Table | None:
    """The newest numbers of each recurrent layer; ``None`` where there is none."""
    return _newest_table(
        history["recurrence"],
        [
            ("decades/step", "log10_gain", numbers.decades),
            ("first:last", "log10_span", numbers.decades),
            ("horizon", "horizon", numbers.number),
            ("radius", "spectral_radius", numbers.number),
            ("forget gate", "forget_gate", share),
        ],
        look,
        "recurrent layer",
    )


def size(log10: float) -> str:
    """A size given by its logarithm: ``3.2e-05``, ``0`` for none at all, ``-`` for unknown."""
    if math.isnan(log10):
        return _DASH
    if math.isinf(log10):
        return "0" if log10 < 0 else "inf"
    if abs(log10) >= 100:
        return f"10^{log10:.0f}"
    return f"{10.0**log10:.1e}"


def share(value: float) -> str:
    """A share as per cent: ``100 %``, ``0.4 %``; ``-`` for unknown."""
    if math.isnan(value):
        return _DASH
    if value == 0 or value >= 0.0995:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.2g} %" if value >= 0.0005 else "<0.1 %"


def _newest_table(
    source: records.Table, wanted: list[tuple[str, str, object]], look: Look, title: str
) -> Table | None:
    if not len(source) or not source.columns:
        return None
    shown = []
    for heading, quantity, say in wanted:
        cells = [_DASH if math.isnan(v) else say(v) for v in source.last(quantity)]  # type: ignore[operator]
        if any(cell != _DASH for cell in cells):
            shown.append((heading, cells))
    if not shown:
        return None
    names = [look.say(name or "(the model)") for name in source.names]
    wanted_width = max(len(title), *map(len, names))
    widths = [max(len(heading), *map(len, cells)) for heading, cells in shown]
    # Where there is no room for the name, the last number gives way.
    while len(shown) > 1 and look.width - sum(widths) - 2 * len(widths) < min(wanted_width, 16):
        shown.pop()
        widths.pop()
    name_width = min(wanted_width, look.width - sum(widths) - 2 * len(widths))
    table = _table()
    table.add_column(look.cut(title, name_width), width=name_width, no_wrap=True)
    for (heading, _), width in zip(shown, widths, strict=True):
        table.add_column(heading, width=width, justify="right", no_wrap=True)
    rows = range(len(names))
    kept = list(rows) if len(names) <= MOST_ROWS else [*rows[: MOST_ROWS - 2], *rows[-1:]]
    for at in kept:
        if at == kept[-1] and len(kept) < len(names):
            table.add_row(Text(f"... {len(names) - len(kept):,} more", style="dim"))
        table.add_row(Text(look.cut(names[at], name_width)), *(cells[at] for _, cells in shown))
    return table


def _side(decades: float) -> str:
    return LOSS if decades < -0.005 else GAIN if decades > 0.005 else ""


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
