"""How a script ended, and how to end the process in that way."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn

SIGINT_STATUS = 130
"""What a shell reports of a process that SIGINT killed: 128 + 2."""


@dataclass(frozen=True)
class Outcome:
    """How a script ended.

    Args:
        status: Exit status, as handed to the operating system (which keeps the lowest 8 bits);
            130 where SIGINT ends the process.
        how: ``"finished"`` at the end of its code, ``"exited"`` by :class:`SystemExit`,
            ``"raised"`` by another exception, ``"interrupted"`` by ``KeyboardInterrupt``.
        error: What was raised; its traceback begins at the script's own first frame.
    """

    status: int
    how: Literal["finished", "exited", "raised", "interrupted"]
    error: BaseException | None = None


def conclude(error: BaseException | None) -> Outcome:
    """Say on stderr what Python says of an exception nobody caught, in Python's own words.

    The script's ``sys.excepthook`` is honoured, and ``sys.last_value`` and its like are set.

    Args:
        error: What the script raised; ``None`` if it came to its end.

    Returns:
        The outcome. A second one may follow from it: an ``excepthook`` may call ``sys.exit``.
    """
    if error is None:
        return Outcome(0, "finished")
    if isinstance(error, SystemExit):
        return Outcome(_status_of(error), "exited", error)
    status = _display(error)
    # Only KeyboardInterrupt itself: Python lets its subclasses end like any exception.
    if type(error) is KeyboardInterrupt:
        return Outcome(SIGINT_STATUS, "interrupted", error)
    return Outcome(status, "raised", error)


def finish(outcome: Outcome) -> NoReturn:
    """End the process as Python would have after such a script.

    Threads are waited for and ``atexit`` handlers run, as always. Call it where nothing catches
    what it raises.

    Raises:
        SystemExit: With the outcome's status.
        KeyboardInterrupt: If the script was interrupted. Python answers by killing itself with
            SIGINT after its clean-up, so that a shell sees the signal and stops its loop too.
    """
    if outcome.how != "interrupted":
        raise SystemExit(outcome.status)
    error = outcome.error or KeyboardInterrupt()
    shown, their_hook = error.__traceback__, sys.excepthook

    def quiet(*_: object) -> None:  # the traceback is on the screen already
        sys.excepthook = their_hook
        _remember(error.with_traceback(shown))

    sys.excepthook = quiet
    raise error


def _status_of(error: SystemExit) -> int:
    """The status of ``sys.exit(code)``; any code but a number is printed, and means 1."""
    code: object = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code)
    _say(lambda: str(code) + "\n")
    return 1


def _display(error: BaseException) -> int:
    """What ``PyErr_Print`` does with an exception; the exit status that follows from it."""
    _remember(error)
    hook: Callable[..., Any] | None = getattr(sys, "excepthook", None)
    if hook is None:
        _say(lambda: "sys.excepthook is missing\n")
        sys.__excepthook__(type(error), error, error.__traceback__)
        return 1
    try:
        hook(type(error), error, error.__traceback__)
    except SystemExit as stop:
        return _status_of(stop)
    except BaseException as second:
        first_frame = second.__traceback__
        trace = first_frame.tb_next if first_frame is not None else None
        _say(lambda: "Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second.with_traceback(trace), trace)
        _say(lambda: "\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, error.__traceback__)
    return 1


def _remember(error: BaseException) -> None:
    """What debuggers and exit handlers look at: ``sys.last_value`` and its like."""
    trace: TracebackType | None = error.__traceback__
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error


def _say(text: Callable[[], str]) -> None:
    """Write to stderr; a missing or broken stderr, or an object without text, stops nothing."""
    with contextlib.suppress(Exception):
        sys.stderr.write(text())
        sys.stderr.flush()
