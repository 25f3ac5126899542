"""Tells when a module has been imported, without importing it and without showing."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_IMPORT_MACHINERY = "<frozen importlib._bootstrap_external>"


def when_imported(name: str, callback: Callable[[], None]) -> None:
    """Call back once, right after a module's import has finished in this process.

    A failed import does not count, the next one does; nor does a child made by ``fork``. Until
    then a finder stands first in ``sys.meta_path``. It asks the other finders and hands on what
    they found, a spec with their own loader: only that loader's ``exec_module`` is replaced, on
    the object, until it has run. Modules whose loader is a class (built-in and frozen ones) are
    not noticed.

    Args:
        name: The module's full name; called back at once if it is imported already,
            or about to be.
        callback: Its failure is told in one line on stderr and never raised.
    """
    if name in sys.modules:
        _call(name, callback)
    else:
        sys.meta_path.insert(0, _Finder(name, callback))


class _Finder:
    """Finds nothing itself; marks what others find under one name."""

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self._name, self._callback = name, callback
        self._process = os.getpid()
        self._thread = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # Another finder may start the search anew, and so ask this one again.
        if fullname != self._name or getattr(self._thread, "asking", False):
            return None
        self._thread.asking = True
        try:
            spec = self._ask(fullname, path, target)
        finally:
            self._thread.asking = False
        if spec is not None:
            self._mark(spec.loader)
        return spec

    def _ask(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec: ModuleSpec | None = find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None

    def _mark(self, loader: Any) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None or isinstance(loader, type) or not hasattr(loader, "__dict__"):
            return
        marks = vars(loader)
        before = marks.get("exec_module")

        def exec_module(module: ModuleType) -> None:
            # One loader may serve a whole archive.
            mine = module.__name__ == self._name
            try:
                execute(module)
            finally:
                if mine and before is None:
                    marks.pop("exec_module", None)
            if mine:
                self._done()

        # Python cuts its import machinery out of the traceback of a failed import, by file name;
        # with that name this frame goes too, and the user sees what he would have seen.
        exec_module.__code__ = exec_module.__code__.replace(co_filename=_IMPORT_MACHINERY)
        marks["exec_module"] = exec_module

    def _done(self) -> None:
        if self not in sys.meta_path:
            return
        sys.meta_path.remove(self)
        if os.getpid() == self._process:
            _call(self._name, self._callback)


def _call(name: str, callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        with contextlib.suppress(Exception):  # nobody may be left to tell
            sys.stderr.write(
                f"gradmend: nothing is watched, as its set-up after the import of {name}"
                f" failed ({text})\n"
            )
