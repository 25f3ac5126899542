"""What long work says of itself while it goes on: what is done, how much of it, how long yet."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from gradmend.engine.watching.display import renews

Report = Callable[[str, float | None], None]
"""Told what is going on, and the share of the work or of its budget that is done, if known."""

FIRST_WORD = 2.0
"""Seconds before a pace is believed."""
FIRST_SHARE = 0.01
"""Share of the work before a pace is believed: what comes first says little of the rest."""
BELIEF = 0.15
"""Of a new estimate of the time left, in the one that is shown: it must not jump about."""
BAR = 16
"""Characters of the bar."""
ROOM_FOR_BAR = 70
"""Columns from which there is one."""
EVERY = 1.0
"""Seconds between two renewals in a notebook."""


@dataclass(slots=True)
class Pace:
    """How long yet, from the share that is done and the time it took."""

    clock: Callable[[], float] = time.monotonic
    began: float = 0.0
    """When this stretch of the work began; without shares, the last word of it."""
    first: float = 0.0
    """Share at the beginning of this stretch."""
    share: float | None = None
    ends: float | None = None
    """When it should be done, as last believed."""

    def __post_init__(self) -> None:
        self.began = self.clock()

    def tell(self, share: float | None) -> None:
        """So much is done. Less than before is another piece of work, counted anew."""
        now = self.clock()
        if share is None or self.share is None or share < self.share - 1e-9:
            self.began, self.first, self.ends = now, share or 0.0, None
        self.share = share
        done = 0.0 if share is None else share - self.first
        took = now - self.began
        if share is None or done < FIRST_SHARE or took < FIRST_WORD:
            return
        ends = now + took * (1.0 - share) / done
        self.ends = ends if self.ends is None else self.ends + BELIEF * (ends - self.ends)

    @property
    def left(self) -> float | None:
        """Seconds left; ``None`` while nobody can know."""
        return None if self.ends is None else max(0.0, self.ends - self.clock())


def left_words(seconds: float | None) -> str:
    """``about 40 s left``; in steps that a person can follow, empty where not known.

    Example:
        >>> left_words(38.2), left_words(3.0), left_words(130.0), left_words(4000.0)
        ('about 40 s left', 'a few seconds left', 'about 2 min left', 'about 1 h 5 min left')
    """
    if seconds is None:
        return ""
    if seconds < 5:
        return "a few seconds left"
    if seconds < 100:
        step = 5 if seconds < 60 else 10
        return f"about {max(step, round(seconds / step) * step)} s left"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min left"
    return f"about {minutes // 60} h {round(minutes % 60 / 5) * 5 % 60} min left"


def line(
    text: str,
    share: float | None,
    elapsed: float,
    left: float | None,
    *,
    width: int = 80,
    ascii: bool = False,
) -> str:
    """One line: what is done, a bar, the share, and the time left; never wider than ``width``."""
    told = "".join(letter if letter.isprintable() else "?" for letter in text)
    told = told.encode("ascii", "replace").decode() if ascii else told
    if share is None:
        tail = f"{elapsed:.0f} s" if elapsed >= FIRST_WORD else ""
    else:
        done = min(max(share, 0.0), 1.0)
        filled = round(done * BAR)
        full, empty = ("#", ".") if ascii else ("\N{BOX DRAWINGS HEAVY HORIZONTAL}", " ")
        bar = f"{full * filled}{empty * (BAR - filled)}  " if width >= ROOM_FOR_BAR else ""
        words = left_words(left)
        tail = f"{bar}{100 * done:.0f} %" + (f", {words}" if words else "")
    mark = "..." if ascii else "\N{HORIZONTAL ELLIPSIS}"
    room = width - len(tail) - 2
    if len(told) > room:
        told = told[: max(room - len(mark), 0)] + mark
    return f"{told}  {tail}".rstrip()[:width]


class _Line(ProgressColumn):
    """The whole line as one column, so that nothing of it can wrap."""

    def __init__(self, console: Console, pace: Pace) -> None:
        super().__init__()
        self.console, self.pace = console, pace

    def render(self, task: Task) -> Text:
        drawn = line(
            task.description,
            self.pace.share,
            self.pace.clock() - self.pace.began,
            self.pace.left,
            width=self.console.width - 3,
            ascii=self.console.options.ascii_only,
        )
        return Text(drawn, no_wrap=True, overflow="crop")


@contextmanager
def shown_progress() -> Iterator[Report]:
    """A live line where somebody looks on, erased at the end.

    On stderr where that is a terminal that can erase, in the cell where this is a notebook, and
    nowhere else: even a transient line leaves an empty one in a file, where an error must be one
    line alone. So ``FORCE_COLOR`` does not bring it into a pipe.
    """
    if renews():
        with _in_notebook() as tell:
            yield tell
        return
    if not _terminal():
        yield lambda text, share: None
        return
    console = Console(stderr=True, color_system=None if os.environ.get("NO_COLOR") else "auto")
    pace = Pace()
    spinner = SpinnerColumn("line" if console.options.ascii_only else "dots")
    with Progress(spinner, _Line(console, pace), console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def tell(text: str, share: float | None) -> None:
            pace.tell(share)
            progress.update(task, description=text)

        yield tell


def _terminal() -> bool:
    """Whether stderr itself is a terminal that knows how to erase a line."""
    console = Console(stderr=True)
    return sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal


@contextmanager
def _in_notebook() -> Iterator[Report]:
    """The same line in the cell that works, taken away when it is done."""
    display = importlib.import_module("IPython.display").display
    pace = Pace()
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    last = pace.began

    def tell(text: str, share: float | None) -> None:
        nonlocal last
        pace.tell(share)
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            drawn = line(text, share, now - pace.began, pace.left, width=100)
            handle.update({"text/plain": drawn}, raw=True)

    try:
        yield tell
    finally:
        handle.update({"text/plain": ""}, raw=True)
