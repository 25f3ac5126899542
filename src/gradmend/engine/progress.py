"""What long work says of itself while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextmanager
def shown_progress() -> Iterator[Callable[[str, float | None], None]]:
    """A live line on stderr saying what is going on; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    # Elsewhere even a transient one leaves an empty line, where an error must be one line alone.
    disabled = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disabled) as progress:
        task = progress.add_task("", total=None)

        def tell(text: str, share: float | None) -> None:
            total = None if share is None else 1.0
            progress.update(task, description=escape(text), total=total, completed=share or 0.0)

        yield tell
