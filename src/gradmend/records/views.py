"""How a record shows itself in a notebook, though whoever draws it stands above it.

A notebook asks the object itself (``_repr_html_``, ``_repr_pretty_``), so the methods stand on the
records; but records know nothing of renderers, and imports go downward only. So the package itself,
which is imported before any part of it and already knows every room by name, leaves here a way to
the drawing; it is followed when something is first shown. The methods are those that every notebook
asks for, so nothing needs to be registered with IPython, which need not be there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gradmend.records.finding import Finding
    from gradmend.records.history import History
    from gradmend.records.report import Report


class Views(Protocol):
    """What a notebook shows."""

    def page(
        self,
        report: Report,
        history: History | None = None,
        *,
        folder: str = "",
        kept: str = "",
    ) -> str:
        """HTML: the whole page in a frame, and its words for where frames are taken out.

        Args:
            report: What to show.
            history: The run, where it is a report on one.
            folder: Where the run can be read while this is drawn.
            kept: Where it can be read afterwards, if it can.
        """

    def words(self, report: Report, history: History | None = None) -> str:
        """The same as plain text."""

    def panel(self, history: History, findings: list[Finding]) -> str:
        """HTML: a training as it stands, small."""

    def panel_words(self, history: History, findings: list[Finding]) -> str:
        """The same as plain text, in a few lines."""


class Printer(Protocol):
    """What IPython hands to ``_repr_pretty_``."""

    stack: list[int]

    def text(self, words: str) -> None:
        """Print."""


_find: Callable[[], Views] | None = None


def set_views(find: Callable[[], Views]) -> None:
    """Say where the drawing is; it is asked for when something is first shown."""
    global _find
    _find = find


def views() -> Views:
    """The drawing. What is imported for it may draw random numbers; the user's go on as before."""
    if _find is None:  # the package's own __init__ sets it
        raise RuntimeError("nobody has said how records are shown")
    state = random.getstate()
    try:
        return _find()
    finally:
        random.setstate(state)


def print_pretty(printer: Printer | Any, words: Callable[[], str], name: str) -> None:
    """Answer IPython's ``_repr_pretty_``: in full on its own, by name inside of something else."""
    printer.text(words() if len(printer.stack) <= 1 else f"<{name}>")
