"""Lines of rich text as a plain string, with or without colour codes."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType
from rich.text import Text

from gradmend.renderers.tables import NARROWEST, WIDEST, Look, wants_ascii


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
        force_jupyter=False,  # in a notebook rich would show each part there, and write nothing
        color_system="standard" if colour else None,
        no_color=not colour,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(part, soft_wrap=False, highlight=False, markup=False, emoji=False)
    return "".join(_trimmed(line) + "\n" for line in file.getvalue().splitlines())


def _trimmed(line: str) -> str:
    """A line without the blanks at its end, though colour codes stand between them."""
    return re.sub(r"(?:[ ]|\x1b\[[0-9;]*m)+$", lambda end: end[0].replace(" ", ""), line)


def takes_colour(console: Console) -> bool:
    """Whether a console is a terminal with colours, and ``NO_COLOR`` is not set."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def screen(*, stderr: bool = False) -> Console:
    """A console for results; where ``NO_COLOR`` is set it sends no codes at all, bold neither."""
    console = Console(stderr=stderr, force_jupyter=False)
    return (
        console
        if takes_colour(console)
        else Console(stderr=stderr, force_jupyter=False, color_system=None)
    )


def put(console: Console, parts: Iterable[RenderableType], look: Look) -> None:
    """Print parts as they are laid out for a look, without blanks at the ends of lines."""
    colour = takes_colour(console)
    drawn = on_paper(parts, width=look.width, colour=colour).removesuffix("\n")
    text = Text.from_ansi(drawn) if colour else Text(drawn)
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


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
        width: Columns, held between 40 and 160; by default those of the terminal.
        colour: Whether to send colour codes; by default only to a terminal, and not where
            ``NO_COLOR`` is set.
        ascii: Whether to keep to ASCII; by default where the output is no terminal that takes
            more, unless colour is asked for.
    """
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if ascii is None:
        unicode = "utf" in (getattr(sys.stdout, "encoding", "") or "").lower()
        ascii = not (colour or (terminal and unicode and not wants_ascii()))
    if colour is None:
        colour = terminal and not os.environ.get("NO_COLOR")
    if width is None:
        width = shutil.get_terminal_size((80, 24)).columns
    look = Look(min(max(width, NARROWEST), WIDEST), ascii)
    return on_paper(parts(look), width=look.width, colour=colour)
