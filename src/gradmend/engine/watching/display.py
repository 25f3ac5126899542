"""A watch in a notebook: shown when the notebook asks, renewed while the cell trains.

IPython gives an output a name and can replace it later, over the channel that carries the output
itself: so the panel moves in Jupyter, VS Code and Colab alike, without a server, a port or widgets,
and on the training's own thread. Where nothing is shown, nothing is done.
"""

from __future__ import annotations

import importlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EVERY = 2.0
"""Seconds between two renewals, at least."""
SHARE = 0.2
"""Of the watching budget, once something is shown: 10 ms every few seconds at 2 %."""
MOST_SHOWN = 4
"""Outputs of one watch that are kept moving; of more the newest."""

Bundle = dict[str, str]
"""What is shown, by MIME type."""


class Display:
    """The outputs in which one watch is shown.

    Args:
        panel: Draws the training as it stands.
        page: Draws it when it is over.
        failed: Gets what went wrong; nothing is shown any more then.
        clock: Seconds.
    """

    def __init__(
        self,
        panel: Callable[[], Bundle],
        page: Callable[[], Bundle],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._panel, self._page, self._failed, self._clock = panel, page, failed, clock
        self._handles: list[Any] = []
        self._last = 0.0
        self._over = False

    @property
    def shown(self) -> bool:
        """Whether there is an output to renew."""
        return bool(self._handles)

    def due(self) -> bool:
        """Whether it is time to renew what is shown."""
        return bool(self._handles) and self._clock() - self._last >= EVERY

    def show(self) -> bool:
        """Show it here, in a notebook; elsewhere nothing is done and False returned."""
        if not renews():
            return False
        with _random_kept():
            display = importlib.import_module("IPython.display").display
            drawn = self._page() if self._over else self._panel()
            handle = display(drawn, raw=True, display_id=True)
        if not self._over:
            self._handles = [*self._handles, handle][-MOST_SHOWN:]
            self._last = self._clock()
        return True

    def renew(self) -> None:
        """Replace what is shown by how things stand now."""
        self._replace(self._panel)
        self._last = self._clock()

    def close(self) -> None:
        """Replace it by the whole page, for good."""
        self._over = True
        if self._handles:
            self._replace(self._page)
            self._handles = []

    def _replace(self, draw: Callable[[], Bundle]) -> None:
        try:
            with _random_kept():
                drawn = draw()
                for handle in self._handles:
                    handle.update(drawn, raw=True)
        except Exception as error:  # of ours or of the notebook: never the training's affair
            self._handles = []
            self._failed(error)


def renews() -> bool:
    """Whether this is a notebook, whose outputs can be replaced.

    IPython in a terminal is none: it would print every renewal below the last.
    """
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is None:
        return False
    return all(kind.__name__ != "TerminalInteractiveShell" for kind in type(shell).__mro__)


@contextmanager
def _random_kept() -> Iterator[None]:
    """Whatever is imported or named on the way, the user's random sequence goes on as before."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
