"""Lines of rich text as a plain string, with or without colour codes."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, RenderableType


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
