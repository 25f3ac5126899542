"""The ledger as tables for a terminal: by cause, and over depth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from gradmend.records.ledger import Ledger
from gradmend.renderers import numbers
from gradmend.renderers.bars import ASCII, BLOCKS, GAIN, LOSS, Glyphs, bars
from gradmend.renderers.grouping import Row, depth_rows
from gradmend.renderers.places import what, where
from gradmend.renderers.visible import shorten, to_ascii, visible

NARROWEST, WIDEST = 40, 160
"""Columns a view is laid out for; wider terminals get the widest."""
NARROW = 60
"""Columns below which a table keeps only what it is there for."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a view is drawn: columns, and whether ASCII must do."""

    width: int = 80
    ascii: bool = False

    @classmethod
    def of(cls, console: Console, *, ascii: bool | None = None) -> Look:
        """The look that suits a console: its width, and what it takes beyond ASCII.

        A pipe gets ASCII, as whatever reads it may take nothing else.
        """
        if ascii is None:
            ascii = not console.is_terminal or console.options.ascii_only or wants_ascii()
        return cls(min(max(console.width, NARROWEST), WIDEST), ascii)

    @property
    def narrow(self) -> bool:
        """Whether there is room for what matters most only."""
        return self.width < NARROW

    @property
    def glyphs(self) -> Glyphs:
        """The characters that pictures are made of."""
        return ASCII if self.ascii else BLOCKS

    def say(self, text: object) -> str:
        """One safe line of text, in ASCII where that is all there is."""
        shown = visible(text)
        return to_ascii(shown) if self.ascii else shown

    def cut(self, text: object, width: int) -> str:
        """A safe line of text of at most ``width`` characters."""
        return shorten(self.say(text), width, mark=self.glyphs.ellipsis)


def wants_ascii() -> bool:
    """Whether the user's locale is the C one, which Python itself takes for UTF-8 (PEP 538)."""
    of_python = ("", "C.UTF-8", "C.utf8", "UTF-8")
    kind = os.environ.get("LC_CTYPE", "")
    kind = "" if kind in of_python else kind
    return (os.environ.get("LC_ALL") or kind or os.environ.get("LANG", "")) in ("C", "POSIX")


def ledger_table(
    ledger: Ledger, *, width: int = 80, ascii: bool = False, rows: int = 24
) -> RenderableType:
    """The books of a ledger: by cause, then over depth with like entries grouped.

    Args:
        ledger: The books; without a root only the causes are shown.
        width: Columns to fill, 40 to 160.
        ascii: Draw with ASCII characters only.
        rows: Most rows of the table over depth.
    """
    look = Look(min(max(width, NARROWEST), WIDEST), ascii)
    parts: list[RenderableType] = []
    if ledger.by_cause:
        parts += [cause_table(ledger, look), Text()]
    if ledger.root is not None:
        parts.append(depth_table(depth_rows(ledger.root, limit=rows), look))
    return Stack(*parts)


def cause_table(ledger: Ledger, look: Look) -> Table:
    """Decades by cause: measured beside predicted, and a bar."""
    causes = sorted(ledger.by_cause.items(), key=lambda item: item[1])
    figure_columns = 11 if look.narrow else 2 * 11
    name_width = max(16, *(len(look.say(cause)) + 1 for cause, _ in causes))
    name_width = min(name_width, look.width - figure_columns - (7 if look.narrow else 10))
    table = _table()
    table.add_column("by cause", width=name_width, no_wrap=True)
    table.add_column("measured", width=10, justify="right", no_wrap=True)
    if not look.narrow:
        table.add_column("predicted", width=10, justify="right", no_wrap=True)
    bar_width = look.width - name_width - figure_columns - 2
    table.add_column(_bar_title(bar_width, look), width=bar_width, no_wrap=True)
    pictures = bars([value for _, value in causes], bar_width, look.glyphs)
    for (cause, value), picture in zip(causes, pictures, strict=True):
        predicted = ledger.predicted_by_cause.get(cause)
        table.add_row(
            Text(look.cut(cause, name_width)),
            _signed(value),
            *_predicted(predicted, look),
            picture,
        )
    table.add_row(
        Text("total", style="bold"),
        Text(numbers.decades(ledger.total_decades), style="bold"),
        *_predicted(ledger.predicted_decades, look),
        Text("decades" if bar_width >= len("decades") else "", style="dim"),
    )
    return table


def _predicted(value: float | None, look: Look) -> list[Text]:
    """The cell beside a measured figure, where there is room for one."""
    if look.narrow:
        return []
    return [Text("" if value is None else numbers.decades(value), style="dim")]


def depth_table(rows: Sequence[Row], look: Look) -> Table:
    """Decades over depth in forward order, like entries grouped."""
    where_all = [look.say("  " * row.level + where(row)) for row in rows]
    what_all = [look.say(what(row.group)) for row in rows]
    wide = look.width >= 100
    each = any(row.group.repeats > 1 for row in rows) and not look.narrow
    figures = 10 * (1 + each + wide)
    drawn = not look.narrow
    bars_room = max(look.width // 6, 12) if drawn else 0
    room = look.width - figures - 3 - bars_room
    widest_where = max(map(len, [*where_all, "where"]))
    widest_what = max(map(len, [*what_all, "what"]))
    where_width = min(widest_where, max(room // 2, room - widest_what))
    what_width = min(widest_what, room - where_width)
    bar_width = min(look.width - figures - where_width - what_width - 3, 60)
    table = _table()
    table.add_column("where", width=where_width, no_wrap=True)
    table.add_column("what", width=what_width, no_wrap=True)
    table.add_column("decades", width=9, justify="right", no_wrap=True)
    if each:
        table.add_column("each", width=9, justify="right", no_wrap=True)
    if wide:
        table.add_column("predicted", width=9, justify="right", no_wrap=True)
    if drawn:
        table.add_column(_bar_title(bar_width, look), width=bar_width, no_wrap=True)
    pictures = bars([row.group.decades for row in rows], max(bar_width, 3), look.glyphs)
    for row, place, thing, picture in zip(rows, where_all, what_all, pictures, strict=True):
        group = row.group
        mean = numbers.decades(group.per_repeat) if group.repeats > 1 else ""
        predicted = "" if group.predicted is None else numbers.decades(group.predicted)
        cells = [
            Text(shorten(place, where_width, mark=look.glyphs.ellipsis)),
            Text(shorten(thing, what_width, mark=look.glyphs.ellipsis)),
            _signed(group.decades),
        ]
        if each:
            cells.append(Text(mean, style="dim"))
        if wide:
            cells.append(Text(predicted, style="dim"))
        cells += [picture] if drawn else []
        table.add_row(*cells, style="dim" if row.level else None)
    return table


def _table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")


def _signed(value: float) -> Text:
    style = LOSS if value < -0.005 else GAIN if value > 0.005 else ""
    return Text(numbers.decades(value), style=style)


def _bar_title(width: int, look: Look) -> str:
    arrows = "loss < | > gain"
    return arrows if width >= len(arrows) else ""
