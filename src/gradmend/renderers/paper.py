"""Lines of rich text as a plain string, with or without colour codes."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType

from gradmend.renderers.tables import NARROWEST, WIDEST, Look


def on_paper(parts: Iterable[RenderableType], *, width: int, colour: bool) -> str:
    """Draw parts one below the other.

    Args:
        parts: What to draw.
        width: Columns; what is wider is wrapped.
        colour: Whether to send colour codes.

    Returns:
        Lines ending in newlines, without blanks at their ends.
    """
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(part, soft_wrap=False, highlight=False, markup=False, emoji=False)
    return "".join(line.rstrip() + "\n" for line in file.getvalue().splitlines())


def drawn(
    parts: Callable[[Look], Iterable[RenderableType]],
    *,
    width: int | None,
    colour: bool | None,
    ascii: bool | None,
) -> str:
    """Draw parts as suits this process's own output, where nothing else is asked for.

    Args:
        parts: Makes what is to be drawn, for a look.
        width: Columns, held between 60 and 160; by default those of the terminal.
        colour: Whether to send colour codes; by default only to a terminal, and not where
            ``NO_COLOR`` is set.
        ascii: Whether to keep to ASCII; by default where the output is no terminal that takes
            more, unless colour is asked for.
    """
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if ascii is None:
        unicode = "utf" in (getattr(sys.stdout, "encoding", "") or "").lower()
        ascii = not (colour or (terminal and unicode))
    if colour is None:
        colour = terminal and not os.environ.get("NO_COLOR")
    if width is None:
        width = shutil.get_terminal_size((80, 24)).columns
    look = Look(min(max(width, NARROWEST), WIDEST), ascii)
    return on_paper(parts(look), width=look.width, colour=colour)
